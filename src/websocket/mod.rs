//! stub until the driver branch is merged
pub mod frame {
    use bytes::Bytes;
    pub fn push_text(out: &mut Vec<u8>, p: &[u8]) {
        push(out, 1, p)
    }
    fn push(out: &mut Vec<u8>, op: u8, p: &[u8]) {
        let n = p.len();
        if n < 126 {
            out.extend_from_slice(&[0x80 | op, n as u8]);
        } else if n < 65536 {
            out.extend_from_slice(&[0x80 | op, 126, (n >> 8) as u8, n as u8]);
        } else {
            out.extend_from_slice(&[0x80 | op, 127]);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
        out.extend_from_slice(p);
    }
    pub fn push_binary(out: &mut Vec<u8>, p: &[u8]) {
        push(out, 2, p)
    }
    pub fn ping() -> Bytes {
        Bytes::from_static(&[0x89, 0])
    }
    pub fn pong(p: &[u8]) -> Bytes {
        let mut v = vec![];
        push(&mut v, 10, p);
        v.into()
    }
    pub fn close_frame(code: u16, reason: &str) -> Bytes {
        let mut v = vec![];
        let mut b = code.to_be_bytes().to_vec();
        b.extend_from_slice(reason.as_bytes());
        push(&mut v, 8, &b);
        v.into()
    }
}
pub mod upgrade {
    use super::Request;
    use bytes::Bytes;
    pub fn switching_protocols(_r: &Request, _s: Option<&str>) -> Bytes {
        Bytes::from_static(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    }
    pub fn refusal(status: u16, code: &str, message: &str, _h: &[(&str, &str)]) -> Bytes {
        format!("HTTP/1.1 {status} x\r\n\r\n{code} {message}").into()
    }
}
pub enum Event<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    Close { code: Option<u16>, reason: &'a str },
    Violation { code: u16, reason: &'static str },
}
#[derive(Clone, Debug)]
pub struct Request {
    pub peer: std::net::SocketAddr,
    pub path: String,
    pub query: String,
    pub host: Option<String>,
    pub origin: Option<String>,
    pub authorization: Option<String>,
    pub subprotocols: Vec<String>,
    pub answered: bool,
}
impl Request {
    pub fn query_value(&self, name: &str) -> Option<String> {
        self.query.split('&').find_map(|kv| kv.strip_prefix(name)?.strip_prefix('=').map(String::from))
    }
}
impl Default for Request {
    fn default() -> Request {
        Request {
            peer: ([0, 0, 0, 0], 0).into(),
            path: String::new(),
            query: String::new(),
            host: None,
            origin: None,
            authorization: None,
            subprotocols: vec![],
            answered: false,
        }
    }
}
