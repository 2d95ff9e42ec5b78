//! One connection: TCP and TLS handshakes, upgrade, frames.

use super::frame::{self, Frame, Opcode};
use super::tls::Session;
use anyhow::{Result, bail};
use mio::net::TcpStream;
use std::io::{ErrorKind, Read, Write};

/// The key is fixed, RFC 6455's example, so that the expected `Sec-WebSocket-Accept` is known.
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const RESPONSE_HEAD_LIMIT_BYTES: usize = 16 * 1024;

/// Why a connection was closed, as text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason(pub String);

#[derive(Debug, Default)]
pub(super) struct Connection {
    socket: Option<TcpStream>,
    tls: Option<Box<Session>>,
    phase: Phase,
    /// The beginning of a head or frame that has not arrived completely.
    unparsed: Vec<u8>,
    /// Bytes to write, before encryption.
    outgoing: Vec<u8>,
    /// When connecting started.
    pub connect_started: u64,
    /// Whether it counts against the limit of connections that are being opened.
    pub is_connecting: bool,
    /// Whether it is in the list of connections with bytes to write.
    pub is_dirty: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The TCP handshake is in progress.
    #[default]
    Connecting,
    /// The upgrade request is sent, after the TLS handshake if there is one; its response is awaited.
    Upgrading,
    Open,
}

/// What a connection received.
pub(super) enum Input<'a> {
    Upgraded,
    Text(&'a [u8]),
}

/// The buffers of a thread. What they contain is parsed before the next read.
#[derive(Debug)]
pub(super) struct Buffers {
    pub plaintext: Vec<u8>,
    /// Empty if there is no TLS.
    pub ciphertext: Vec<u8>,
}

/// The upgrade request for this path. `headers` are additional header lines, each with its line end.
pub(super) fn upgrade(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{headers}\r\n").into_bytes()
}

impl Connection {
    /// A connection that sends its request as soon as TCP, and TLS if there is a session, are connected.
    pub fn new(socket: TcpStream, tls: Option<Session>, request: Vec<u8>, connect_started: u64) -> Connection {
        Connection {
            socket: Some(socket),
            tls: tls.map(Box::new),
            outgoing: request,
            connect_started,
            is_connecting: true,
            ..Connection::default()
        }
    }

