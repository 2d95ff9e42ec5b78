//! A chat server that commits one fault, only once where possible. It speaks the protocols of the peers and of Uproar.
//!
//! It has one thread per connection and a single lock, which gives all messages one order.

use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::{Message, WebSocket};
use uproar_bench::result::Wire;

const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between the messages of [`Fault::Babble`].
const BABBLE_PAUSE: Duration = Duration::from_millis(100);
/// How long [`Fault::Babble`] lasts, much longer than a client should listen.
pub const BABBLE_TIME: Duration = Duration::from_secs(20);
/// The number of messages before the fault.
const MESSAGES_BEFORE_FAULT: usize = 5;
/// A recovery is delayed until the client has missed at least this many messages.
const MIN_MISSED: usize = 3;

/// What goes wrong. Some faults affect one member, the victim. The victim does not send, unless all members do.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    None,
    /// The victim does not get one message.
    Drop,
    /// The victim gets one message twice.
    Repeat,
    /// The victim gets two messages of one sender in the wrong order.
    Swap,
    /// The victim gets messages of two senders in another order than the other members.
    Disagree,
    /// The victim gets one message with this byte changed.
    Corrupt(usize),
    /// The victim gets this additional message.
    AddMessage(String),
    /// Every member gets this additional message when it joins.
    AddOnJoin(String),
    /// The server closes the victim's connection, with this close frame or without one.
    Close(Option<(u16, &'static str)>),
    /// The victim gets these bytes instead of a frame.
    Bytes(Vec<u8>),
    /// The victim gets an endless series of wrong messages instead of one message.
    Babble,
    /// The server stops for this long.
    Stall(Duration),
    /// All requests get these bytes as the response.
    Answer(&'static str),
    /// No request gets a response.
    Silence,
    /// One request gets no response.
    LateSilence,
    /// One connection is closed instead of a response.
    LateClose,
    /// All messages are acknowledged but not delivered.
    AckOnly,
    /// One acknowledgement is missing.
    SkipAck,
    /// One acknowledgement is sent twice.
    RepeatAck,
    /// One message gets an error as its reply.
    RejectMessage,
    /// Offsets skip a number, for the victim or for all members.
    Gap {
        all: bool,
    },
    /// All attempts to join are rejected.
    RejectJoins,
    /// Recoveries are reported as failed, although the missed messages are delivered.
    DenyRecovery,
    /// The first recovery lacks the first missed message.
    RecoverTooLate,
    /// The first recovery starts one message too early.
    RecoverTooEarly,
}

/// Runs until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    wire: Wire,
    /// How many members of each room send.
    senders: usize,
    state: Mutex<State>,
    /// Signals that a message arrived.
    came: Condvar,
}

struct State {
    fault: Fault,
    has_misbehaved: bool,
    victim: Option<usize>,
    /// Messages that the victim gets later: sender and index.
    held: Vec<(usize, usize)>,
    rooms: HashMap<String, Room>,
    next_id: usize,
    counts: Counts,
    is_stopping: bool,
}

/// The server's own counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub upgrades: u64,
    pub messages: u64,
    /// Deliveries that were not made, counting each member that did not get a message.
    pub undelivered: u64,
}

#[derive(Default)]
struct Room {
    members: Vec<Member>,
    texts: Vec<String>,
}

struct Member {
    id: usize,
    has_sent: bool,
    is_closed: bool,
    /// Added to the offsets of its messages.
    jump: usize,
    socket: WebSocket<TcpStream>,
}

