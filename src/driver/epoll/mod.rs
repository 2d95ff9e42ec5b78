//! The driver on epoll (through mio), for machines that forbid io_uring.
//!
//! Each socket is registered once for reading and writing, edge-triggered: the kernel reports when an operation
//! *becomes* possible, and the driver remembers this until a call finds that it no longer is. Registrations therefore
//! never change, and an edge that arrives while the core wants no input is not lost.
//!
//! A turn: events mark connections; each readable connection is read once, into one shared buffer; then follows the
//! part that both drivers share, in which connections that the core woke are written with one call each.

use super::event_loop::{EventLoop, Transport};
use super::{Error, ShardSetup, now};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;
use uproar_core::Slot;
use uproar_core::{Host, Now};

/// Events fetched in one turn; the rest follow in the next.
const EVENTS_LIMIT: usize = 1024;

/// Bytes read from one connection in one turn. Further bytes are read after the other connections have had theirs.
const READ_LIMIT_BYTES: usize = if cfg!(test) { 1024 } else { 16 * 1024 };

/// Slices in one send: as many as the core returns at a time.
const SLICES_LIMIT: usize = 16;

/// The token of the eventfd. Listeners have the tokens just below it, counting down; slots count up from 0.
const EVENTFD: Token = Token(usize::MAX);

/// See [`super::Driver::run`].
pub(super) fn run(setup: ShardSetup) -> Result<(), Error> {
    let poll = Poll::new().map_err(Error::Epoll)?;
    let epoll = Epoll { poll, buffer: vec![0; READ_LIMIT_BYTES], to_read: Vec::new(), reading: Vec::new() };
    let mut event_loop = EventLoop::new(setup, epoll);
    event_loop.watch().map_err(Error::Epoll)?;
    event_loop.run().map_err(Error::Epoll)
}

struct Epoll {
    poll: Poll,
    /// Receives the bytes of all connections.
    buffer: Vec<u8>,
    /// Slots with something to read.
    to_read: Vec<Slot>,
    /// Scratch space, empty between uses.
    reading: Vec<Slot>,
}

/// What a socket's events, and later calls that would have blocked, say about it.
#[derive(Default)]
struct Readiness {
    /// There may be something to read.
    is_readable: bool,
    /// The peer sends nothing more, so reading will reach the end.
    is_read_closed: bool,
    /// The connection is broken: nothing can be written any more.
    is_broken: bool,
    /// The kernel takes no more bytes until it reports that the socket is writable.
    is_blocked: bool,
    /// The slot is in `to_read`.
    is_queued: bool,
}

impl Transport for Epoll {
    type Io = Readiness;

    const NONBLOCKING: bool = true;

    fn open(&mut self, slot: Slot, socket: &OwnedFd) -> io::Result<Readiness> {
        let interests = Interest::READABLE | Interest::WRITABLE;
        // Closing the socket unregisters it, as the descriptor has no duplicate.
        self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(slot.index()), interests)?;
        Ok(Readiness::default())
    }

    fn release(&mut self, socket: &OwnedFd) {
        // It can't fail: the socket is registered.
        let _ = self.poll.registry().deregister(&mut SourceFd(&socket.as_raw_fd()));
    }

    fn is_idle(_: &Readiness) -> bool {
        true
    }

    fn is_sending(_: &Readiness) -> bool {
        false
    }

    /// Does nothing unless the socket is readable; otherwise an event will come.
    fn read(event_loop: &mut EventLoop<Epoll>, slot: Slot) {
        let Some(open) = &mut event_loop.slots[slot.index()].open else { return };
        if open.io.is_readable && !std::mem::replace(&mut open.io.is_queued, true) {
            event_loop.transport.to_read.push(slot);
        }
    }

    fn write(event_loop: &mut EventLoop<Epoll>, slot: Slot, now: Now) {
        event_loop.send(slot, now);
        event_loop.abort_closed();
    }
}

