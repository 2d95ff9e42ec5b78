//! One client's socket, and what is left over from a short read or write.

use std::collections::VecDeque;
use std::io::{Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};

/// What may wait for a client that reads too slowly before it is given up, in bytes.
const MAX_UNSENT_BYTES: usize = 16 << 20;

pub enum Place {
    Handshake,
    Echo,
    /// A room, and where in its list of members.
    Room(usize, usize),
}

pub struct Connection {
    socket: TcpStream,
    /// What epoll gives with its events.
    slot: EventData,
    pub place: Place,
    /// The beginning of a request or frame that has not come whole; mostly empty.
    pub unread: Vec<u8>,
    /// What the kernel did not take; mostly empty. While there is some, epoll tells when it takes more.
    unsent: VecDeque<u8>,
}

impl Connection {
    /// A connection whose events come with `slot`.
    pub fn new(socket: OwnedFd, epoll: &OwnedFd, slot: usize) -> Result<Self> {
        let slot = EventData::new_u64(slot as u64);
        epoll::add(epoll, &socket, slot, EventFlags::IN)?;
        let socket = TcpStream::from(socket);
        socket.set_nodelay(true)?;
        Ok(Self { socket, slot, place: Place::Handshake, unread: Vec::new(), unsent: VecDeque::new() })
    }

    /// Reads once; 0 bytes are the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.socket.read(buffer)
    }

    /// One `send(2)`; what the kernel does not take is kept. Should it fail, epoll has an event that ends the connection.
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
            eprintln!("floor: a client has {MAX_UNSENT_BYTES} bytes waiting and is given up");
            self.unsent.clear();
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }

    /// Sends of what was kept what the kernel takes now.
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
