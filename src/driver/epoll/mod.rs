//! The driver on epoll, through mio, for where io_uring is forbidden.
//!
//! Each socket is registered once, for reading and writing, edge-triggered: the kernel says when something *begins* to
//! be possible, and the driver remembers it until a call finds that it no longer is. So there is no call to change what
//! a socket is watched for, and an edge that comes while the core wants no input is there when it does again.
//!
//! A turn: events mark connections; those with something to read are read, once each, into one buffer that they share;
//! then all that the drivers have in common, where connections that the core woke are written, with one call each.

use super::pump::{Pump, Transport};
use super::{Error, ShardSetup, now};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;
use uproar_core::{Host, Now};

/// Events that are taken at once; the rest come in the next turn.
const EVENTS: usize = 1024;

/// The most bytes that are read of a connection in one turn. One who sends more is read on after the others.
const READ_BYTES: usize = if cfg!(test) { 1024 } else { 16 * 1024 };

/// Slices of one send: as many as the core gives at once.
const SLICES_LIMIT: usize = 16;

/// The eventfd. Below it, downwards, come the listeners; slots count from 0.
const EVENTFD: Token = Token(usize::MAX);

/// See [`super::Driver::run`].
pub(super) fn run(setup: ShardSetup) -> Result<(), Error> {
    let poll = Poll::new().map_err(Error::Epoll)?;
    let epoll = Epoll { poll, buffer: vec![0; READ_BYTES], to_read: Vec::new(), reading: Vec::new() };
    let mut pump = Pump::new(setup, epoll);
    pump.watch().map_err(Error::Epoll)?;
    pump.run().map_err(Error::Epoll)
}

struct Epoll {
    poll: Poll,
    /// What is read goes here first, whoever sent it.
    buffer: Vec<u8>,
    /// Slots that have something to read and may be read.
    to_read: Vec<u32>,
    /// Emptied after each use.
    reading: Vec<u32>,
}

/// What is known of a socket from its events, and from calls that came back empty-handed since.
#[derive(Default)]
struct Known {
    /// There may be something to read.
    is_readable: bool,
    /// The other side sends no more: what is to be read ends.
    is_read_closed: bool,
    /// The connection is broken: nothing can be written any more.
    is_broken: bool,
    /// The kernel takes no more until it says so.
    is_blocked: bool,
    /// It is in `to_read`.
    is_queued: bool,
}

impl Transport for Epoll {
    type Io = Known;

    const NONBLOCKING: bool = true;

    fn open(&mut self, slot: u32, socket: &OwnedFd) -> io::Result<Known> {
        let interests = Interest::READABLE | Interest::WRITABLE;
        // Closing takes it out again: the descriptor has no duplicate.
        self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(slot as usize), interests)?;
        Ok(Known::default())
    }

    fn release(&mut self, socket: &OwnedFd) {
        // It was registered, so it can be taken out.
        let _ = self.poll.registry().deregister(&mut SourceFd(&socket.as_raw_fd()));
    }

    fn is_idle(_: &Known) -> bool {
        true
    }

    /// Without an event there is nothing to read, and the event will come.
    fn read(pump: &mut Pump<Epoll>, slot: u32) {
        let Some(open) = &mut pump.slots[slot as usize].open else { return };
        if open.io.is_readable && !std::mem::replace(&mut open.io.is_queued, true) {
            pump.transport.to_read.push(slot);
        }
    }

    fn write(pump: &mut Pump<Epoll>, slot: u32, now: Now) {
        pump.send(slot, now);
        pump.cut_ended();
    }
}

