//! Clients for the tests: HTTP with keep-alive, WebSocket through tungstenite, and WebSocket byte by byte.

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Error, Message};

/// How long a test waits for anything before it fails. It is long because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The headers that request a WebSocket.
pub const UPGRADE_HEADERS: Headers<'static> =
    &[("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", KEY)];

pub type Headers<'a> = &'a [(&'a str, &'a str)];

/// The example key of RFC 6455, section 1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Waits for a future, and panics with `what` after [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    pub token: String,
}

// ── HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&self.body)))
    }

    /// Checks the status and returns the body.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The status and the error code. Panics if the body is not an error.
    #[track_caller]
    pub fn error(&self) -> (u16, String) {
        let body = self.json();
        let code = body["error"]["code"].as_str().unwrap_or_else(|| panic!("{body} is not an error"));
        assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
        (self.status, code.to_owned())
    }
}

/// An HTTP connection that is reused for each request.
pub struct Http {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Http {
    pub async fn connect(port: u16) -> io::Result<Http> {
        let stream = within("connected", TcpStream::connect(("127.0.0.1", port))).await?;
        stream.set_nodelay(true)?;
        Ok(Http::over(stream))
    }

    /// A fresh connection, or one that has already served a request. On the former a shard answers an upgrade, on the
    /// latter the HTTP service does.
    pub async fn fresh_or_reused(port: u16, is_reused: bool) -> Http {
        let mut http = Http::connect(port).await.expect("no connection");
        if is_reused {
            http.request("GET", "/healthz", &[], None).await.expect("an answer").expect(200);
        }
        http
    }

    pub fn over(stream: TcpStream) -> Http {
        Http { stream, unread: Vec::new() }
    }

    /// The raw connection, after an answer with status 101.
    pub fn into_raw(self) -> Raw {
        Raw { stream: self.stream, unread: self.unread }
    }

    /// Sends a request and receives its answer.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> io::Result<Response> {
        self.send(method, path, headers, body).await?;
        self.receive().await
    }

    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> io::Result<()> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        let body = body.map(ToString::to_string);
        if let Some(body) = &body {
            request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        request += "\r\n";
        request += body.as_deref().unwrap_or_default();
        self.write(request.as_bytes()).await
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        within("written", self.stream.write_all(bytes)).await
    }

    /// Receives the next answer.
    pub async fn receive(&mut self) -> io::Result<Response> {
        let (mut response, length) = loop {
            if let Some(head) = parse_head(&self.unread) {
                break head;
            }
            self.read().await?;
        };
        self.unread.drain(..length);
        let has_body = !(100..200).contains(&response.status) && response.status != 204;
        if has_body {
            assert_eq!(response.header("Transfer-Encoding"), None, "this client needs a Content-Length");
            let length = response.header("Content-Length").map_or(0, |length| length.parse().expect("a number"));
            while self.unread.len() < length {
                self.read().await?;
            }
            response.body = self.unread.drain(..length).collect();
        }
        Ok(response)
    }

    async fn read(&mut self) -> io::Result<()> {
        match within("an answer", self.stream.read_buf(&mut self.unread)).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Requests an upgrade to WebSocket, with the headers of RFC 6455 and these. Err: the answer that rejects it.
    pub async fn upgrade(mut self, path: &str, headers: &[(&str, &str)]) -> Result<(Raw, Response), Response> {
        let all = [UPGRADE_HEADERS, headers].concat();
        let response = self.request("GET", path, &all, None).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        if response.status != 101 {
            return Err(response);
        }
        assert_eq!(response.header("Sec-WebSocket-Accept"), Some(derive_accept_key(KEY.as_bytes()).as_str()));
        assert!(response.header("Upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")));
        assert!(response.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")));
        Ok((self.into_raw(), response))
    }
}

fn parse_head(bytes: &[u8]) -> Option<(Response, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return None,
        Err(error) => panic!("{error}: {}", String::from_utf8_lossy(bytes)),
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = response.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect();
    Some((Response { status: response.code.expect("a status"), headers, body: Vec::new() }, length))
}

// ── WebSocket ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// What a WebSocket receives.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    Text(String),
    Binary(Vec<u8>),
    /// A close frame: code and reason.
    Closed(Option<u16>, String),
    /// The connection ended without a close frame.
    Aborted,
}

