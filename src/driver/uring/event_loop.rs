//! The event loop of a shard.
//!
//! A turn: completions go to the core; then follows the part that both drivers share; used buffers are returned, and
//! new operations are queued. The kernel gets them when the submission queue is full and when the thread goes to sleep.

use super::super::event_loop::{EventLoop, Transport};
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
use uproar_core::Slot;
use uproar_core::{Host, Now, Slice};

/// Flags of every send. It completes when the kernel has taken all bytes.
const SEND_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

pub(super) async fn run(setup: ShardSetup) {
    let ring = Ring {
        buffers: Buffers::new(),
        to_receive: Vec::new(),
        accepts: Vec::new(),
        poll: None,
        nop: None,
        gathers: Vec::new(),
    };
    // Not dropped if the core panics, so that the memory of operations in flight stays valid for the kernel.
    let mut event_loop = ManuallyDrop::new(EventLoop::new(setup, ring));
    event_loop.transport.accepts = event_loop.listeners.iter().map(|_| None).collect();
    event_loop.run().await;
    ManuallyDrop::into_inner(event_loop);
}

/// The operations and buffers of a shard.
struct Ring {
    buffers: Buffers,
    /// Slots to receive from, once buffers have been returned.
    to_receive: Vec<Slot>,
    /// By listener: the operation that waits for a connection.
    accepts: Vec<Option<Operation<()>>>,
    /// The operation that waits for the eventfd.
    poll: Option<Operation<()>>,
    /// The operation that makes the next sleep end immediately.
    nop: Option<Operation<()>>,
    /// Reused by sends of several slices.
    #[expect(clippy::vec_box, reason = "the kernel needs each one at a stable address")]
    gathers: Vec<Box<Gather>>,
}

/// The operations in flight for one connection.
#[derive(Default)]
struct InFlight {
    receive: Option<Operation<()>>,
    send: Option<Operation<Sending>>,
}

/// The bytes that the kernel reads for a send.
enum Sending {
    #[expect(dead_code, reason = "only kept alive")]
    One(Slice),
    Many(Box<Gather>),
    /// Ciphertext.
    Sealed(Vec<u8>),
}

/// Several slices, with their description for the kernel. Its address must not change while the send is in flight.
struct Gather {
    slices: Vec<Slice>,
    iovecs: Vec<libc::iovec>,
    message: libc::msghdr,
}

impl Transport for Ring {
    type Io = InFlight;

    /// io_uring does not wait on non-blocking sockets.
    const NONBLOCKING: bool = false;

    fn open(&mut self, _slot: Slot, _socket: &OwnedFd) -> io::Result<InFlight> {
        Ok(InFlight::default())
    }

    fn release(&mut self, _socket: &OwnedFd) {}

    fn is_idle(io: &InFlight) -> bool {
        io.receive.is_none() && io.send.is_none()
    }

    fn is_sending(io: &InFlight) -> bool {
        io.send.is_some()
    }

    fn read(event_loop: &mut EventLoop<Ring>, slot: Slot) {
        // Usually a receive is in flight already.
        if event_loop.slots[slot.index()].open.as_ref().is_some_and(|open| open.io.receive.is_none()) {
            event_loop.transport.to_receive.push(slot);
        }
    }

    fn write(event_loop: &mut EventLoop<Ring>, slot: Slot, now: Now) {
        event_loop.send(slot, now);
    }
}

impl EventLoop<Ring> {
    async fn run(&mut self) {
        let mut timer = pin!(sleep(Duration::MAX));
        let mut timer_at = None;
        let mut tokens = Vec::new();
        loop {
            let now = now(&self.clock);
            let Some(wake_at) = self.turn(now, &mut tokens) else { return };
            if wake_at != timer_at || timer.is_elapsed() {
                timer_at = wake_at;
                // Without a deadline a year, which the timer can add to the current time. Never 0, as the kernel gets
                // queued operations only when the thread sleeps.
                let wait = wake_at.map_or(365 * 86_400_000, |at| at.saturating_sub(now.ms).max(1));
                timer.as_mut().reset(Instant::now() + Duration::from_millis(wait));
            }
            operation::wait_for_completions(&mut tokens, timer.as_mut()).await;
        }
    }