impl Pump<Epoll> {
    fn watch(&mut self) -> io::Result<()> {
        let registry = self.transport.poll.registry();
        for (index, listener) in self.listeners.iter().enumerate() {
            let token = Token(EVENTFD.0 - 1 - index);
            registry.register(&mut SourceFd(&listener.socket.as_raw_fd()), token, Interest::READABLE)?;
        }
        match self.inbox.eventfd() {
            Some(eventfd) => registry.register(&mut SourceFd(&eventfd.as_raw_fd()), EVENTFD, Interest::READABLE),
            None => Ok(()),
        }
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let now = now();
            let Some(wait) = self.turn(now, &events) else { return Ok(()) };
            if let Err(error) = self.transport.poll.poll(&mut events, wait) {
                events.clear();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }

    /// One turn, with what has happened. Returns how long to sleep, in a `Some`; None: the shard has stopped.
    fn turn(&mut self, now: Now, events: &Events) -> Option<Option<Duration>> {
        self.inbox.awake();
        events.iter().for_each(|event| self.happened(event));
        self.read_ready(now);
        let more = self.serve(now);
        self.effects.outbox.flush();
        if self.has_stopped(now) {
            return None;
        }
        if more || !self.transport.to_read.is_empty() || !self.inbox.sleep() {
            return Some(Some(Duration::ZERO));
        }
        // Never 0: what the core still waits for at a time that has passed must not keep the thread from sleeping.
        let wait = self.wake_at(now, None).map(|at| at.saturating_sub(now.ms).max(1));
        Some(wait.map(Duration::from_millis))
    }

    /// Remembers what an event says. It concerns whoever has the slot now: slots are freed and given anew only after
    /// all events of a turn, and closing a socket takes back events that have not been fetched.
    fn happened(&mut self, event: &Event) {
        let token = event.token();
        if token == EVENTFD {
            return self.inbox.clear_eventfd();
        }
        let listener = EVENTFD.0 - 1 - token.0;
        if let Some(listener) = self.listeners.get_mut(listener) {
            listener.is_ready = true;
            return;
        }
        let Some(open) = self.slots.get_mut(token.0).and_then(|slot| slot.open.as_mut()) else { return };
        let known = &mut open.io;
        known.is_readable |= event.is_readable() || event.is_read_closed();
        known.is_read_closed |= event.is_read_closed();
        // Half a close is none: who has sent all that it has may still read the answers.
        known.is_broken |= event.is_write_closed() || event.is_error();
        let slot = token.0 as u32;
        if event.is_writable() && std::mem::take(&mut known.is_blocked) {
            self.effects.wake(slot);
        }
        Epoll::read(self, slot);
    }

    /// Reads from all that have something.
    fn read_ready(&mut self, now: Now) {
        let mut reading = std::mem::take(&mut self.transport.reading);
        std::mem::swap(&mut reading, &mut self.transport.to_read);
        for slot in reading.drain(..) {
            self.receive(slot, now);
            self.cut_ended();
        }
        self.transport.reading = reading;
    }

    fn receive(&mut self, slot: u32, now: Now) {
        let Some(open) = &mut self.slots[slot as usize].open else { return };
        open.io.is_queued = false;
        if !self.shard.wants_input(slot) {
            // It is read when the core wants it to be, unless that is of no use to anyone.
            if open.io.is_broken {
                self.hung_up(slot, now);
            }
            return;
        }
        let buffer = &mut self.transport.buffer;
        match recv(&open.socket, buffer.as_mut_slice(), RecvFlags::empty()) {
            Ok((_, length @ 1..)) => {
                // Less than there was place for: that was all, and what comes now makes an edge. But not the end, where
                // its edge has been seen with what came before it.
                open.io.is_readable = length == buffer.len() || open.io.is_read_closed;
                let mut buffer = std::mem::take(&mut self.transport.buffer);
                self.input(slot, &mut buffer[..length], now);
                self.transport.buffer = buffer;
            }
            Err(Errno::AGAIN) => open.io.is_readable = false,
            Err(Errno::INTR) => Epoll::read(self, slot),
            Ok(_) | Err(_) => self.hung_up(slot, now),
        }
    }

    /// Sends what the core has for a connection, unless the kernel takes nothing. What is left goes out in a later
    /// turn.
    fn send(&mut self, slot: u32, now: Now) {
        let Some(open) = &mut self.slots[slot as usize].open else { return };
        if open.is_cut || open.io.is_blocked {
            return;
        }
        debug_assert!(self.slices.is_empty());
        self.shard.outgoing(slot, &mut self.slices);
        self.slices.truncate(SLICES_LIMIT);
        let length: usize = self.slices.iter().map(|bytes| bytes.len()).sum();
        if length == 0 {
            return self.slices.clear();
        }
        let result = match self.slices.as_slice() {
            [bytes] => send(&open.socket, bytes, SendFlags::NOSIGNAL),
            slices => {
                let mut gathered = [IoSlice::new(&[]); SLICES_LIMIT];
                gathered.iter_mut().zip(slices).for_each(|(gathered, bytes)| *gathered = IoSlice::new(bytes));
                let gathered = &gathered[..slices.len()];
                sendmsg(&open.socket, gathered, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
            }
        };
        self.slices.clear();
        let written = match result {
            Ok(written) => written,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => return self.hung_up(slot, now),
        };
        // Less than there was: the kernel takes no more, and says when it does.
        open.io.is_blocked = written < length && result != Err(Errno::INTR);
        self.shard.sent(now, slot, written, &mut self.effects);
    }
}