/// The WebSocket of a well-behaved client. It answers pings while it is read.
pub struct Ws {
    stream: WebSocketStream<TcpStream>,
    /// The first frame, `joined`.
    pub joined: Value,
}

impl Ws {
    /// Connects to `/ws?<query>` and reads the first frame. Err: the upgrade was rejected, or the connection ended.
    pub async fn join(port: u16, token: &str, query: &str) -> Result<Ws, Box<Error>> {
        let stream = within("connected", TcpStream::connect(("127.0.0.1", port))).await.map_err(Error::from)?;
        stream.set_nodelay(true).map_err(Error::from)?;
        let mut request = format!("ws://localhost:{port}/ws?{query}").into_client_request()?;
        let bearer = format!("Bearer {token}").parse().expect("a valid header value");
        request.headers_mut().insert("Authorization", bearer);
        let (stream, _) = within("upgraded", tokio_tungstenite::client_async(request, stream)).await?;
        let mut ws = Ws { stream, joined: Value::Null };
        match ws.next().await {
            Received::Text(text) => ws.joined = serde_json::from_str(&text).expect("JSON"),
            other => {
                let error = format!("received {other:?} instead of the first frame");
                return Err(Error::Io(io::Error::other(error)).into());
            }
        }
        assert_eq!(ws.joined["type"], "joined");
        Ok(ws)
    }

    pub fn epoch(&self) -> String {
        self.joined["epoch"].as_str().expect("an epoch").to_owned()
    }

    pub fn offset(&self) -> u64 {
        self.joined["offset"].as_u64().expect("an offset")
    }

    /// Sends a text frame.
    pub async fn send(&mut self, text: impl Into<String>) {
        self.try_send(text).await.expect("sent");
    }

    pub async fn try_send(&mut self, text: impl Into<String>) -> Result<(), Box<Error>> {
        Ok(within("sent", self.stream.send(Message::text(text.into()))).await?)
    }

    /// The next message, close frame or end.
    pub async fn next(&mut self) -> Received {
        within("a frame on the WebSocket", self.next_without_limit()).await
    }

    /// Waits without a time limit. It is cancel safe: dropping the future loses nothing.
    pub async fn next_without_limit(&mut self) -> Received {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => return Received::Text(text.to_string()),
                Some(Ok(Message::Binary(bytes))) => return Received::Binary(bytes.into()),
                Some(Ok(Message::Close(frame))) => {
                    // Sends the close frame in reply.
                    let _ = self.stream.flush().await;
                    return match frame {
                        Some(frame) => Received::Closed(Some(frame.code.into()), frame.reason.to_string()),
                        None => Received::Closed(None, String::new()),
                    };
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(Error::ConnectionClosed | Error::Io(_) | Error::Protocol(_))) | None => {
                    return Received::Aborted;
                }
                Some(Err(error)) => panic!("{error}"),
            }
        }
    }

    /// The next frame as text.
    pub async fn text(&mut self) -> String {
        match self.next().await {
            Received::Text(text) => text,
            other => panic!("received {other:?} instead of a text frame"),
        }
    }

    /// The next event.
    pub async fn event(&mut self) -> Value {
        serde_json::from_str(&self.text().await).expect("JSON")
    }

    /// The offset and text of the next event, which must be a message.
    pub async fn message(&mut self) -> (u64, String) {
        let event = self.event().await;
        assert_eq!(event["type"], "message", "{event}");
        (event["offset"].as_u64().expect("an offset"), event["text"].as_str().expect("a text").to_owned())
    }

    /// The code and id of the next event, which must be an error.
    pub async fn error(&mut self) -> (u64, Option<String>) {
        let event = self.event().await;
        assert_eq!(event["type"], "error", "{event}");
        assert!(event["message"].as_str().is_some_and(|message| !message.is_empty()), "{event}");
        (event["code"].as_u64().expect("a code"), event["id"].as_str().map(ToOwned::to_owned))
    }

    /// Reads up to the close frame and returns its code.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            match self.next().await {
                Received::Closed(code, _) => return code,
                Received::Aborted => panic!("the connection ended without a close frame"),
                Received::Text(_) | Received::Binary(_) => {}
            }
        }
    }

    /// Sends a message and waits until it comes back. Everything sent before has then been processed.
    pub async fn round_trip(&mut self, text: &str) -> (u64, String) {
        self.send(text).await;
        self.message().await
    }
}

