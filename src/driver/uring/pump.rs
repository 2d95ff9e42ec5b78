//! The loop of a shard.
//!
//! A turn: completions, mesh and orders go to the core; the core has its turn; connections that it woke are read and
//! written; used buffers go back, and new operations are prepared. Going to sleep gives all of them to the kernel in one
//! call.

use super::super::connection::{Connection, Next, adopted_request, discard_unread, refuse};
use super::super::{Adopted, Effects, HandOver, Orders, ShardSetup, now};
use super::buffers::Buffers;
use super::operation::{self, Completion, Kind, Operation, Token, take};
use crate::core::{Host, Message, Now, Shard};
use crate::limits::Limits;
use crate::mesh::Inbox;
use crate::websocket::upgrade::refusal;
use bytes::Bytes;
use io_uring::{opcode, types};
use rustix::net::{Shutdown, shutdown};
use std::io;
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// How long a listener rests after accepting failed for want of something: descriptors, memory.
const ACCEPT_RETRY_MS: u64 = 100;

/// Connections that one listener accepts in one turn; the rest of the shard has its turn between.
const ACCEPTS_PER_TURN_LIMIT: usize = 64;

/// Slices of one send. `sendmsg(2)` takes no more (IOV_MAX).
const SLICES_LIMIT: usize = 1024;

pub(super) async fn run(setup: ShardSetup) {
    // Not dropped if the core panics: operations that are in flight then keep what the kernel reads for them.
    let mut pump = ManuallyDrop::new(Pump::new(setup));
    pump.run().await;
    ManuallyDrop::into_inner(pump);
}

struct Pump {
    shard: Shard,
    limits: Limits,
    effects: Effects,
    inbox: Inbox<Message>,
    orders: Orders,
    http: mpsc::Sender<HandOver>,
    listeners: Vec<Listener>,
    /// By the core's number.
    slots: Vec<Slot>,
    /// Slots that are in use.
    open: u64,
    buffers: Buffers,
    /// Slots to receive from, once buffers have been given back.
    to_receive: Vec<u32>,
    /// Waits for the eventfd.
    poll: Option<Operation<()>>,
    /// Ends the next sleep at once.
    nop: Option<Operation<()>>,
    /// From when on the shard is drained, and when this ends at the latest.
    stop_at: Option<u64>,
    has_drained: bool,
    /// For sends of several slices, used again and again.
    #[expect(clippy::vec_box, reason = "each has its address, which outlives its place here")]
    gathers: Vec<Box<Gather>>,
    /// Emptied after each use.
    slices: Vec<Bytes>,
    woken: Vec<u32>,
}

struct Listener {
    /// Non-blocking.
    socket: TcpListener,
    /// Waits until someone connects.
    poll: Option<Operation<()>>,
    /// Someone waits, as far as is known.
    is_ready: bool,
    /// When to try again after a failure.
    retry_at: Option<u64>,
    /// Since a failure not all who waited have been accepted.
    is_failing: bool,
}

/// What belongs to the transport of one connection.
#[derive(Default)]
struct Slot {
    /// None: the slot is free.
    open: Option<Open>,
}

struct Open {
    socket: OwnedFd,
    connection: Connection,
    receive: Option<Operation<()>>,
    send: Option<Operation<Sending>>,
    /// The core knows that the other side has gone.
    has_hung_up: bool,
    /// The core has ended it. It waits for its operations to come back.
    is_cut: bool,
}

/// What the kernel reads for a send.
enum Sending {
    #[expect(dead_code, reason = "it is only kept")]
    One(Bytes),
    Many(Box<Gather>),
}

/// Several slices, with the description of them that the kernel reads. Its address must not change while it does.
struct Gather {
    slices: Vec<Bytes>,
    iovecs: Vec<libc::iovec>,
    message: libc::msghdr,
}

impl Pump {
    fn new(setup: ShardSetup) -> Pump {
        let ShardSetup { shard, limits, listeners, port, orders, http, core: _ } = setup;
        Pump {
            shard,
            limits,
            effects: Effects::new(port.outbox),
            inbox: port.inbox,
            orders,
            http,
            listeners: listeners.into_iter().map(Listener::new).collect(),
            slots: Vec::new(),
            open: 0,
            buffers: Buffers::new(),
            to_receive: Vec::new(),
            poll: None,
            nop: None,
            stop_at: None,
            has_drained: false,
            gathers: Vec::new(),
            slices: Vec::new(),
            woken: Vec::new(),
        }
    }

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
        while let Some(adopted) = self.orders.adopted() {
            self.adopt(adopted, now);
        }
        self.stop_if_asked(now);

        let mut more = self.inbox.pop_each(|from, message| self.shard.mesh(now, from, message, &mut self.effects));
        more |= self.shard.turn(now, &mut self.effects);
        self.cut_ended();
        more |= self.serve_woken(now);

