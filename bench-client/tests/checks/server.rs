//! A server of rooms that does one thing wrong, once where it can, in the protocols of peers and of Uproar.
//!
//! It has one lock, so that messages have one order, and a thread for each connection.

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
/// Between two things that are said without end, and what takes the place of an end.
const BREATH: Duration = Duration::from_millis(100);
pub const BABBLE: Duration = Duration::from_secs(20);
/// So many messages go right first.
const BEFORE: usize = 5;
/// Those who recover are kept waiting until they have missed so many messages.
const MISSED: usize = 3;

/// What goes wrong. Where a fault needs a victim, it is somebody who does not send, unless all do.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    None,
    /// One message does not get to the victim.
    Drop,
    /// One message gets to the victim twice.
    Repeat,
    /// Two messages of one sender change places for the victim.
    Swap,
    /// Messages of two senders change places for the victim.
    Disagree,
    /// This byte of one message is another one for the victim.
    Corrupt(usize),
    /// The victim gets this as well.
    MakeUp(String),
    /// Everybody gets this on entering.
    Greet(String),
    /// The victim's connection ends, with a close frame or without.
    Close(Option<(u16, &'static str)>),
    /// The victim gets these bytes instead of a frame.
    Bytes(Vec<u8>),
    /// One message does not get to the victim, who gets something else instead, again and again.
    Babble,
    /// All stand still for so long.
    Stall(Duration),
    /// Requests are answered with these bytes.
    Answer(&'static str),
    /// Requests are not answered.
    Silence,
    /// One request is not answered.
    LateSilence,
    /// The connection of one request ends instead of an answer.
    LateEnd,
    /// Messages are acknowledged, but nobody gets them.
    Swallow,
    /// One acknowledgement is missing.
    Forget,
    /// One acknowledgement comes twice.
    Insist,
    /// One message is refused.
    Refuse,
    /// Offsets jump, for the victim or for all.
    Gap {
        all: bool,
    },
    /// Nobody is let in.
    Lock,
    /// Positions are said not to be recovered, though what was missed comes.
    Deny,
    /// The first one that recovers does not get the first message that it missed.
    Skip,
    /// The first one that recovers gets the last message that it had again.
    Rewind,
}

/// Runs until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    wire: Wire,
    /// Members of a room that send.
    senders: usize,
    state: Mutex<State>,
    /// A message came.
    came: Condvar,
}

struct State {
    fault: Fault,
    is_committed: bool,
    victim: Option<usize>,
    /// What the victim gets later: sender, message.
    held: Vec<(usize, usize)>,
    rooms: HashMap<String, Room>,
    next_id: usize,
    counts: Counts,
    is_over: bool,
}

/// What the server knows itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub upgrades: u64,
    pub messages: u64,
    /// What members did not get, each message and member.
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
    /// Added to the offsets that it gets.
    jump: usize,
    socket: WebSocket<TcpStream>,
}