impl Server {
    /// Starts the server. `senders` is their number per room: the fault waits until each has sent something.
    pub fn start(wire: Wire, senders: usize, fault: Fault) -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            fault,
            has_misbehaved: false,
            victim: None,
            held: Vec::new(),
            rooms: HashMap::new(),
            next_id: 0,
            counts: Counts::default(),
            is_stopping: false,
        };
        let shared = Arc::new(Shared { wire, senders, state: Mutex::new(state), came: Condvar::new() });
        let server = Server { address, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.lock().is_stopping {
                    return;
                }
                let shared = Arc::clone(&shared);
                let stream = stream.unwrap();
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        server
    }

    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }

    /// Whether the fault has happened.
    pub fn has_misbehaved(&self) -> bool {
        self.shared.lock().has_misbehaved
    }

    /// Sends a made-up message to a member that does not send and closes its connection at the same moment.
    pub fn send_wrong_message_and_close(&self) {
        let mut state = self.shared.lock();
        let members = state.rooms.values_mut().flat_map(|room| &mut room.members);
        let victim = members.into_iter().find(|member| !member.has_sent).unwrap();
        victim.socket.send(Message::text("goodbye")).unwrap();
        victim.close(None);
    }

    /// Waits until the server has received this many messages.
    pub fn wait_for_messages(&self, count: u64) {
        let missing = |state: &mut State| state.counts.messages < count;
        let waited = self.shared.came.wait_timeout_while(self.shared.lock(), PATIENCE, missing).unwrap();
        assert!(!waited.1.timed_out(), "only {} messages arrived", waited.0.counts.messages);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.lock().is_stopping = true;
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Serves a connection until the client closes it.
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let head = loop {
            let head = read_head(&mut stream)?;
            if !head.starts_with("POST ") {
                break head;
            }
            // The only POST requests create rooms, which exist here without being created.
            let mut body = vec![0; header(&head, "content-length")?.parse().ok()?];
            stream.read_exact(&mut body).ok()?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").ok()?;
        };
        let mut state = self.lock();
        let fault = state.fault.clone();
        let is_time = state.counts.upgrades >= MESSAGES_BEFORE_FAULT as u64 && !state.has_misbehaved;
        state.has_misbehaved |= is_time && matches!(fault, Fault::LateSilence | Fault::LateClose);
        drop(state);
        match fault {
            Fault::LateClose if is_time => return None,
            Fault::LateSilence if is_time => return stream.read_to_end(&mut Vec::new()).ok().map(|_| ()),
            Fault::Silence => {
                self.lock().has_misbehaved = true;
                return stream.read_to_end(&mut Vec::new()).ok().map(|_| ());
            }
            Fault::Answer(answer) => {
                self.lock().has_misbehaved = true;
                return stream.write_all(answer.as_bytes()).ok();
            }
            _ => {}
        }
        let accept = derive_accept_key(header(&head, "sec-websocket-key")?.as_bytes());
        write!(
            stream,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .ok()?;
        let mut state = self.lock();
        state.counts.upgrades += 1;
        state.next_id += 1;
        let id = state.next_id;
        drop(state);
        let path = head.split(' ').nth(1)?;
        let query = |name: &str| {
            let pairs = path.split_once('?')?.1.split('&');
            pairs.filter_map(|pair| pair.split_once('=')).find(|pair| pair.0 == name).map(|pair| pair.1)
        };
        let mut room = match query("room") {
            Some(room) => room.to_owned(),
            // An echo is a room with a single member.
            None => format!("of {id}"),
        };
        let mut socket = WebSocket::from_raw_socket(stream.try_clone().ok()?, Role::Server, None);
        if self.wire != Wire::Centrifugo {
            self.enter(&room, id, &stream, query("since").and_then(|since| since.parse().ok()))?;
        }
        while let Ok(message) = socket.read() {
            let Message::Text(text) = message else { continue };
            match self.wire {
                Wire::Raw => self.publish(&room, id, &text, 0),
                Wire::Plain => {
                    let value: Value = serde_json::from_str(&text).unwrap();
                    let number = value["id"].as_str().unwrap().parse().unwrap();
                    self.publish(&room, id, value["text"].as_str().unwrap(), number);
                }
                Wire::Centrifugo => {
                    for line in text.lines() {
                        self.command(&mut room, id, &stream, &serde_json::from_str(line).unwrap())?;
                    }
                }
            }
        }
        if let Some(room) = self.lock().rooms.get_mut(&room) {
            // A member whose connection was closed stays, to count the messages that it misses.
            room.members.retain(|member| member.id != id || member.is_closed);
        }
        Some(())
    }

    fn command(&self, room: &mut String, id: usize, stream: &TcpStream, command: &Value) -> Option<()> {
        if let Some(subscribe) = command.get("subscribe") {
            *room = subscribe["channel"].as_str()?.to_owned();
            let since = subscribe["offset"].as_u64().filter(|_| subscribe["recover"] == true);
            return self.enter(room, id, stream, since.map(|offset| offset as usize));
        }
        if let Some(publish) = command.get("publish") {
            self.publish(room, id, publish["data"]["text"].as_str()?, command["id"].as_u64()?);
        }
        Some(())
    }

    fn enter(&self, name: &str, id: usize, stream: &TcpStream, since: Option<usize>) -> Option<()> {
        let mut state = self.lock();
        if let Some(since) = since {
            let missed = |state: &mut State| state.rooms[name].texts.len() < since + MIN_MISSED;
            state = self.came.wait_timeout_while(state, PATIENCE, missed).unwrap().0;
        }
        let State { fault, has_misbehaved, rooms, .. } = &mut *state;
        let socket = WebSocket::from_raw_socket(stream.try_clone().ok()?, Role::Server, None);
        let mut member = Member { id, has_sent: false, is_closed: false, jump: 0, socket };
        let room = rooms.entry(name.to_owned()).or_default();
        if *fault == Fault::RejectJoins {
            *has_misbehaved = true;
            let error = json!({"code": 103, "message": "permission denied"});
            return member.send(&match self.wire {
                Wire::Centrifugo => json!({"id": 2, "error": error}),
                _ => json!({"type": "error", "error": error}),
            });
        }
        let denies = since.is_some() && *fault == Fault::DenyRecovery;
        *has_misbehaved |= denies;
        let offset = since.unwrap_or(room.texts.len());
        match self.wire {
            Wire::Raw => {}
            Wire::Plain => {
                let mut joined = json!({"type": "joined", "room": name, "epoch": "e", "offset": offset});
                if since.is_some() {
                    joined["recovered"] = (!denies).into();
                }
                member.send(&joined)?;
            }
            Wire::Centrifugo => {
                let mut answer = json!({"recoverable": true, "positioned": true, "epoch": "e", "offset": offset});
                if since.is_some() {
                    answer["was_recovering"] = true.into();
                    answer["recovered"] = (!denies).into();
                }
                member.send(&json!({"id": 2, "subscribe": answer}))?;
            }
        }
        if let Fault::AddOnJoin(text) = fault {
            *has_misbehaved = true;
            member.socket.send(Message::text(text.clone())).ok()?;
        }
        let mut missed = offset..room.texts.len();
        if since.is_some() && !*has_misbehaved && (*fault == Fault::RecoverTooLate || *fault == Fault::RecoverTooEarly)
        {
            *has_misbehaved = true;
            missed.start = if *fault == Fault::RecoverTooLate { offset + 1 } else { offset - 1 };
        }
        for at in missed {
            member.get(self.wire, name, at, &room.texts[at]);
        }
        room.members.push(member);
        Some(())
    }

    fn publish(&self, name: &str, sender: usize, text: &str, number: u64) {
        let mut state = self.lock();
        let State { fault, has_misbehaved, victim, held, rooms, counts, .. } = &mut *state;
        counts.messages += 1;
        let Room { members, texts } = rooms.get_mut(name).unwrap();
        members.iter_mut().filter(|member| member.id == sender).for_each(|member| member.has_sent = true);
        let have_sent = members.iter().filter(|member| member.has_sent).count();
        let is_time = !*has_misbehaved && texts.len() >= MESSAGES_BEFORE_FAULT && have_sent == self.senders;
        if is_time && victim.is_none() {
            *victim = members.iter().find(|member| !member.has_sent).or(members.first()).map(|member| member.id);
        }
        if *fault == Fault::AckOnly {
            *has_misbehaved = true;
            counts.undelivered += members.len() as u64;
            acknowledge(self.wire, members, sender, number);
            self.came.notify_all();
            return;
        }
        if is_time && *fault == Fault::RejectMessage {
            *has_misbehaved = true;
            counts.undelivered += members.len() as u64;
            let error = json!({"id": number, "error": {"code": 100, "message": "internal server error"}});
            members.iter_mut().filter(|member| member.id == sender).for_each(|member| {
                member.send(&error);
            });
            return;
        }
        let at = texts.len();
        texts.push(text.to_owned());
        if let Fault::Stall(time) = fault
            && is_time
        {
            *has_misbehaved = true;
            std::thread::sleep(*time);
        }
        if *fault == (Fault::Gap { all: true }) && is_time {
            *has_misbehaved = true;
            members.iter_mut().for_each(|member| member.jump = 1);
        }
        for member in members.iter_mut() {
            if member.is_closed {
                counts.undelivered += 1;
                continue;
            }
            if *victim != Some(member.id) || *has_misbehaved {
                member.get(self.wire, name, at, text);
                continue;
            }
            let mut is_done = true;
            match fault {
                Fault::Drop => counts.undelivered += 1,
                Fault::Repeat => (0..2).for_each(|_| member.get(self.wire, name, at, text)),
                Fault::Corrupt(byte) => {
                    let mut other = text.as_bytes().to_vec();
                    // A digit is replaced by a digit.
                    other[*byte] = if other[*byte] == b'1' { b'2' } else { b'1' };
                    counts.undelivered += 1;
                    member.get(self.wire, name, at, str::from_utf8(&other).unwrap());
                }
                Fault::AddMessage(other) => {
                    member.get(self.wire, name, at, text);
                    let _ = member.socket.send(Message::text(other.clone()));
                }
                Fault::Close(frame) => {
                    counts.undelivered += 1;
                    member.close(*frame);
                }
                Fault::Bytes(bytes) => {
                    counts.undelivered += 1;
                    let _ = member.socket.get_mut().write_all(bytes);
                    member.close(None);
                }
                Fault::Babble => {
                    counts.undelivered += 1;
                    let mut stream = member.socket.get_ref().try_clone().unwrap();
                    std::thread::spawn(move || {
                        let until = Instant::now() + BABBLE_TIME;
                        while Instant::now() < until && stream.write_all(b"\x81\x04blah").is_ok() {
                            std::thread::sleep(BABBLE_PAUSE);
                        }
                    });
                }
                Fault::Gap { .. } => {
                    member.jump = 1;
                    member.get(self.wire, name, at, text);
                }
                Fault::Swap | Fault::Disagree => {
                    let is_own = held.first().is_none_or(|(first, _)| *first == sender);
                    let waits = match fault {
                        Fault::Swap => held.is_empty(),
                        _ => is_own,
                    };
                    is_done = !waits && (is_own || *fault == Fault::Disagree);
                    if waits {
                        held.push((sender, at));
                    } else {
                        member.get(self.wire, name, at, text);
                    }
                    if is_done {
                        for (_, at) in std::mem::take(held) {
                            member.get(self.wire, name, at, &texts[at]);
                        }
                    }
                }
                _ => {
                    is_done = false;
                    member.get(self.wire, name, at, text);
                }
            }
            *has_misbehaved |= is_done;
        }
        if self.wire == Wire::Centrifugo {
            let times = match fault {
                Fault::SkipAck if is_time => 0,
                Fault::RepeatAck if is_time => 2,
                _ => 1,
            };
            *has_misbehaved |= times != 1;
            (0..times).for_each(|_| acknowledge(self.wire, members, sender, number));
        }
        self.came.notify_all();
    }
}