    pub fn has_socket(&self) -> bool {
        self.socket.is_some()
    }

    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open && self.socket.is_some()
    }

    /// Queues a frame.
    pub fn push(&mut self, opcode: Opcode, payload: &[u8]) {
        frame::push(&mut self.outgoing, opcode, payload);
    }

    /// Writes as much as the socket accepts.
    pub fn write(&mut self) -> Result<(), CloseReason> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        if self.phase == Phase::Connecting {
            if let Some(error) = socket.take_error().map_err(failed)? {
                return Err(failed(error));
            }
            match socket.peer_addr() {
                Ok(_) => self.phase = Phase::Upgrading,
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
        }
        let outgoing = match &mut self.tls {
            None => &mut self.outgoing,
            Some(tls) => {
                if tls.is_established() && !self.outgoing.is_empty() {
                    tls.seal(&self.outgoing)?;
                    self.outgoing.clear();
                }
                &mut tls.outgoing
            }
        };
        let mut written = 0;
        while written < outgoing.len() {
            match socket.write(&outgoing[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            }
        }
        outgoing.drain(..written);
        // Most connections never send, so a large buffer would only waste memory.
        if outgoing.is_empty() && outgoing.capacity() > 4096 {
            *outgoing = Vec::new();
        }
        Ok(())
    }

    /// Reads into the buffer for plaintext, after what was left unparsed. Returns how many bytes to parse, and whether
    /// the socket may have more.
    pub fn read(&mut self, buffers: &mut Buffers) -> Result<(usize, bool), CloseReason> {
        let Some(socket) = &mut self.socket else { return Ok((0, false)) };
        if self.phase == Phase::Connecting {
            return Ok((0, false));
        }
        let kept = self.unparsed.len();
        let Buffers { plaintext, ciphertext } = buffers;
        let free = &mut plaintext[kept..];
        let (count, has_more) = match &mut self.tls {
            None => {
                let count = receive(socket, free)?;
                (count, count == free.len())
            }
            Some(tls) => loop {
                let (begin, limit) = (tls.incomplete_bytes(), ciphertext.len().min(free.len()));
                let end = begin + receive(socket, &mut ciphertext[begin..limit])?;
                if end == begin {
                    break (0, false);
                }
                let count = tls.receive(&mut ciphertext[..end], free)?;
                // Otherwise there was only a part of a record, or of the handshake.
                if count > 0 {
                    break (count, end == limit);
                }
            },
        };
        if count == 0 {
            return Ok((0, false));
        }
        plaintext[..kept].copy_from_slice(&self.unparsed);
        self.unparsed.clear();
        Ok((kept + count, has_more))
    }

    /// Takes the next input off `bytes`. `None`: the rest is incomplete and is kept for the next read.
    #[inline]
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Input<'a>>, CloseReason> {
        if self.phase == Phase::Upgrading {
            return Ok(self.upgrade_response(bytes)?.then(|| {
                self.phase = Phase::Open;
                Input::Upgraded
            }));
        }
        loop {
            match frame::next(bytes) {
                Ok(Some(Frame { opcode: Opcode::Text, payload })) => return Ok(Some(Input::Text(payload))),
                Ok(Some(Frame { opcode: Opcode::Ping, payload })) => self.push(Opcode::Pong, payload),
                Ok(Some(Frame { opcode: Opcode::Pong, .. })) => {}
                Ok(Some(Frame { opcode: Opcode::Close, payload })) => return Err(CloseReason(close_text(payload))),
                Ok(Some(Frame { opcode: Opcode::Binary, .. })) => {
                    return Err(CloseReason("the server sent a binary frame where text was expected".into()));
                }
                Ok(None) => {
                    self.unparsed.extend_from_slice(bytes);
                    return Ok(None);
                }
                Err(frame::Malformed) => {
                    let start = &bytes[..bytes.len().min(8)];
                    return Err(CloseReason(format!(
                        "the server sent a malformed frame that starts with {start:02x?}"
                    )));
                }
            }
        }
    }

    /// Whether there are bytes that can be written now.
    pub fn has_outgoing(&self) -> bool {
        let has_any = match &self.tls {
            None => !self.outgoing.is_empty(),
            Some(tls) => !tls.outgoing.is_empty() || (tls.is_established() && !self.outgoing.is_empty()),
        };
        has_any && self.phase != Phase::Connecting
    }

    /// Takes the response to the upgrade off `bytes`. Returns whether it was complete.
    fn upgrade_response(&mut self, bytes: &mut &[u8]) -> Result<bool, CloseReason> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let parsed =
            response.parse(bytes).map_err(|error| CloseReason(format!("the response is not valid HTTP: {error}")))?;
        let httparse::Status::Complete(length) = parsed else {
            if bytes.len() > RESPONSE_HEAD_LIMIT_BYTES {
                return Err(CloseReason("the response's head is too long".into()));
            }
            self.unparsed.extend_from_slice(bytes);
            return Ok(false);
        };
        let status = response.code.unwrap_or_default();
        if status != 101 {
            let body = String::from_utf8_lossy(&bytes[length..]);
            let reason = response.reason.unwrap_or_default();
            return Err(CloseReason(
                format!("the upgrade was rejected with {status} {reason} {body}").trim().to_owned(),
            ));
        }
        let accept = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("sec-websocket-accept"));
        if accept.is_none_or(|header| header.value != ACCEPT) {
            return Err(CloseReason("the response to the upgrade has a wrong Sec-WebSocket-Accept".into()));
        }
        *bytes = &bytes[length..];
        Ok(true)
    }
}

/// Reads from the socket. Returns 0 if nothing has arrived.
fn receive(socket: &mut TcpStream, buffer: &mut [u8]) -> Result<usize, CloseReason> {
    loop {
        match socket.read(buffer) {
            Ok(0) => return Err(CloseReason("the server closed the connection without a close frame".into())),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

fn failed(error: std::io::Error) -> CloseReason {
    CloseReason(error.to_string())
}

fn close_text(payload: &[u8]) -> String {
    match payload.split_first_chunk::<2>() {
        Some((code, reason)) => {
            let reason = String::from_utf8_lossy(reason);
            format!("the server closed the connection: {} {reason}", u16::from_be_bytes(*code)).trim_end().to_owned()
        }
        None => "the server closed the connection".to_owned(),
    }
}

/// Makes sure that this process may open that many connections, by raising its soft limit of open files if needed.
/// Fails when the hard limit is too low.
pub fn allow_files(connections: usize) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// Files other than connections: the standard streams, epoll, timers, databases.
    const OTHERS: u64 = 64;
    let needed = connections as u64 + OTHERS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < needed) {
        if maximum.is_some_and(|maximum| maximum < needed) {
            let maximum = maximum.unwrap_or_default();
            bail!("{connections} connections need {needed} open files, but only {maximum} are allowed (`ulimit -Hn`)");
        }
        // Raised to the hard limit, because the servers inherit it and need as many.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    Ok(())
}
