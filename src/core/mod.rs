//! The sans-I/O state machine of a shard. (Here: an echo behind its signatures, to run the driver with.)

pub mod host;
pub mod mesh;

pub use host::{Host, Now};
pub use mesh::{Endpoint, Message};

use crate::limits::Limits;
use crate::websocket::upgrade::{refusal, switching_protocols};
use crate::websocket::{Event, OpCode, Request, close_frame, frame, push_frame};
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::SocketAddr;

#[derive(Default)]
struct Session {
    used: bool,
    requested: bool,
    cut: bool,
    closing: bool,
    is_full: bool,
    out: VecDeque<Bytes>,
    queued: usize,
    deadline: Option<u64>,
}

pub struct Shard {
    limits: Limits,
    sessions: Vec<Session>,
    free: Vec<u32>,
    open: usize,
    draining: bool,
}

impl Shard {
    pub fn echo(limits: Limits) -> Shard {
        Shard { limits, sessions: Vec::new(), free: Vec::new(), open: 0, draining: false }
    }

    fn push(&mut self, slot: u32, bytes: Bytes, host: &mut impl Host) {
        let session = &mut self.sessions[slot as usize];
        session.queued += bytes.len();
        session.out.push_back(bytes);
        if session.queued as u64 > self.limits.outbound_limit_bytes {
            session.is_full = true;
        }
        host.wake(slot);
    }

    fn close(&mut self, now: Now, slot: u32, bytes: Bytes, host: &mut impl Host) {
        let session = &mut self.sessions[slot as usize];
        if !session.closing {
            session.closing = true;
            session.deadline = Some(now.ms + self.limits.close_timeout_ms);
            self.push(slot, bytes, host);
        }
    }

    fn cut(&mut self, slot: u32, host: &mut impl Host) {
        let session = &mut self.sessions[slot as usize];
        if !std::mem::replace(&mut session.cut, true) {
            session.deadline = None;
            host.cut(slot);
        }
    }

    pub fn opened(&mut self, now: Now, _peer: SocketAddr, _host: &mut impl Host) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sessions.push(Session::default());
            self.sessions.len() as u32 - 1
        });
        let deadline = Some(now.ms + self.limits.handshake_timeout_ms);
        self.sessions[slot as usize] = Session { used: true, deadline, ..Session::default() };
        self.open += 1;
        slot
    }

    pub fn requested(&mut self, now: Now, slot: u32, request: Request, host: &mut impl Host) {
        self.sessions[slot as usize].requested = true;
        if request.path != "/echo" {
            self.close(now, slot, refusal(404, "not_found", "There is nothing here.", &[]), host);
        } else {
            self.sessions[slot as usize].deadline = None;
            if !request.answered {
                self.push(slot, switching_protocols(&request, None), host);
            }
        }
    }

    pub fn handed_over(&mut self, slot: u32) {
        self.vacated(slot);
    }

    pub fn frame(&mut self, now: Now, slot: u32, event: Event<'_>, host: &mut impl Host) {
        assert!(self.wants_input(slot));
        let mut out = Vec::new();
        match event {
            _ if self.sessions[slot as usize].closing => return,
            Event::Text(text) => push_frame(&mut out, OpCode::Text, text.as_bytes()),
            Event::Binary(bytes) => push_frame(&mut out, OpCode::Binary, bytes),
            Event::Ping(bytes) => push_frame(&mut out, OpCode::Pong, bytes),
            Event::Pong(_) => return,
            Event::Close { code: None, .. } => return self.close(now, slot, frame::empty_close_frame(), host),
            Event::Close { code: Some(code), .. } => return self.close(now, slot, close_frame(code, "bye"), host),
            Event::Violation { code, reason } => return self.close(now, slot, close_frame(code, reason), host),
        }
        self.push(slot, out.into(), host);
    }

    pub fn wants_input(&self, slot: u32) -> bool {
        let session = &self.sessions[slot as usize];
        session.used && !session.cut && !session.is_full
    }

    pub fn outgoing(&mut self, slot: u32, slices: &mut Vec<Bytes>) {
        slices.extend(self.sessions[slot as usize].out.iter().cloned());
    }

    pub fn sent(&mut self, _now: Now, slot: u32, mut bytes: usize, host: &mut impl Host) {
        let session = &mut self.sessions[slot as usize];
        session.queued -= bytes;
        while bytes > 0 {
            let first = session.out.front_mut().unwrap();
            if bytes < first.len() {
                let _ = first.split_to(bytes);
                break;
            }
            bytes -= first.len();
            session.out.pop_front();
        }
        if session.is_full && session.queued == 0 {
            session.is_full = false;
            host.wake(slot);
        }
    }

    pub fn hung_up(&mut self, _now: Now, slot: u32, host: &mut impl Host) {
        let session = &self.sessions[slot as usize];
        assert!(session.used);
        self.cut(slot, host);
    }

    pub fn vacated(&mut self, slot: u32) {
        assert!(std::mem::take(&mut self.sessions[slot as usize]).used);
        self.free.push(slot);
        self.open -= 1;
    }

    pub fn mesh(&mut self, _now: Now, _from: Endpoint, message: Message, _host: &mut impl Host) {
        match message {}
    }

    pub fn turn(&mut self, now: Now, host: &mut impl Host) -> bool {
        for slot in 0..self.sessions.len() {
            if self.sessions[slot].deadline.is_some_and(|deadline| deadline <= now.ms) {
                self.cut(slot as u32, host);
            }
        }
        false
    }

    pub fn deadline(&self) -> Option<u64> {
        self.sessions.iter().filter_map(|session| session.deadline).min()
    }

    pub fn drain(&mut self, now: Now, host: &mut impl Host) {
        self.draining = true;
        for slot in 0..self.sessions.len() as u32 {
            let session = &self.sessions[slot as usize];
            if session.used && session.requested {
                self.close(now, slot, close_frame(1001, "The server stops."), host);
            } else if session.used {
                self.cut(slot, host);
            }
        }
    }

    pub fn drained(&self) -> bool {
        self.draining && self.open == 0
    }
}
