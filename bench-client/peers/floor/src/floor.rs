//! The loop: connections, rooms, and the messages of one turn.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::mem;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use slab::Slab;

use crate::connection::{Connection, State};
use crate::frame::{self, CLOSE, PING, PONG, TEXT};
use crate::handshake;

const READ_BYTES: usize = 16 * 1024;
const EVENTS_A_TURN: usize = 1024;
const LISTENER: u64 = u64::MAX;

#[derive(Default)]
struct Room {
    /// Keys of connections.
    members: Vec<usize>,
    /// The messages of this turn, as frames ready to send.
    messages: Vec<u8>,
}

pub struct Floor {
    epoll: OwnedFd,
    listener: TcpListener,
    frame_bytes: usize,
    connections: Slab<Connection>,
    /// Rooms are kept after their last member has left.
    rooms: Vec<Room>,
    rooms_by_name: HashMap<String, usize>,
    /// Rooms with messages in this turn.
    rooms_with_messages: Vec<usize>,
    /// What only the connection that is being served gets.
    answer: Vec<u8>,
    input: Box<[u8]>,
    events: Vec<Event>,
}

impl Floor {
    /// A loop on `listener`, which must be non-blocking. Broadcast payloads are padded to `frame_bytes`.
    pub fn new(listener: TcpListener, frame_bytes: usize) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("cannot create an epoll instance")?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            frame_bytes,
            connections: Slab::new(),
            rooms: Vec::new(),
            rooms_by_name: HashMap::new(),
            rooms_with_messages: Vec::new(),
            answer: Vec::new(),
            input: vec![0; READ_BYTES].into(),
            events: Vec::with_capacity(EVENTS_A_TURN),
        })
    }

    /// Waits for events, serves the connections that have any, and then sends each room its messages.
    pub fn turn(&mut self) -> Result<()> {
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for events"),
        }
        // A connection has at most one event per turn, so no event belongs to an earlier connection of the same slot.
        for index in 0..self.events.len() {
            let Event { data, flags } = self.events[index];
            match data.u64() {
                LISTENER => self.accept().context("cannot accept a connection")?,
                slot if self.serve(slot as usize, flags).is_err() => self.close(slot as usize),
                _ => {}
            }
        }
        for room in self.rooms_with_messages.drain(..) {
            let room = &mut self.rooms[room];
            for &member in &room.members {
                self.connections[member].send(&self.epoll, &room.messages);
            }
            room.messages.clear();
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => {
                    let entry = self.connections.vacant_entry();
                    let connection = Connection::new(socket, &self.epoll, entry.key())?;
                    entry.insert(connection);
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Handles an event of a connection. The caller closes the connection after an error.
    fn serve(&mut self, slot: usize, flags: EventFlags) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        if flags.contains(EventFlags::OUT) {
            connection.send_rest(&self.epoll);
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return Ok(());
        }
        let read_bytes = connection.read(&mut self.input)?;
        if read_bytes == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        // Usually whole frames arrive, and they are handled in state.
        let mut input = mem::take(&mut self.input);
        let mut unread = mem::take(&mut connection.unread);
        let result = if unread.is_empty() {
            self.handle(slot, &mut input[..read_bytes])
        } else {
            unread.extend_from_slice(&input[..read_bytes]);
            self.handle(slot, &mut unread)
        };
        self.input = input;
        if !self.answer.is_empty() {
            self.connections[slot].send(&self.epoll, &self.answer);
            self.answer.clear();
        }
        result
    }

    fn handle(&mut self, slot: usize, mut input: &mut [u8]) -> io::Result<()> {
        if let State::Handshake = self.connections[slot].state
            && let Some((path, response)) = handshake::take(&mut input)?
        {
            self.answer.extend_from_slice(response.as_bytes());
            self.connections[slot].state = match path {
                "/echo" => State::Echo,
                _ => self.join(slot, path.strip_prefix("/?room=").ok_or(ErrorKind::NotFound)?),
            };
        }
        let connection = &mut self.connections[slot];
        while !matches!(connection.state, State::Handshake)
            && let Some((opcode, payload)) = frame::take(&mut input)?
        {
            match (opcode, &connection.state) {
                (TEXT, &State::Room(room, _)) => {
                    let messages = &mut self.rooms[room].messages;
                    if messages.is_empty() {
                        self.rooms_with_messages.push(room);
                    }
                    frame::append(messages, TEXT, payload, self.frame_bytes);
                }
                (TEXT, _) => frame::append(&mut self.answer, TEXT, payload, 0),
                (PING, _) => frame::append(&mut self.answer, PONG, payload, 0),
                (PONG, _) => {}
                (CLOSE, _) => {
                    frame::append(&mut self.answer, CLOSE, payload, 0);
                    return Err(ErrorKind::ConnectionAborted.into());
                }
                _ => return Err(ErrorKind::InvalidData.into()),
            }
        }
        connection.unread = input.to_vec();
        Ok(())
    }

    fn join(&mut self, slot: usize, name: &str) -> State {
        let room = *self.rooms_by_name.entry(name.to_owned()).or_insert(self.rooms.len());
        if room == self.rooms.len() {
            self.rooms.push(Room::default());
        }
        self.rooms[room].members.push(slot);
        State::Room(room, self.rooms[room].members.len() - 1)
    }

    fn close(&mut self, slot: usize) {
        let State::Room(room, index) = self.connections.remove(slot).state else { return };
        let members = &mut self.rooms[room].members;
        members.swap_remove(index);
        if let Some(&moved) = members.get(index) {
            self.connections[moved].state = State::Room(room, index);
        }
    }
}
