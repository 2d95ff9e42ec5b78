//! One connection: from the TCP handshake over the upgrade to frames.

use super::frame::{self, Frame, Opcode};
use anyhow::{Result, bail};
use mio::net::TcpStream;
use std::io::{ErrorKind, Read, Write};

/// A fixed key, the example of RFC 6455: its answer is known.
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const HEAD_LIMIT_BYTES: usize = 16 * 1024;

/// Why a connection is gone, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End(pub String);

#[derive(Debug, Default)]
pub(super) struct Connection {
    socket: Option<TcpStream>,
    phase: Phase,
    /// Read, but no whole head or frame yet.
    tail: Vec<u8>,
    /// To be written.
    outgoing: Vec<u8>,
    /// When connecting began.
    pub begun: u64,
    /// Between `Io::connect` and `Io::opened`.
    pub is_opening: bool,
    /// Among those with something to write.
    pub is_dirty: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    /// TCP's handshake is under way.
    #[default]
    Connecting,
    /// The request is sent, the answer is awaited.
    Head,
    Open,
}

/// What is to be done with what was read.
pub(super) enum Got<'a> {
    Upgraded,
    Text(&'a [u8]),
}

/// The upgrade request for this path, with further header lines, each with its line end.
pub(super) fn upgrade(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{headers}\r\n").into_bytes()
}

impl Connection {
    /// A connection whose request goes out as soon as there is somebody to read it.
    pub fn new(socket: TcpStream, request: Vec<u8>, begun: u64) -> Connection {
        Connection { socket: Some(socket), outgoing: request, begun, is_opening: true, ..Connection::default() }
    }

    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open && self.socket.is_some()
    }

    /// Appends a frame to what is to be written.
    pub fn push(&mut self, opcode: Opcode, payload: &[u8]) {
        frame::push(&mut self.outgoing, opcode, payload);
    }

    /// Writes what the socket takes.
    pub fn write(&mut self) -> Result<(), End> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        if self.phase == Phase::Connecting {
            if let Some(error) = socket.take_error().map_err(failed)? {
                return Err(failed(error));
            }
            match socket.peer_addr() {
                Ok(_) => self.phase = Phase::Head,
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
        }
        let mut written = 0;
        while written < self.outgoing.len() {
            match socket.write(&self.outgoing[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            }
        }
        self.outgoing.drain(..written);
        // Most connections of a load never write: what the request needed is given back.
        if self.outgoing.is_empty() && self.outgoing.capacity() > 4096 {
            self.outgoing = Vec::new();
        }
        Ok(())
    }

    /// Reads behind the tail into `buffer`: how much of it is to be parsed, and whether there may be more to read.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<(usize, bool), End> {
        let Some(socket) = &mut self.socket else { return Ok((0, false)) };
        if self.phase == Phase::Connecting {
            return Ok((0, false));
        }
        let kept = self.tail.len();
        loop {
            match socket.read(&mut buffer[kept..]) {
                Ok(0) => return Err(End("the server closed the connection without a close frame".into())),
                Ok(count) => {
                    buffer[..kept].copy_from_slice(&self.tail);
                    self.tail.clear();
                    return Ok((kept + count, kept + count == buffer.len()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok((0, false)),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// The next thing in what was read. `None`: the rest waits for more.
    #[inline]
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Got<'a>>, End> {
        if self.phase == Phase::Head {
            return Ok(self.head(bytes)?.then(|| {
                self.phase = Phase::Open;
                Got::Upgraded
            }));
        }
        loop {
            match frame::next(bytes) {
                Ok(Some(Frame { opcode: Opcode::Text, payload })) => return Ok(Some(Got::Text(payload))),
                Ok(Some(Frame { opcode: Opcode::Ping, payload })) => self.push(Opcode::Pong, payload),
                Ok(Some(Frame { opcode: Opcode::Pong, .. })) => {}
                Ok(Some(Frame { opcode: Opcode::Close, payload })) => return Err(End(close_text(payload))),
                Ok(Some(Frame { opcode: Opcode::Binary, .. })) => {
                    return Err(End("the server sent a binary frame, where only text was expected".into()));
                }
                Ok(None) => {
                    self.tail.extend_from_slice(bytes);
                    return Ok(None);
                }
                Err(frame::Malformed) => {
                    let start = &bytes[..bytes.len().min(8)];
                    return Err(End(format!(
                        "the server sent a frame that can't be read, beginning with {start:02x?}"
                    )));
                }
            }
        }
    }

    /// Whether something waits to be written.
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty() && self.phase != Phase::Connecting
    }

    /// Takes the answer to the upgrade off the front, if it is all there.
    fn head(&mut self, bytes: &mut &[u8]) -> Result<bool, End> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(bytes).map_err(|error| End(format!("the answer is no HTTP: {error}")))?;
        let httparse::Status::Complete(length) = parsed else {
            if bytes.len() > HEAD_LIMIT_BYTES {
                return Err(End("the answer's head is too long".into()));
            }
            self.tail.extend_from_slice(bytes);
            return Ok(false);
        };
        let status = response.code.unwrap_or_default();
        if status != 101 {
            let body = String::from_utf8_lossy(&bytes[length..]);
            let reason = response.reason.unwrap_or_default();
            return Err(End(format!("the upgrade was refused with {status} {reason} {body}").trim().to_owned()));
        }
        let accept = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("sec-websocket-accept"));
        if accept.is_none_or(|header| header.value != ACCEPT) {
            return Err(End("the answer to the upgrade has a wrong Sec-WebSocket-Accept".into()));
        }
        *bytes = &bytes[length..];
        Ok(true)
    }
}

fn failed(error: std::io::Error) -> End {
    End(error.to_string())
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

/// Whether this process may have so many connections. The soft limit is raised to what is needed.
pub fn allow_files(connections: usize) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// Beside the connections: the standard streams, epoll, timers, databases.
    const OTHERS: u64 = 64;
    let needed = connections as u64 + OTHERS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < needed) {
        if maximum.is_some_and(|maximum| maximum < needed) {
            let maximum = maximum.unwrap_or_default();
            bail!("{connections} connections need {needed} open files, and only {maximum} are allowed (`ulimit -Hn`)");
        }
        // The servers inherit it, and need as many.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    Ok(())
}
