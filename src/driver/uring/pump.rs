//! The loop of a shard.
//!
//! A turn: completions go to the core; then all that the drivers have in common; used buffers go back, and new
//! operations are prepared. The kernel gets them when the submission queue is full, and when the thread goes to sleep.

use super::super::pump::{Pump, Transport};
use super::super::{ShardSetup, now};
use super::buffers::Buffers;
use super::operation::{self, Completion, Kind, Operation, Token, take};
use io_uring::{opcode, types};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use uproar_core::{Host, Now, Slice};

pub(super) async fn run(setup: ShardSetup) {
    let ring = Ring {
        buffers: Buffers::new(),
        to_receive: Vec::new(),
        accepts: setup.listeners.iter().map(|_| None).collect(),
        poll: None,
        nop: None,
        gathers: Vec::new(),
    };
    // Not dropped if the core panics: operations that are in flight then keep what the kernel reads for them.
    let mut pump = ManuallyDrop::new(Pump::new(setup, ring));
    pump.run().await;
    ManuallyDrop::into_inner(pump);
}

/// Operations and buffers of a shard.
struct Ring {
    buffers: Buffers,
    /// Slots to receive from, once buffers have been given back.
    to_receive: Vec<u32>,
    /// By listener: waits until someone connects.
    accepts: Vec<Option<Operation<()>>>,
    /// Waits for the eventfd.
    poll: Option<Operation<()>>,
    /// Ends the next sleep at once.
    nop: Option<Operation<()>>,
    /// For sends of several slices, used again and again.
    #[expect(clippy::vec_box, reason = "each has its address, which outlives its place here")]
    gathers: Vec<Box<Gather>>,
}

/// What is in flight for one connection.
#[derive(Default)]
struct InFlight {
    receive: Option<Operation<()>>,
    send: Option<Operation<Sending>>,
}

/// What the kernel reads for a send.
enum Sending {
    #[expect(dead_code, reason = "it is only kept")]
    One(Slice),
    Many(Box<Gather>),
}

/// Several slices, with the description of them that the kernel reads. Its address must not change while it does.
struct Gather {
    slices: Vec<Slice>,
    iovecs: Vec<libc::iovec>,
    message: libc::msghdr,
}

impl Transport for Ring {
    type Io = InFlight;

    /// io_uring would not wait on a socket that is set not to.
    const NONBLOCKING: bool = false;

    fn open(&mut self, _slot: u32, _socket: &OwnedFd) -> io::Result<InFlight> {
        Ok(InFlight::default())
    }

    fn release(&mut self, _socket: &OwnedFd) {}

    fn is_idle(io: &InFlight) -> bool {
        io.receive.is_none() && io.send.is_none()
    }

    fn read(pump: &mut Pump<Ring>, slot: u32) {
        // Nearly always it is being read.
        if pump.slots[slot as usize].open.as_ref().is_some_and(|open| open.io.receive.is_none()) {
            pump.transport.to_receive.push(slot);
        }
    }

    fn write(pump: &mut Pump<Ring>, slot: u32, _now: Now) {
        pump.send(slot);
    }
}

impl Pump<Ring> {
    async fn run(&mut self) {
        let mut timer = pin!(sleep(Duration::MAX));
        let mut timer_at = None;
        let mut tokens = Vec::new();
        loop {
            let now = now();
            let Some(wake_at) = self.turn(now, &mut tokens) else { return };
            if wake_at != timer_at || timer.is_elapsed() {
                timer_at = wake_at;
                // A year, where there is nothing to wait for: a duration that the timer can add to the time. And never
                // 0, as the kernel gets what was prepared only when the thread sleeps.
                let wait = wake_at.map_or(365 * 86_400_000, |at| at.saturating_sub(now.ms).max(1));
                timer.as_mut().reset(Instant::now() + Duration::from_millis(wait));
            }
            operation::completed(&mut tokens, timer.as_mut()).await;
        }
    }