    /// Runs one turn with the operations that have completed. Returns `Some` with the time of the next turn at the
    /// latest (`None`: not until a completion comes), or `None` once the shard has stopped.
    fn turn(&mut self, now: Now, tokens: &mut Vec<Token>) -> Option<Option<u64>> {
        self.inbox.awake();
        self.shard.check_lease(now, &mut self.effects);
        for token in tokens.drain(..) {
            self.on_completion(token, now);
        }
        let more = self.drive_shard(now);
        self.transport.buffers.return_to_kernel(now);
        self.submit_receives();
        self.effects.outbox.flush();
        if self.has_stopped(now) {
            return None;
        }

        self.poll_listeners();
        self.poll_eventfd();
        if more || !self.inbox.sleep() {
            self.skip_sleep();
        }
        Some(self.wake_at(now, self.transport.buffers.retry_at()))
    }

    fn on_completion(&mut self, token: Token, now: Now) {
        match token.kind {
            Kind::Receive => self.on_received(token, now),
            Kind::Send => self.on_sent(token, now),
            Kind::Accept => {
                let index = token.index as usize;
                // Errors count as ready too: accepting reports them.
                self.listeners[index].is_ready |= take(&mut self.transport.accepts[index], token).is_some();
            }
            Kind::Provide => self.transport.buffers.on_completion(token, now),
            Kind::Poll => {
                if take(&mut self.transport.poll, token).is_some() {
                    self.inbox.clear_eventfd();
                }
            }
            Kind::Nop => drop(take(&mut self.transport.nop, token)),
        }
        self.abort_closed();
    }

    // ---- reading ----

    fn submit_receives(&mut self) {
        if self.transport.buffers.retry_at().is_some() {
            return; // Without buffers they would fail in every turn.
        }
        for slot in self.transport.to_receive.drain(..) {
            let Some(open) = &mut self.slots[slot.index()].open else { continue };
            if open.io.receive.is_some() || open.is_aborted || open.is_peer_closed || !self.shard.wants_input(slot) {
                continue;
            }
            let entry = Buffers::receive(open.socket.as_raw_fd());
            let token = Token { kind: Kind::Receive, index: slot.0 };
            // SAFETY: one completion. The buffers are never freed. The socket is closed only when no operation is in
            // flight.
            open.io.receive = Some(unsafe { Operation::submit(entry, (), token) });
        }
    }

    fn on_received(&mut self, token: Token, now: Now) {
        let slot = Slot(token.index);
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        let Some(completion) = take(&mut open.io.receive, token) else { return };
        let length = usize::try_from(completion.result).unwrap_or(0);
        // SAFETY: the number comes from this completion, which is processed once.
        let filled = completion.buffer().map(|number| unsafe { self.transport.buffers.take(number, length) });
        if open.is_aborted {
            self.free_if_idle(slot);
        } else if open.is_peer_closed {
            // The core wants no more input.
        } else {
            match (completion.errno(), filled.as_ref()) {
                // ENOBUFS: all buffers were in use. Each turn returns the ones it has processed, so the next receive
                // finds some.
                (libc::ENOBUFS | libc::EINTR | libc::EAGAIN, _) => self.transport.to_receive.push(slot),
                (0, Some(_)) if length > 0 => {
                    if let Some(filled) = filled {
                        self.on_bytes(slot, filled.bytes, now);
                        self.transport.buffers.put_back(filled);
                    }
                    return;
                }
                (0, _) => self.on_peer_closed(slot, now),
                _ => self.on_failed(slot, now),
            }
        }
        if let Some(filled) = filled {
            self.transport.buffers.put_back(filled);
        }
    }

    // ---- writing ----

    /// Sends the core's output for a connection, unless a send is in flight.
    fn send(&mut self, slot: Slot, now: Now) {
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        if open.is_aborted || open.io.send.is_some() {
            return;
        }
        if open.tls.is_some() {
            return self.send_sealed(slot, now);
        }
        debug_assert!(self.slices.is_empty());
        self.shard.outgoing(slot, &mut self.slices);
        // One send takes no more than the kernel buffers, so that a slow reader's progress can be seen.
        truncate_slices(&mut self.slices, self.limits.socket_send_buffer_bytes as usize);

        let socket = types::Fd(open.socket.as_raw_fd());
        let token = Token { kind: Kind::Send, index: slot.0 };
        let flags = SEND_FLAGS;
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
        // SAFETY: one completion. `sending` owns the memory that is read: the bytes of shared buffers, which don't
        // move, and a box with their description. The socket is closed only when no operation is in flight.
        open.io.send = Some(unsafe { Operation::submit(entry, sending, token) });
    }