impl Server {
    /// `senders`: of each room. The fault waits until all have sent something.
    pub fn start(wire: Wire, senders: usize, fault: Fault) -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            fault,
            is_committed: false,
            victim: None,
            held: Vec::new(),
            rooms: HashMap::new(),
            next_id: 0,
            counts: Counts::default(),
            is_over: false,
        };
        let shared = Arc::new(Shared { wire, senders, state: Mutex::new(state), came: Condvar::new() });
        let server = Server { address, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.lock().is_over {
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

    /// The fault was not only planned.
    pub fn is_committed(&self) -> bool {
        self.shared.lock().is_committed
    }

    /// Says something that nobody has sent to one who does not send, and closes its connection, all at once.
    pub fn say_goodbye(&self) {
        let mut state = self.shared.lock();
        let members = state.rooms.values_mut().flat_map(|room| &mut room.members);
        let victim = members.into_iter().find(|member| !member.has_sent).unwrap();
        victim.socket.send(Message::text("goodbye")).unwrap();
        victim.close(None);
    }

    /// Waits until so many messages have come.
    pub fn wait_for_messages(&self, count: u64) {
        let missing = |state: &mut State| state.counts.messages < count;
        let waited = self.shared.came.wait_timeout_while(self.shared.lock(), PATIENCE, missing).unwrap();
        assert!(!waited.1.timed_out(), "only {} messages came", waited.0.counts.messages);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        // Whoever accepts looks up.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A client that goes away ends it.
    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let head = loop {
            let head = read_head(&mut stream)?;
            if !head.starts_with("POST ") {
                break head;
            }
            // Whatever it is, it is done: only rooms are made in this way.
            let mut body = vec![0; header(&head, "content-length")?.parse().ok()?];
            stream.read_exact(&mut body).ok()?;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").ok()?;
        };
        let mut state = self.lock();
        let fault = state.fault.clone();
        let is_time = state.counts.upgrades >= BEFORE as u64 && !state.is_committed;
        state.is_committed |= is_time && matches!(fault, Fault::LateSilence | Fault::LateEnd);
        drop(state);
        match fault {
            Fault::LateEnd if is_time => return None,
            Fault::LateSilence if is_time => return stream.read_to_end(&mut Vec::new()).ok().map(|_| ()),
            Fault::Silence => {
                self.lock().is_committed = true;
                return stream.read_to_end(&mut Vec::new()).ok().map(|_| ());
            }
            Fault::Answer(answer) => {
                self.lock().is_committed = true;
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
            // An echo is a room of one's own.
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
            // One that was closed still misses what is sent.
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
            let missed = |state: &mut State| state.rooms[name].texts.len() < since + MISSED;
            state = self.came.wait_timeout_while(state, PATIENCE, missed).unwrap().0;
        }
        let State { fault, is_committed, rooms, .. } = &mut *state;
        let socket = WebSocket::from_raw_socket(stream.try_clone().ok()?, Role::Server, None);
        let mut member = Member { id, has_sent: false, is_closed: false, jump: 0, socket };
        let room = rooms.entry(name.to_owned()).or_default();
        if *fault == Fault::Lock {
            *is_committed = true;
            let error = json!({"code": 103, "message": "permission denied"});
            return member.say(&match self.wire {
                Wire::Centrifugo => json!({"id": 2, "error": error}),
                _ => json!({"type": "error", "error": error}),
            });
        }
        let denies = since.is_some() && *fault == Fault::Deny;
        *is_committed |= denies;
        let offset = since.unwrap_or(room.texts.len());
        match self.wire {
            Wire::Raw => {}
            Wire::Plain => {
                let mut joined = json!({"type": "joined", "room": name, "epoch": "e", "offset": offset});
                if since.is_some() {
                    joined["recovered"] = (!denies).into();
                }
                member.say(&joined)?;
            }
            Wire::Centrifugo => {
                let mut answer = json!({"recoverable": true, "positioned": true, "epoch": "e", "offset": offset});
                if since.is_some() {
                    answer["was_recovering"] = true.into();
                    answer["recovered"] = (!denies).into();
                }
                member.say(&json!({"id": 2, "subscribe": answer}))?;
            }
        }
        if let Fault::Greet(text) = fault {
            *is_committed = true;
            member.socket.send(Message::text(text.clone())).ok()?;
        }
        let mut missed = offset..room.texts.len();
        if since.is_some() && !*is_committed && (*fault == Fault::Skip || *fault == Fault::Rewind) {
            *is_committed = true;
            missed.start = if *fault == Fault::Skip { offset + 1 } else { offset - 1 };
        }
        for at in missed {
            member.get(self.wire, name, at, &room.texts[at]);
        }
        room.members.push(member);
        Some(())
    }

    fn publish(&self, name: &str, sender: usize, text: &str, number: u64) {
        let mut state = self.lock();
        let State { fault, is_committed, victim, held, rooms, counts, .. } = &mut *state;
        counts.messages += 1;
        let Room { members, texts } = rooms.get_mut(name).unwrap();
        members.iter_mut().filter(|member| member.id == sender).for_each(|member| member.has_sent = true);
        let have_sent = members.iter().filter(|member| member.has_sent).count();
        let is_time = !*is_committed && texts.len() >= BEFORE && have_sent == self.senders;
        if is_time && victim.is_none() {
            *victim = members.iter().find(|member| !member.has_sent).or(members.first()).map(|member| member.id);
        }
        if *fault == Fault::Swallow {
            *is_committed = true;
            counts.undelivered += members.len() as u64;
            acknowledge(self.wire, members, sender, number);
            self.came.notify_all();
            return;
        }
        if is_time && *fault == Fault::Refuse {
            *is_committed = true;
            counts.undelivered += members.len() as u64;
            let error = json!({"id": number, "error": {"code": 100, "message": "internal server error"}});
            members.iter_mut().filter(|member| member.id == sender).for_each(|member| {
                member.say(&error);
            });
            return;
        }
        let at = texts.len();
        texts.push(text.to_owned());
        if let Fault::Stall(time) = fault
            && is_time
        {
            *is_committed = true;
            std::thread::sleep(*time);
        }
        if *fault == (Fault::Gap { all: true }) && is_time {
            *is_committed = true;
            members.iter_mut().for_each(|member| member.jump = 1);
        }
        for member in members.iter_mut() {
            if member.is_closed {
                counts.undelivered += 1;
                continue;
            }
            if *victim != Some(member.id) || *is_committed {
                member.get(self.wire, name, at, text);
                continue;
            }
            let mut is_done = true;
            match fault {
                Fault::Drop => counts.undelivered += 1,
                Fault::Repeat => (0..2).for_each(|_| member.get(self.wire, name, at, text)),
                Fault::Corrupt(byte) => {
                    let mut other = text.as_bytes().to_vec();
                    // Digits stay digits.
                    other[*byte] = if other[*byte] == b'1' { b'2' } else { b'1' };
                    counts.undelivered += 1;
                    member.get(self.wire, name, at, str::from_utf8(&other).unwrap());
                }
                Fault::MakeUp(other) => {
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
                        let until = Instant::now() + BABBLE;
                        while Instant::now() < until && stream.write_all(b"\x81\x04blah").is_ok() {
                            std::thread::sleep(BREATH);
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
            *is_committed |= is_done;
        }
        if self.wire == Wire::Centrifugo {
            let times = match fault {
                Fault::Forget if is_time => 0,
                Fault::Insist if is_time => 2,
                _ => 1,
            };
            *is_committed |= times != 1;
            (0..times).for_each(|_| acknowledge(self.wire, members, sender, number));
        }
        self.came.notify_all();
    }
}

impl Member {
    /// A client that has gone away is noticed by whoever reads.
    fn say(&mut self, value: &Value) -> Option<()> {
        self.socket.send(Message::text(value.to_string())).ok()
    }

    /// Gets a message of its room.
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
        member.say(&answer);
    });
}

/// Not a byte more: what follows is for somebody else.
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