    /// One turn, with what has completed. Returns when the next must be at the latest, in a `Some`; None: the shard has
    /// stopped.
    fn turn(&mut self, now: Now, tokens: &mut Vec<Token>) -> Option<Option<u64>> {
        self.inbox.awake();
        for token in tokens.drain(..) {
            self.completed(token, now);
        }
        let more = self.serve(now);
        self.transport.buffers.give_back(now);
        self.receive();
        self.effects.outbox.flush();
        if self.has_stopped(now) {
            return None;
        }

        self.poll_listeners();
        self.poll_eventfd();
        if more || !self.inbox.sleep() {
            self.come_back();
        }
        Some(self.wake_at(now, self.transport.buffers.retry_at()))
    }

    fn completed(&mut self, token: Token, now: Now) {
        match token.kind {
            Kind::Receive => self.received(token, now),
            Kind::Send => self.sent(token, now),
            Kind::Accept => {
                let index = token.index as usize;
                // Errors too: accepting finds out.
                self.listeners[index].is_ready |= take(&mut self.transport.accepts[index], token).is_some();
            }
            Kind::Provide => self.transport.buffers.completed(token, now),
            Kind::Poll => {
                if take(&mut self.transport.poll, token).is_some() {
                    self.inbox.clear_eventfd();
                }
            }
            Kind::Nop => drop(take(&mut self.transport.nop, token)),
        }
        self.cut_ended();
    }

    // ---- reading ----

    fn receive(&mut self) {
        if self.transport.buffers.retry_at().is_some() {
            return; // They would find no buffer, again and again.
        }
        for slot in self.transport.to_receive.drain(..) {
            let Some(open) = &mut self.slots[slot as usize].open else { continue };
            if open.io.receive.is_some() || open.is_cut || open.has_hung_up || !self.shard.wants_input(slot) {
                continue;
            }
            let entry = Buffers::receive(open.socket.as_raw_fd());
            let token = Token { kind: Kind::Receive, index: slot };
            // SAFETY: one completion; the buffers are never freed; the socket is closed when no operation is in flight.
            open.io.receive = Some(unsafe { Operation::submit(entry, (), token) });
        }
    }

    fn received(&mut self, token: Token, now: Now) {
        let slot = token.index;
        let Some(open) = &mut self.slots[slot as usize].open else { return };
        let Some(completion) = take(&mut open.io.receive, token) else { return };
        let length = usize::try_from(completion.result).unwrap_or(0);
        // SAFETY: the number is of this completion, which is seen once.
        let filled = completion.buffer().map(|number| unsafe { self.transport.buffers.take(number, length) });
        if open.is_cut {
            self.vacate_if_done(slot);
        } else if open.has_hung_up {
            // Nothing of it is of use.
        } else {
            match (completion.error(), filled.as_ref()) {
                // All buffers were in use. Each turn gives back those that it has seen, so there are some at its end.
                (libc::ENOBUFS | libc::EINTR | libc::EAGAIN, _) => self.transport.to_receive.push(slot),
                (0, Some(_)) if length > 0 => {
                    if let Some(filled) = filled {
                        self.input(slot, filled.bytes, now);
                        self.transport.buffers.put_back(filled);
                    }
                    return;
                }
                _ => self.hung_up(slot, now),
            }
        }
        if let Some(filled) = filled {
            self.transport.buffers.put_back(filled);
        }
    }

    // ---- writing ----

    /// Sends what the core has for a connection, unless a send is in flight.
    fn send(&mut self, slot: u32) {
        let Some(open) = &mut self.slots[slot as usize].open else { return };
        if open.is_cut || open.io.send.is_some() {
            return;
        }
        debug_assert!(self.slices.is_empty());
        self.shard.outgoing(slot, &mut self.slices);
        // One send is at most what the kernel buffers, so that a slow reader is seen to make progress.
        bound(&mut self.slices, self.limits.socket_send_buffer_bytes as usize);

        let socket = types::Fd(open.socket.as_raw_fd());
        let token = Token { kind: Kind::Send, index: slot };
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let (entry, sending) = if self.slices.len() > 1 {
            let mut gather = self.transport.gathers.pop().unwrap_or_default();
            std::mem::swap(&mut gather.slices, &mut self.slices);
            let message = gather.describe();
            (opcode::SendMsg::new(socket, message).flags(flags as u32).build(), Sending::Many(gather))
        } else {
            let Some(bytes) = self.slices.pop() else { return };
            let entry = opcode::Send::new(socket, bytes.as_ptr(), bytes.len() as u32).flags(flags).build();
            (entry, Sending::One(bytes))
        };
        // SAFETY: one completion. `sending` owns what is read: the bytes of shared buffers, which stay where they are,
        // and a box with what describes them. The socket is closed when no operation is in flight.
        open.io.send = Some(unsafe { Operation::submit(entry, sending, token) });
    }

