//! The socket of a client, with the rest of short reads and writes.

use std::collections::VecDeque;
use std::io::{Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};

/// How many bytes may wait for a slow client before it is disconnected.
const MAX_UNSENT_BYTES: usize = 16 << 20;

pub enum State {
    Handshake,
    Echo,
    /// The index of the room, and of the connection in its list of members.
    Room(usize, usize),
}

pub struct Connection {
    socket: TcpStream,
    /// Identifies the connection in epoll's events.
    slot: EventData,
    pub state: State,
    /// The beginning of an incomplete request or frame; usually empty.
    pub unread: Vec<u8>,
    /// Bytes that the kernel did not accept; usually empty. While there are any, epoll also watches for writability.
    unsent: VecDeque<u8>,
}

impl Connection {
    /// A connection whose events carry `slot`.
    pub fn new(socket: OwnedFd, epoll: &OwnedFd, slot: usize) -> Result<Self> {
        let slot = EventData::new_u64(slot as u64);
        epoll::add(epoll, &socket, slot, EventFlags::IN)?;
        let socket = TcpStream::from(socket);
        socket.set_nodelay(true)?;
        Ok(Self { socket, slot, state: State::Handshake, unread: Vec::new(), unsent: VecDeque::new() })
    }

    /// Reads once. 0 bytes means the end of the stream.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.socket.read(buffer)
    }

    /// Makes one `send(2)` and keeps what the kernel does not accept. If it fails, epoll reports an event that closes
    /// the connection.
    pub fn send(&mut self, epoll: &OwnedFd, bytes: &[u8]) {
        let mut sent = 0;
        if self.unsent.is_empty() {
            sent = self.socket.write(bytes).unwrap_or(0);
            if sent == bytes.len() {
                return;
            }
            self.watch(epoll, EventFlags::IN | EventFlags::OUT);
        }
        self.unsent.extend(&bytes[sent..]);
        if self.unsent.len() > MAX_UNSENT_BYTES {
            peers::note(format_args!("floor: a client has {MAX_UNSENT_BYTES} unsent bytes and is disconnected"));
            self.unsent.clear();
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }

    /// Sends as much of the kept bytes as the kernel accepts now.
    pub fn send_rest(&mut self, epoll: &OwnedFd) {
        let sent = self.socket.write(self.unsent.as_slices().0).unwrap_or(0);
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            self.unsent = VecDeque::new();
            self.watch(epoll, EventFlags::IN);
        }
    }

    fn watch(&self, epoll: &OwnedFd, flags: EventFlags) {
        epoll::modify(epoll, &self.socket, self.slot, flags).expect("the socket was added to epoll");
    }
}