impl Member {
    /// `None` if the client is gone. The reading thread notices that, too.
    fn send(&mut self, value: &Value) -> Option<()> {
        self.socket.send(Message::text(value.to_string())).ok()
    }

    /// Delivers a message of the room to this member.
    fn get(&mut self, wire: Wire, room: &str, at: usize, text: &str) {
        let offset = at + 1 + self.jump;
        let frame = match wire {
            Wire::Raw => text.to_owned(),
            Wire::Plain => format!(
                r#"{{"type":"message","offset":{offset},"user":{{"id":"1","username":"a"}},"text":"{text}","id":"1"}}"#
            ),
            Wire::Centrifugo => {
                format!(r#"{{"push":{{"channel":"{room}","pub":{{"data":{{"text":"{text}"}},"offset":{offset}}}}}}}"#)
            }
        };
        let _ = self.socket.send(Message::text(frame));
    }

    fn close(&mut self, frame: Option<(u16, &'static str)>) {
        self.is_closed = true;
        if let Some((code, reason)) = frame {
            let _ = self.socket.close(Some(CloseFrame { code: code.into(), reason: reason.into() }));
            let _ = self.socket.flush();
        }
        let _ = self.socket.get_mut().shutdown(Shutdown::Write);
    }
}

fn acknowledge(wire: Wire, members: &mut [Member], sender: usize, number: u64) {
    let answer = match wire {
        Wire::Centrifugo => json!({"id": number, "publish": {}}),
        _ => json!({"type": "ack", "id": number.to_string()}),
    };
    members.iter_mut().filter(|member| member.id == sender).for_each(|member| {
        member.send(&answer);
    });
}

/// Reads exactly up to the end of the head, because the WebSocket reads what follows.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    String::from_utf8(head).ok()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(key, value)| (key, value.trim())).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|pair| pair.1)
}