    fn sent(&mut self, token: Token, now: Now) {
        let slot = token.index;
        let Some(open) = &mut self.slots[slot as usize].open else { return };
        let Some(completion) = take(&mut open.io.send, token) else { return };
        let Completion { result, data, .. } = completion;
        if let Sending::Many(mut gather) = data {
            gather.slices.clear();
            self.transport.gathers.push(gather);
        }
        if open.is_cut {
            self.vacate_if_done(slot);
        } else if result > 0 {
            self.shard.sent(now, slot, result as usize, &mut self.effects);
        } else if matches!(-result, libc::EINTR | libc::EAGAIN) {
            self.effects.wake(slot);
        } else {
            self.hung_up(slot, now);
        }
    }

    // ---- sleeping ----

    fn poll_listeners(&mut self) {
        for (index, listener) in self.listeners.iter().enumerate() {
            let poll = &mut self.transport.accepts[index];
            if !listener.is_ready && poll.is_none() && self.stop_at.is_none() {
                *poll = Some(poll_readable(listener.socket.as_fd(), Token { kind: Kind::Accept, index: index as u32 }));
            }
        }
    }

    fn poll_eventfd(&mut self) {
        let Some(eventfd) = self.inbox.eventfd() else { return };
        if self.transport.poll.is_none() {
            self.transport.poll = Some(poll_readable(eventfd, Token { kind: Kind::Poll, index: 0 }));
        }
    }

    /// Ends the next sleep at once. The thread has to go to sleep nevertheless: that is when the kernel gets what was
    /// prepared.
    fn come_back(&mut self) {
        if self.transport.nop.is_none() {
            let token = Token { kind: Kind::Nop, index: 0 };
            // SAFETY: one completion, no memory, no descriptor.
            self.transport.nop = Some(unsafe { Operation::submit(opcode::Nop::new().build(), (), token) });
        }
    }
}

/// Completes when something can be read. What is polled is the pump's, and lives as long as it.
fn poll_readable(descriptor: BorrowedFd<'_>, token: Token) -> Operation<()> {
    let entry = opcode::PollAdd::new(types::Fd(descriptor.as_raw_fd()), libc::POLLIN as u32).build();
    // SAFETY: one completion, and no memory. The pump closes its listeners and the eventfd only with itself; should the
    // operation be in flight still, the kernel holds the file by then.
    unsafe { Operation::submit(entry, (), token) }
}

impl Default for Gather {
    fn default() -> Gather {
        // SAFETY: a C struct of numbers and pointers, for which zero is a value.
        let message = unsafe { std::mem::zeroed() };
        Gather { slices: Vec::new(), iovecs: Vec::new(), message }
    }
}

impl Gather {
    /// What tells the kernel of the slices. It is good as long as neither they nor this box change.
    fn describe(self: &mut Box<Gather>) -> *const libc::msghdr {
        self.iovecs.clear();
        let iovec = |bytes: &Slice| libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() };
        self.iovecs.extend(self.slices.iter().map(iovec));
        self.message.msg_iov = self.iovecs.as_mut_ptr();
        self.message.msg_iovlen = self.iovecs.len() as _;
        &raw const self.message
    }
}

/// Leaves slices of at most `limit` bytes, but at least one.
fn bound(slices: &mut Vec<Slice>, limit: usize) {
    let mut left = limit.max(1);
    for (index, bytes) in slices.iter_mut().enumerate() {
        if left == 0 {
            slices.truncate(index);
            return;
        }
        bytes.truncate(left);
        left -= bytes.len();
    }
}