        // Behind all that may have made room for it.
        more |= self.accept(now);
        self.buffers.give_back(now);
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
        // A time that has passed is no reason to wake: what waits for it waits for something else too.
        let own =
            self.listeners.iter().map(|listener| listener.retry_at).chain([self.buffers.retry_at(), self.stop_at]);
        let own = own.flatten().filter(|at| *at > now.ms);
        Some(own.chain(self.shard.deadline()).min())
    }

    fn completed(&mut self, token: Token, now: Now) {
        match token.kind {
            Kind::Receive => self.received(token, now),
            Kind::Send => self.sent(token, now),
            Kind::Accept => {
                let listener = &mut self.listeners[token.index as usize];
                // Errors too: accepting finds out.
                listener.is_ready |= take(&mut listener.poll, token).is_some();
            }
            Kind::Provide => self.buffers.completed(token, now),
            Kind::Poll => {
                if take(&mut self.poll, token).is_some() {
                    self.inbox.clear_eventfd();
                }
            }
            Kind::Nop => drop(take(&mut self.nop, token)),
        }
        self.cut_ended();
    }

    // ---- accepting ----

    /// Accepts who waits, as far as the limit allows. True: there may be more.
    fn accept(&mut self, now: Now) -> bool {
        let mut more = false;
        for index in 0..self.listeners.len() {
            let mut places = ACCEPTS_PER_TURN_LIMIT;
            while self.listeners[index].is_ready(now) && self.stop_at.is_none() && !self.is_full() {
                if places == 0 {
                    more = true;
                    break;
                }
                places -= 1;
                let listener = &mut self.listeners[index];
                match listener.accept(now) {
                    Some((stream, peer)) => {
                        let peer = canonical(peer);
                        self.open(stream, peer, Connection::new(peer), now);
                    }
                    None => continue,
                }
            }
        }
        more
    }

    fn is_full(&self) -> bool {
        self.open >= self.limits.connections_per_shard_limit
    }

    fn poll_listeners(&mut self) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            if listener.is_ready || listener.poll.is_some() || self.stop_at.is_some() {
                continue;
            }
            let token = Token { kind: Kind::Accept, index: index as u32 };
            listener.poll = Some(poll_readable(listener.socket.as_fd(), token));
        }
    }

    fn open(&mut self, stream: TcpStream, peer: SocketAddr, connection: Connection, now: Now) -> u32 {
        let slot = self.shard.opened(now, peer, &mut self.effects);
        let index = slot as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, Slot::default);
        }
        debug_assert!(self.slots[index].open.is_none(), "the core gave a slot that is in use");
        let socket = stream.into();
        let open = Open { socket, connection, receive: None, send: None, has_hung_up: false, is_cut: false };
        self.slots[index].open = Some(open);
        self.open += 1;
        self.to_receive.push(slot);
        // The core may have ended it at once.
        self.cut_ended();
        slot
    }

    fn adopt(&mut self, adopted: Adopted, now: Now) {
        let Adopted { stream, peer, head, rest } = adopted;
        let Some(request) = adopted_request(&head, canonical(peer)) else {
            tracing::error!("a connection was adopted that asks for no WebSocket");
            return;
        };
        // io_uring would not wait on a socket that is set not to.
        if self.stop_at.is_some() || self.is_full() || stream.set_nonblocking(false).is_err() {
            return;
        }
        // Its listener was not one of ours.
        let _ = stream.set_nodelay(true);
        let _ = socket2::SockRef::from(&stream).set_send_buffer_size(self.limits.socket_send_buffer_bytes as usize);
        let slot = self.open(stream, request.peer, Connection::adopted(&rest), now);
        if self.slots[slot as usize].open.is_none() {
            return;
        }
        self.shard.requested(now, slot, request, &mut self.effects);
        self.effects.wake(slot);
        self.cut_ended();
    }

    // ---- reading ----

    fn receive(&mut self) {
        if self.buffers.retry_at().is_some() {
            return; // They would find no buffer, again and again.
        }
        for slot in self.to_receive.drain(..) {
            let Some(open) = &mut self.slots[slot as usize].open else { continue };
            if open.receive.is_some() || open.is_cut || open.has_hung_up || !self.shard.wants_input(slot) {
                continue;
            }
            let entry = Buffers::receive(open.socket.as_raw_fd());
            let token = Token { kind: Kind::Receive, index: slot };
            // SAFETY: one completion; the buffers are never freed; the socket is closed when no operation is in flight.
            open.receive = Some(unsafe { Operation::submit(entry, (), token) });
        }
    }

    fn received(&mut self, token: Token, now: Now) {
        let slot = token.index;
        let Some(open) = &mut self.slots[slot as usize].open else { return };
        let Some(completion) = take(&mut open.receive, token) else { return };
        let length = usize::try_from(completion.result).unwrap_or(0);
        // SAFETY: the number is of this completion, which is seen once.
        let filled = completion.buffer().map(|number| unsafe { self.buffers.take(number, length) });
        if open.is_cut {
            self.vacate_if_done(slot);
        } else if open.has_hung_up {
            // Nothing of it is of use.
        } else {
            match (completion.error(), filled.as_ref()) {
                // All buffers were in use. Each turn gives back those that it has seen, so there are some at its end.
                (libc::ENOBUFS | libc::EINTR | libc::EAGAIN, _) => self.to_receive.push(slot),
                (0, Some(_)) if length > 0 => {
                    if let Some(filled) = filled {
                        self.input(slot, filled.bytes, now);
                        self.buffers.put_back(filled);
                    }
                    return;
                }
                _ => self.hung_up(slot, now),
            }
        }
        if let Some(filled) = filled {
            self.buffers.put_back(filled);
        }
    }

    /// Gives the core what has come, or goes on with what was kept.
    fn input(&mut self, slot: u32, bytes: &mut [u8], now: Now) {
        let Some(open) = &mut self.slots[slot as usize].open else { return };
        let next = open.connection.received(bytes, now, slot, &mut self.shard, &self.limits, &mut self.effects);
        match next {
            Next::Stay => self.to_receive.push(slot),
            Next::HandOver(peer, bytes) => {
                let Some(socket) = self.release(slot) else { return };
                let stream = TcpStream::from(socket);
                if stream.set_nonblocking(true).is_err() {
                    return;
                }
                if let Err(error) = self.http.try_send(HandOver { stream, peer, bytes }) {
                    let (mpsc::error::TrySendError::Full(left) | mpsc::error::TrySendError::Closed(left)) = error;
                    let message = "The server has too much to do; try again.";
                    refuse(left.stream.into(), &refusal(503, "overloaded", message, &[("Retry-After", "1")]));
                }
            }
            Next::Refuse(response) => {
                if let Some(socket) = self.release(slot) {
                    refuse(socket, &response);
                }
            }
        }
    }

    /// Frees a slot whose socket goes elsewhere.
    fn release(&mut self, slot: u32) -> Option<OwnedFd> {
        let open = self.slots[slot as usize].open.take()?;
        // The head has just been received, and nothing is sent before it is answered.
        debug_assert!(open.receive.is_none() && open.send.is_none());
        self.shard.handed_over(slot);
        self.open -= 1;
        Some(open.socket)
    }

    // ---- writing ----

    /// Reads and writes what the core woke. True: it woke more meanwhile.
    fn serve_woken(&mut self, now: Now) -> bool {
        let mut more = false;
        let mut woken = std::mem::take(&mut self.woken);
        self.effects.take_woken(&mut woken);
        for slot in woken.drain(..) {
            let Some(open) = self.slots.get(slot as usize).and_then(|slot| slot.open.as_ref()) else { continue };
            if open.is_cut {
                continue;
            }
            if self.shard.wants_input(slot) {
                if open.connection.has_undecoded() {
                    self.input(slot, &mut [], now);
                    self.cut_ended();
                    // What the core has learned from it, it shows in its next turn.
                    more = true;
                } else {
                    self.to_receive.push(slot);
                }
            }
            self.send(slot);
        }
        self.woken = woken;
        more || !self.effects.woken.is_empty()
    }

    /// Sends what the core has for a connection, unless a send is in flight.
    fn send(&mut self, slot: u32) {
        let Some(open) = &mut self.slots[slot as usize].open else { return };
        if open.is_cut || open.send.is_some() {
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
            let mut gather = self.gathers.pop().unwrap_or_default();
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
        open.send = Some(unsafe { Operation::submit(entry, sending, token) });
    }

    fn sent(&mut self, token: Token, now: Now) {
        let slot = token.index;
        let Some(open) = &mut self.slots[slot as usize].open else { return };
        let Some(completion) = take(&mut open.send, token) else { return };
        let Completion { result, data, .. } = completion;
        if let Sending::Many(mut gather) = data {
            gather.slices.clear();
            self.gathers.push(gather);
        }
        if open.is_cut {
            self.vacate_if_done(slot);
        } else if result > 0 {
            self.shard.sent(now, slot, result as usize, &mut self.effects);
            self.effects.wake(slot); // There may be more.
        } else if matches!(-result, libc::EINTR | libc::EAGAIN) {
            self.effects.wake(slot);
        } else {
            self.hung_up(slot, now);
        }
    }

    // ---- ending ----

    fn hung_up(&mut self, slot: u32, now: Now) {
        let Some(open) = &mut self.slots[slot as usize].open else { return };
        if !std::mem::replace(&mut open.has_hung_up, true) {
            self.shard.hung_up(now, slot, &mut self.effects);
        }
    }

    /// Ends the connections that the core wants to be ended.
    fn cut_ended(&mut self) {
        while let Some(slot) = self.effects.cut.pop() {
            self.cut(slot);
        }
    }

    fn cut(&mut self, slot: u32) {
        let Some(open) = &mut self.slots[slot as usize].open else { return };
        if !std::mem::replace(&mut open.is_cut, true) {
            // Ends operations that are in flight. It fails only where the other side has ended them.
            let _ = shutdown(&open.socket, Shutdown::Both);
            self.vacate_if_done(slot);
        }
    }

    /// Closes a connection that was cut once none of its operations is in flight.
    fn vacate_if_done(&mut self, slot: u32) {
        let place = &mut self.slots[slot as usize].open;
        if let Some(open) = place.take_if(|open| open.is_cut && open.receive.is_none() && open.send.is_none()) {
            discard_unread(&open.socket);
            drop(open);
            self.open -= 1;
            self.shard.vacated(slot);
        }
    }

    // ---- stopping ----

    fn stop_if_asked(&mut self, now: Now) {
        if self.stop_at.is_some() || !self.orders.is_stop_asked() {
            return;
        }
        self.stop_at = Some(now.ms + self.limits.stop_timeout_ms);
        for listener in &mut self.listeners {
            // Refuses who comes from now on.
            let _ = shutdown(&listener.socket, Shutdown::Both);
            listener.retry_at = None;
        }
        self.shard.drain(now, &mut self.effects);
        self.cut_ended();
    }

    /// Whether everything has gone, after a drain, here and at the other shards (whose rooms may live here), or the
    /// time for it is over.
    fn has_stopped(&mut self, now: Now) -> bool {
        let Some(stop_at) = self.stop_at else { return false };
        if !self.has_drained && self.shard.drained() {
            self.has_drained = true;
            self.orders.drained();
        }
        let is_late = stop_at <= now.ms;
        if is_late && self.open > 0 {
            let left: Vec<u32> = (0..self.slots.len() as u32)
                .filter(|slot| self.slots[*slot as usize].open.as_ref().is_some_and(|open| !open.is_cut))
                .collect();
            if !left.is_empty() {
                tracing::warn!(connections = left.len(), "they did not end in time, and are cut");
                left.into_iter().for_each(|slot| self.hung_up(slot, now));
                self.cut_ended();
            }
        }
        // What is in flight for connections comes back before the loop ends, so that all that it holds can be freed.
        self.open == 0 && (is_late || self.orders.are_all_drained())
    }

    // ---- sleeping ----

    fn poll_eventfd(&mut self) {
        let Some(eventfd) = self.inbox.eventfd() else { return };
        if self.poll.is_none() {
            self.poll = Some(poll_readable(eventfd, Token { kind: Kind::Poll, index: 0 }));
        }
    }

    /// Ends the next sleep at once. The thread has to go to sleep nevertheless: that is when the kernel gets what was
    /// prepared.
    fn come_back(&mut self) {
        if self.nop.is_none() {
            let token = Token { kind: Kind::Nop, index: 0 };
            // SAFETY: one completion, no memory, no descriptor.
            self.nop = Some(unsafe { Operation::submit(opcode::Nop::new().build(), (), token) });
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

impl Listener {
    fn new(socket: TcpListener) -> Listener {
        Listener { socket, poll: None, is_ready: false, retry_at: None, is_failing: false }
    }

    fn is_ready(&self, now: Now) -> bool {
        self.is_ready && self.retry_at.is_none_or(|at| at <= now.ms)
    }

    /// Accepts one connection, if one is there.
    fn accept(&mut self, now: Now) -> Option<(TcpStream, SocketAddr)> {
        self.retry_at = None;
        match self.socket.accept() {
            Ok(accepted) => return Some(accepted),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_ready = false;
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("all connections that waited have been accepted");
                }
            }
            // Concerns one that went away while it waited.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EPROTO)) => {}
            // Of descriptors or memory, mostly.
            Err(error) => {
                self.retry_at = Some(now.ms + ACCEPT_RETRY_MS);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!(%error, "connections cannot be accepted; they wait, and are tried again");
                }
            }
        }
        None
    }
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
        let iovec = |bytes: &Bytes| libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() };
        self.iovecs.extend(self.slices.iter().map(iovec));
        self.message.msg_iov = self.iovecs.as_mut_ptr();
        self.message.msg_iovlen = self.iovecs.len() as _;
        &raw const self.message
    }
}

/// Leaves slices, none empty, of at most `limit` bytes, but at least one.
fn bound(slices: &mut Vec<Bytes>, limit: usize) {
    slices.retain(|bytes| !bytes.is_empty());
    slices.truncate(SLICES_LIMIT);
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

/// IPv4 addresses as such, also when they come through an IPv6 socket.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