// ── WebSocket, byte by byte ─────────────────────────────────────────────────────────────────────────────────────────

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;
pub const FIN: u8 = 0x80;

/// A received frame.
#[derive(Debug, PartialEq)]
pub struct Frame {
    /// FIN, the reserved bits and the opcode.
    pub first: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a close frame.
    #[track_caller]
    pub fn close_code(&self) -> u16 {
        assert_eq!(self.first, FIN | CLOSE, "{self:?} is not a close frame");
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }
}

/// A WebSocket on which a test can send any bytes.
pub struct Raw {
    pub stream: TcpStream,
    pub unread: Vec<u8>,
}

impl Raw {
    /// Connects to `/ws?<query>`. The first frame is not read yet.
    pub async fn join(port: u16, token: &str, query: &str) -> Raw {
        Raw::open(port, &format!("/ws?{query}"), &[("Authorization", &format!("Bearer {token}"))]).await
    }

    pub async fn open(port: u16, path: &str, headers: &[(&str, &str)]) -> Raw {
        let http = Http::connect(port).await.expect("no connection");
        match http.upgrade(path, headers).await {
            Ok((raw, _)) => raw,
            Err(response) => panic!("{path}: {response:?}"),
        }
    }

    pub async fn into_ws(self) -> Ws {
        let stream = WebSocketStream::from_partially_read(self.stream, self.unread, Role::Client, None).await;
        Ws { stream, joined: Value::Null }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        within("written", self.stream.write_all(bytes)).await.expect("written");
    }

    /// The next frame. None: the connection has ended.
    pub async fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = take_frame(&mut self.unread) {
                return Some(frame);
            }
            match within("a frame", self.stream.read_buf(&mut self.unread)).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next frame. Panics if the connection has ended.
    pub async fn frame(&mut self) -> Frame {
        self.receive().await.expect("the connection has ended")
    }

    /// Waits until the connection has ended. Panics if another frame arrives.
    pub async fn expect_end(&mut self) {
        if let Some(frame) = self.receive().await {
            panic!("received {frame:?} instead of the end");
        }
    }
}

/// Takes the first frame of a server off the bytes, if it is complete.
pub fn take_frame(unread: &mut Vec<u8>) -> Option<Frame> {
    let [first, length] = *unread.first_chunk()?;
    assert_eq!(length & 0x80, 0, "a server must not mask");
    let (length, at) = match length {
        126 => (u16::from_be_bytes(unread.get(2..4)?.try_into().unwrap()).into(), 4),
        127 => (u64::from_be_bytes(unread.get(2..10)?.try_into().unwrap()) as usize, 10),
        length => (usize::from(length), 2),
    };
    let payload = unread.get(at..at + length)?.to_vec();
    unread.drain(..at + length);
    Some(Frame { first, payload })
}

/// A masked frame, as a client sends it.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = head(first, payload.len(), 0x80);
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// An unmasked frame, which a client must not send.
pub fn unmasked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = head(first, payload.len(), 0);
    bytes.extend(payload);
    bytes
}

fn head(first: u8, length: usize, mask: u8) -> Vec<u8> {
    match length {
        0..126 => vec![first, mask | length as u8],
        126..0x1_0000 => [&[first, mask | 126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[first, mask | 127][..], &(length as u64).to_be_bytes()].concat(),
    }
}