    /// The same for a TLS connection: one record.
    fn send_sealed(&mut self, slot: Slot, now: Now) {
        if !self.seal(slot, now) {
            return self.abort_closed();
        }
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        let Some(tls) = &mut open.tls else { return };
        let bytes = tls.session.take_outgoing();
        let socket = types::Fd(open.socket.as_raw_fd());
        let entry = opcode::Send::new(socket, bytes.as_ptr(), bytes.len() as u32).flags(SEND_FLAGS).build();
        let token = Token { kind: Kind::Send, index: slot.0 };
        // SAFETY: one completion. The vector owns the memory that is read, and does not change meanwhile. The socket is
        // closed only when no operation is in flight.
        open.io.send = Some(unsafe { Operation::submit(entry, Sending::Sealed(bytes), token) });
    }

    /// A send of ciphertext has completed. What was not written goes first into the next one.
    fn on_ciphertext_sent(&mut self, slot: Slot, bytes: Vec<u8>, written: usize, now: Now) {
        let Some(tls) = self.slots[slot.index()].open.as_mut().and_then(|open| open.tls.as_mut()) else { return };
        if written < bytes.len() {
            tls.session.put_back(bytes, written);
            return self.effects.wake(slot);
        }
        if !tls.session.outgoing().is_empty() {
            self.effects.wake(slot);
        }
        self.on_sealed_sent(slot, now);
    }

    fn on_sent(&mut self, token: Token, now: Now) {
        let slot = Slot(token.index);
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        let Some(completion) = take(&mut open.io.send, token) else { return };
        let Completion { result, data, .. } = completion;
        let is_again = matches!(-result, libc::EINTR | libc::EAGAIN);
        let ciphertext = match data {
            Sending::One(_) => None,
            Sending::Many(mut gather) => {
                gather.slices.clear();
                self.transport.gathers.push(gather);
                None
            }
            Sending::Sealed(bytes) => Some(bytes),
        };
        if open.is_aborted {
            self.free_if_idle(slot);
        } else if result <= 0 && !is_again {
            self.on_failed(slot, now);
        } else if let Some(bytes) = ciphertext {
            self.on_ciphertext_sent(slot, bytes, result.max(0) as usize, now);
        } else if is_again {
            self.effects.wake(slot);
        } else {
            self.shard.sent(now, slot, result as usize, &mut self.effects);
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

    /// Makes the next sleep end immediately. The thread must still go to sleep, as only then the kernel gets the queued
    /// operations.
    fn skip_sleep(&mut self) {
        if self.transport.nop.is_none() {
            let token = Token { kind: Kind::Nop, index: 0 };
            // SAFETY: one completion, no memory, no descriptor.
            self.transport.nop = Some(unsafe { Operation::submit(opcode::Nop::new().build(), (), token) });
        }
    }
}

/// Waits until a descriptor of the event loop, a listener or the eventfd, is readable.
fn poll_readable(descriptor: BorrowedFd<'_>, token: Token) -> Operation<()> {
    let entry = opcode::PollAdd::new(types::Fd(descriptor.as_raw_fd()), libc::POLLIN as u32).build();
    // SAFETY: one completion, and no memory. The descriptor is closed only when the event loop is dropped; if the
    // operation is still in flight then, the kernel already holds a reference to the file.
    unsafe { Operation::submit(entry, (), token) }
}

impl Default for Gather {
    fn default() -> Gather {
        // SAFETY: a C struct of numbers and pointers, for which zero is a valid value.
        let message = unsafe { std::mem::zeroed() };
        Gather { slices: Vec::new(), iovecs: Vec::new(), message }
    }
}

impl Gather {
    /// Describes the slices for the kernel. The pointer is valid as long as neither they nor this box change.
    fn describe(self: &mut Box<Gather>) -> *const libc::msghdr {
        self.iovecs.clear();
        let iovec = |bytes: &Slice| libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() };
        self.iovecs.extend(self.slices.iter().map(iovec));
        self.message.msg_iov = self.iovecs.as_mut_ptr();
        self.message.msg_iovlen = self.iovecs.len() as _;
        &raw const self.message
    }
}

/// Truncates the slices to at most `limit` bytes in total, but at least one byte.
fn truncate_slices(slices: &mut Vec<Slice>, limit: usize) {
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