impl EventLoop<Epoll> {
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
        let mut events = Events::with_capacity(EVENTS_LIMIT);
        loop {
            let now = now(&self.clock);
            let Some(wait) = self.turn(now, &events) else { return Ok(()) };
            if let Err(error) = self.transport.poll.poll(&mut events, wait) {
                events.clear();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }

    /// Runs one turn with the events that were fetched. Returns `Some` with the time to sleep (`None`: until an event
    /// comes), or `None` once the shard has stopped.
    fn turn(&mut self, now: Now, events: &Events) -> Option<Option<Duration>> {
        self.inbox.awake();
        self.shard.check_lease(now, &mut self.effects);
        events.iter().for_each(|event| self.on_event(event));
        self.read_ready(now);
        let more = self.drive_shard(now);
        self.effects.outbox.flush();
        if self.has_stopped(now) {
            return None;
        }
        if more || !self.transport.to_read.is_empty() || !self.inbox.sleep() {
            return Some(Some(Duration::ZERO));
        }
        // Never 0: a deadline of the core that has passed must not keep the thread from sleeping.
        let wait = self.wake_at(now, None).map(|at| at.saturating_sub(now.ms).max(1));
        Some(wait.map(Duration::from_millis))
    }

    /// Records an event. It always belongs to the connection that has the slot now: slots change hands only after all
    /// events of a turn, and closing a socket drops its events that have not been fetched.
    fn on_event(&mut self, event: &Event) {
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
        let readiness = &mut open.io;
        readiness.is_readable |= event.is_readable() || event.is_read_closed();
        readiness.is_read_closed |= event.is_read_closed();
        // A half-closed connection is not broken: its peer may still read the answers.
        readiness.is_broken |= event.is_write_closed() || event.is_error();
        let slot = Slot(token.0 as u32);
        if event.is_writable() && std::mem::take(&mut readiness.is_blocked) {
            self.effects.wake(slot);
        }
        Epoll::read(self, slot);
    }

    /// Reads all connections that have something to read.
    fn read_ready(&mut self, now: Now) {
        let mut reading = std::mem::take(&mut self.transport.reading);
        std::mem::swap(&mut reading, &mut self.transport.to_read);
        for slot in reading.drain(..) {
            self.receive(slot, now);
            self.abort_closed();
        }
        self.transport.reading = reading;
    }

    fn receive(&mut self, slot: Slot, now: Now) {
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        open.io.is_queued = false;
        if open.waits_for_handshake() {
            return;
        }
        if !self.shard.wants_input(slot) {
            // It is read once the core wants input again. A broken connection need not wait for that.
            if open.io.is_broken {
                self.on_failed(slot, now);
            }
            return;
        }
        let buffer = &mut self.transport.buffer;
        match recv(&open.socket, buffer.as_mut_slice(), RecvFlags::empty()) {
            Ok((_, length @ 1..)) => {
                // A buffer that is not full took everything, and later bytes cause a new edge. The end of the stream
                // does not, if its edge came together with the bytes before it.
                open.io.is_readable = length == buffer.len() || open.io.is_read_closed;
                let mut buffer = std::mem::take(&mut self.transport.buffer);
                self.on_bytes(slot, &mut buffer[..length], now);
                self.transport.buffer = buffer;
            }
            Err(Errno::AGAIN) => open.io.is_readable = false,
            Err(Errno::INTR) => Epoll::read(self, slot),
            Ok(_) => {
                open.io.is_readable = false;
                self.on_peer_closed(slot, now);
            }
            Err(_) => self.on_failed(slot, now),
        }
    }

    /// Sends the core's output for a connection, unless the kernel takes nothing. The rest follows in a later turn.
    fn send(&mut self, slot: Slot, now: Now) {
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        if open.is_aborted || open.io.is_blocked {
            return;
        }
        if open.tls.is_some() {
            return self.send_sealed(slot, now);
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
            Err(_) => return self.on_failed(slot, now),
        };
        // After a partial write the kernel's buffer is full, and an event reports when it has room again.
        open.io.is_blocked = written < length && result != Err(Errno::INTR);
        self.shard.sent(now, slot, written, &mut self.effects);
    }

    /// The same for a TLS connection: one record.
    fn send_sealed(&mut self, slot: Slot, now: Now) {
        if !self.seal(slot, now) {
            return;
        }
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        let Some(tls) = &mut open.tls else { return };
        let length = tls.session.outgoing().len();
        let written = match send(&open.socket, tls.session.outgoing(), SendFlags::NOSIGNAL) {
            Ok(written) => written,
            Err(Errno::AGAIN) => 0,
            Err(Errno::INTR) => return self.effects.wake(slot),
            Err(_) => return self.on_failed(slot, now),
        };
        tls.session.advance(written);
        open.io.is_blocked = written < length;
        if written == length {
            self.on_sealed_sent(slot, now);
        }
    }
}
