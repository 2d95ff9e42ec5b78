//! Blocking clients, because a hostile one is not in a hurry and a victim waits for its answers.

use crate::client::frame::{self, Opcode};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Connects from this address of the machine. Every read and write fails after `timeout`.
pub fn connect(from: Ipv4Addr, to: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    connect_with(from, to, timeout, None)
}

/// The same, with a receive buffer of this size in the kernel.
pub(super) fn connect_with(
    from: Ipv4Addr,
    to: SocketAddr,
    timeout: Duration,
    receive_buffer_bytes: Option<usize>,
) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if let Some(bytes) = receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&to.into(), timeout)?;
    socket.set_tcp_nodelay(true)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

/// A WebSocket, with the commands of the Centrifugo protocol in JSON.
pub struct WebSocket {
    pub stream: TcpStream,
    unread: Vec<u8>,
    next_id: u64,
    timeout: Duration,
    /// Lines of the last frame that are not read yet.
    lines: Vec<String>,
}

impl WebSocket {
    /// Requests an upgrade on a new connection. Fails unless the answer is 101.
    pub fn upgrade(mut stream: TcpStream, path: &str, token: Option<&str>) -> Result<WebSocket> {
        let bearer = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{bearer}\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let timeout = stream.read_timeout()?.unwrap_or(Duration::from_secs(10));
        let mut unread = Vec::new();
        let end = loop {
            if let Some(end) = memchr::memmem::find(&unread, b"\r\n\r\n") {
                break end + 4;
            }
            read_some(&mut stream, &mut unread)?;
        };
        let head: Vec<u8> = unread.drain(..end).collect();
        let head = String::from_utf8_lossy(&head);
        ensure!(head.starts_with("HTTP/1.1 101 "), "the upgrade was answered {}", head.lines().next().unwrap_or(""));
        Ok(WebSocket { stream, unread, next_id: 0, timeout, lines: Vec::new() })
    }

    /// Opens a connection of the Centrifugo protocol.
    pub fn open(from: Ipv4Addr, to: SocketAddr, token: &str, timeout: Duration) -> Result<WebSocket> {
        let mut socket = WebSocket::upgrade(connect(from, to, timeout)?, "/connection/websocket", None)?;
        socket.command(json!({"connect": {"token": token}})).context("connect")?;
        Ok(socket)
    }

    /// Opens a connection that is subscribed to a channel.
    pub fn subscribed(
        from: Ipv4Addr,
        to: SocketAddr,
        token: &str,
        channel: &str,
        timeout: Duration,
    ) -> Result<WebSocket> {
        let mut socket = WebSocket::open(from, to, token, timeout)?;
        socket.command(json!({"subscribe": {"channel": channel}})).context("subscribe")?;
        Ok(socket)
    }

    /// Sends a text frame.
    pub fn send(&mut self, text: &str) -> Result<()> {
        let mut out = Vec::with_capacity(text.len() + 14);
        frame::push(&mut out, Opcode::Text, text.as_bytes());
        Ok(self.stream.write_all(&out)?)
    }

    /// Sends a command and waits for its reply. Fails if that is an error, or does not come in time.
    pub fn command(&mut self, mut command: Value) -> Result<Value> {
        self.next_id += 1;
        let id = self.next_id;
        command["id"] = id.into();
        self.send(&command.to_string())?;
        let until = Instant::now() + self.timeout;
        loop {
            let line = self.line(until)?;
            let mut reply: Value = serde_json::from_str(&line).context("the reply is not JSON")?;
            if reply["id"] == id {
                ensure!(reply.get("error").is_none(), "{}", reply["error"]);
                return Ok(reply.take());
            }
        }
    }

    /// The next line that is not a ping.
    fn line(&mut self, until: Instant) -> Result<String> {
        loop {
            while let Some(line) = self.lines.pop() {
                if line != "{}" {
                    return Ok(line);
                }
                self.send("{}")?;
            }
            let text = self.text(until)?;
            self.lines = text.split('\n').rev().map(str::to_owned).collect();
        }
    }

    /// The next text frame. Pings are answered.
    pub fn text(&mut self, until: Instant) -> Result<String> {
        loop {
            let mut rest = &self.unread[..];
            let received = match frame::next(&mut rest) {
                Err(frame::Malformed) => bail!("the server sent a malformed frame"),
                Ok(None) => None,
                Ok(Some(frame)) => Some((frame.opcode, frame.payload.to_vec())),
            };
            let used = self.unread.len() - rest.len();
            self.unread.drain(..used);
            match received {
                Some((Opcode::Text, payload)) => return Ok(String::from_utf8(payload)?),
                Some((Opcode::Ping, payload)) => {
                    let mut out = Vec::new();
                    frame::push(&mut out, Opcode::Pong, &payload);
                    self.stream.write_all(&out)?;
                }
                Some((Opcode::Close, payload)) => {
                    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    bail!("the server closed the connection with {code}");
                }
                Some(_) => {}
                None => {
                    let left = until.saturating_duration_since(Instant::now());
                    ensure!(!left.is_zero(), "no answer in time");
                    self.stream.set_read_timeout(Some(left))?;
                    read_some(&mut self.stream, &mut self.unread)?;
                }
            }
        }
    }
}

/// Whether the server has closed a connection that is in non-blocking mode. What it sent is discarded.
pub(super) fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

fn read_some(stream: &mut TcpStream, into: &mut Vec<u8>) -> Result<()> {
    let mut buffer = [0; 16 * 1024];
    match stream.read(&mut buffer) {
        Ok(0) => bail!("the server closed the connection"),
        Ok(count) => into.extend_from_slice(&buffer[..count]),
        Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("no answer in time"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
