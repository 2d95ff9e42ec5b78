//! The HTTP calls to Uproar that prepare a load.

use crate::client::TlsClient;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(20);

/// A persistent HTTP connection.
pub struct Http {
    stream: BufReader<Box<dyn Stream>>,
}

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

impl Http {
    pub fn connect(address: SocketAddr, tls: Option<&TlsClient>) -> Result<Http> {
        let stream = TcpStream::connect(address).with_context(|| format!("can't connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(match tls {
            None => Http::over(stream),
            Some(tls) => Http::over(tls.blocking(stream)?),
        })
    }

    /// Over a connection whose timeouts are set.
    pub fn over(stream: impl Read + Write + 'static) -> Http {
        Http { stream: BufReader::new(Box::new(stream)) }
    }

    /// Creates a public room.
    pub fn create_room(&mut self, token: &str, name: &str, size: u32) -> Result<()> {
        let body = json!({"name": name, "size": size});
        self.post("/user/createroom", Some(token), &body).with_context(|| format!("can't create the room {name}"))?;
        Ok(())
    }

    /// Signs a user up. Returns the token.
    pub fn sign_up(&mut self, name: &str) -> Result<String> {
        let email = format!("{name}@example.org");
        let body = json!({"username": name, "email": email, "password": "a long enough password"});
        let answer = self.post("/user/signup", None, &body).with_context(|| format!("can't sign {name} up"))?;
        Ok(answer["token"].as_str().context("the response to the sign-up has no token")?.to_owned())
    }

    fn post(&mut self, path: &str, token: Option<&str>, body: &Value) -> Result<Value> {
        let (status, answer) = self.request("POST", path, token, Some(body))?;
        if !(200..300).contains(&status) {
            bail!("the server answered {status}: {answer}");
        }
        Ok(answer)
    }

    /// Sends a request and waits for its response: the status, and the body, which is null if it is not JSON.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let token = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{token}");
        if let Some(body) = body {
            let body = body.to_string();
            let length = body.len();
            request += &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
        } else {
            request += "\r\n";
        }
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.answer()
    }

    /// Reads a text, such as the metrics.
    pub fn text(&mut self, path: &str) -> Result<String> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (status, body) = self.body()?;
        let text = String::from_utf8_lossy(&body).into_owned();
        if status != 200 {
            bail!("the server answered {status} to {path}: {text}");
        }
        Ok(text)
    }

    fn answer(&mut self) -> Result<(u16, Value)> {
        let (status, body) = self.body()?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    fn body(&mut self) -> Result<(u16, Vec<u8>)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if self.stream.read_until(b'\n', &mut head)? == 0 {
                bail!("the server closed the connection without a response");
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        response.parse(&head).context("the response is not valid HTTP")?;
        let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
        let status = response.code.unwrap_or_default();
        if status == 204 {
            return Ok((status, Vec::new()));
        }
        let mut body = vec![0; length.context("the response has no valid Content-Length")?];
        self.stream.read_exact(&mut body)?;
        Ok((status, body))
    }
}
