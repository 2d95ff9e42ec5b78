//! What both drivers' event loops share: the order of a turn, and the life of a connection from accepting to closing.
//! How bytes move and how a shard sleeps is up to the driver, which implements [`Transport`].

use super::accept::{Acceptor, canonical};
use super::input::{Input, Next, discard_unread, hand_over, reject};
use super::places::{Granted, Held, Places};
use super::tls::{HANDSHAKES_PER_TURN, Tls};
use super::{Adopted, Control, Effects, HandOver, ShardSetup, TlsSetup};
use crate::mesh::Inbox;
use rustix::net::{Shutdown, shutdown};
use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use tokio::sync::mpsc;
use uproar_core::Slot;
use uproar_core::limits::Limits;
use uproar_core::{Host, Message, Now, Shard, Slice};
use uproar_model::Clock;
use uproar_tls::Session;

/// Connections that one listener accepts in one turn, so that new connections don't starve the open ones.
const ACCEPTS_PER_TURN_LIMIT: usize = 64;

/// How a driver moves bytes.
pub(super) trait Transport: Sized {
    /// The driver's state for one open connection.
    type Io;

    /// Whether its sockets are in non-blocking mode.
    const NONBLOCKING: bool;

    /// Starts to manage the socket of a slot.
    ///
    /// # Errors
    /// Usually lack of memory. The socket is then closed.
    fn open(&mut self, slot: Slot, socket: &OwnedFd) -> io::Result<Self::Io>;

    /// Stops managing a socket, which has nothing in flight and is about to leave the shard.
    fn release(&mut self, socket: &OwnedFd);

    /// Whether nothing is in flight, so that the socket may be closed.
    fn is_idle(io: &Self::Io) -> bool;

    /// Whether a send is in flight.
    fn is_sending(io: &Self::Io) -> bool;

    /// Starts to read a connection whose input the core wants. The bytes go to [`EventLoop::on_bytes`], but only
    /// after this call has returned.
    fn read(event_loop: &mut EventLoop<Self>, slot: Slot);

    /// Writes as much of the core's output for this connection as possible now; nothing if it is aborted.
    fn write(event_loop: &mut EventLoop<Self>, slot: Slot, now: Now);
}

/// A shard and its sockets.
pub(super) struct EventLoop<T: Transport> {
    pub(super) shard: Shard,
    pub(super) limits: Limits,
    pub(super) effects: Effects,
    pub(super) clock: Clock,
    pub(super) inbox: Inbox<Message>,
    control: Control,
    http: mpsc::Sender<HandOver>,
    pub(super) listeners: Vec<Acceptor>,
    /// Indexed by the slot numbers that the core gives out.
    pub(super) slots: Vec<Entry<T::Io>>,
    /// Number of slots in use.
    open_count: u64,
    places: Places,
    /// Set while the shard drains: when it stops at the latest.
    pub(super) stop_at: Option<u64>,
    has_drained: bool,
    /// Scratch space, empty between uses.
    pub(super) slices: Vec<Slice>,
    /// Scratch space, empty between uses.
    serving: Vec<Slot>,
    /// TLS connections whose handshakes go on in the next turn.
    pub(super) handshakes: VecDeque<Slot>,
    /// How many steps of handshakes this turn may still take.
    pub(super) handshakes_left: usize,
    /// Scratch space for what TLS connections receive, empty between uses.
    pub(super) plaintext: Vec<u8>,
    /// Scratch space for what they are sent, empty between uses.
    pub(super) record: Vec<u8>,
    pub(super) transport: T,
}

pub(super) struct Entry<I> {
    /// None: the slot is free.
    pub(super) open: Option<Open<I>>,
}

/// The transport of one open connection.
pub(super) struct Open<I> {
    pub(super) socket: OwnedFd,
    pub(super) tls: Option<Box<Tls>>,
    pub(super) input: Input,
    held: Held,
    /// The client has closed its sending half, and the core knows it.
    pub(super) is_peer_closed: bool,
    /// The core has closed the connection, and its socket is shut down. Operations in flight still have to complete.
    pub(super) is_aborted: bool,
    pub(super) io: I,
}

impl<I> Open<I> {
    /// Whether the client has said by TLS that it sends nothing more, and the core does not know it yet.
    fn has_announced_end(&self) -> bool {
        !self.is_peer_closed && self.tls.as_ref().is_some_and(|tls| tls.session.is_peer_closed())
    }

    /// Whether it must not be read before a step of its TLS handshake.
    pub(super) fn waits_for_handshake(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_waiting())
    }

    /// The memory held for what has not arrived completely, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.input.held_bytes() + self.tls.as_ref().map_or(0, |tls| tls.session.held_bytes())
    }
}

impl<T: Transport> EventLoop<T> {
    pub(super) fn new(setup: ShardSetup, transport: T) -> EventLoop<T> {
        let ShardSetup { shard, limits, clock, listeners, tls, port, control, http, core: _, may_use_epoll: _ } = setup;
        let plain = listeners.into_iter().map(|socket| Acceptor::new(socket, None));
        let encrypted = tls.into_iter().flat_map(|TlsSetup { config, listeners }| {
            listeners.into_iter().map(move |socket| Acceptor::new(socket, Some(config.clone())))
        });
        EventLoop {
            shard,
            places: Places::new(&limits),
            limits,
            clock,
            effects: Effects::new(port.outbox),
            inbox: port.inbox,
            control,
            http,
            listeners: plain.chain(encrypted).collect(),
            slots: Vec::new(),
            open_count: 0,
            stop_at: None,
            has_drained: false,
            slices: Vec::new(),
            serving: Vec::new(),
            handshakes: VecDeque::new(),
            handshakes_left: HANDSHAKES_PER_TURN,
            plaintext: Vec::new(),
            record: Vec::new(),
            transport,
        }
    }

    // ---- the turn ----

    /// The part of a turn that follows the driver's input: passes control requests and mesh messages to the core, gives
    /// the core its turn, reads and writes the connections that it woke, and accepts new ones. True: there is more to
    /// do, so the next turn must follow without waiting.
    pub(super) fn drive_shard(&mut self, now: Now) -> bool {
        while let Some(adopted) = self.control.next_adopted() {
            self.adopt(adopted, now);
        }
        self.stop_if_requested(now);

        let mut more = self.continue_handshakes(now);
        more |= self.inbox.pop_each(|from, message| self.shard.receive(now, from, message, &mut self.effects));
        more |= self.shard.turn(now, &mut self.effects);
        self.abort_closed();
        more |= self.serve_woken(now);

        // Last, as all of the above may have made room for new connections.
        more | self.accept(now)
    }

    /// Reads and writes the connections that the core woke. True: the core has woken more in the meantime.
    fn serve_woken(&mut self, now: Now) -> bool {
        let mut more = false;
        let mut serving = std::mem::take(&mut self.serving);
        self.effects.take_to_serve(&mut serving);
        for slot in serving.drain(..) {
            let Some(open) = self.slots.get(slot.index()).and_then(|slot| slot.open.as_ref()) else { continue };
            if open.is_aborted {
                continue;
            }
            if self.shard.wants_input(slot) {
                if open.input.has_undecoded() {
                    if open.has_announced_end() {
                        // It follows the rest of the input.
                        self.effects.wake(slot);
                    }
                    self.on_input(slot, &mut [], now);
                    self.abort_closed();
                    // The core acts on this input in its next turn.
                    more = true;
                } else if open.has_announced_end() {
                    self.on_peer_closed(slot, now);
                    self.abort_closed();
                } else if !open.waits_for_handshake() {
                    T::read(self, slot);
                }
            }
            T::write(self, slot, now);
        }
        self.serving = serving;
        more || !self.effects.to_serve.is_empty()
    }

    /// When the next turn is due at the latest. `driver_at`: a deadline of the driver's own.
    pub(super) fn wake_at(&self, now: Now, driver_at: Option<u64>) -> Option<u64> {
        // Deadlines in the past are left out: what is overdue also waits for some event, which wakes the thread.
        let own = self.listeners.iter().map(|listener| listener.retry_at).chain([self.stop_at, driver_at]);
        own.flatten().filter(|at| *at > now.ms).chain(self.shard.deadline()).min()
    }

    // ---- accepting ----

    /// Accepts waiting connections, as far as the limits allow. True: there may be more.
    fn accept(&mut self, now: Now) -> bool {
        let mut more = false;
        for index in 0..self.listeners.len() {
            // A connection that is accepted now is read in the next turn at the earliest. Until then it must keep its
            // place.
            let mut left = ACCEPTS_PER_TURN_LIMIT.min(self.limits.heads_per_shard_limit as usize / 2).max(1);
            while self.listeners[index].is_due(now) && self.stop_at.is_none() {
                if left == 0 {
                    more = true;
                    break;
                }
                left -= 1;
                let Some((stream, peer)) = self.listeners[index].accept(now) else { continue };
                let Some(place) = self.places.for_head(peer.ip()) else {
                    self.listeners[index].reject(stream);
                    continue;
                };
                let is_set = if T::NONBLOCKING { stream.set_nonblocking(true) } else { Ok(()) };
                let held = place.held;
                let opened = is_set
                    .and_then(|()| self.listeners[index].session())
                    .and_then(|session| self.open(stream, session, Input::new(peer), place, now));
                if let Err(error) = opened {
                    self.places.leave(held);
                    self.listeners[index].pause(&error, now);
                }
            }
        }
        more
    }

    fn open(
        &mut self,
        stream: TcpStream,
        session: Option<Box<Session>>,
        input: Input,
        place: Granted,
        now: Now,
    ) -> io::Result<Slot> {
        self.evict(place.evicted, now);
        let slot = self.shard.opened(now, &mut self.effects);
        let socket = stream.into();
        let io = self.transport.open(slot, &socket).inspect_err(|_| self.shard.handed_over(slot))?;
        let index = slot.index();
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || Entry { open: None });
        }
        debug_assert!(self.slots[index].open.is_none(), "the core gave a slot that is in use");
        let tls = session.map(Tls::new);
        self.slots[index].open =
            Some(Open { socket, tls, input, held: place.held, is_peer_closed: false, is_aborted: false, io });
        self.open_count += 1;
        self.places.assign(place.held, slot);
        T::read(self, slot);
        // The core may have closed it immediately.
        self.abort_closed();
        Ok(slot)
    }

    fn adopt(&mut self, adopted: Adopted, now: Now) {
        let Adopted { stream, tls, peer, bytes } = adopted;
        if self.stop_at.is_some() || stream.set_nonblocking(T::NONBLOCKING).is_err() {
            return;
        }
        let Some(place) = self.places.for_head(canonical(peer).ip()) else { return reject(stream.into(), tls) };
        let held = place.held;
        // These sockets don't inherit the options of the shard's listeners.
        let _ = stream.set_nodelay(true);
        let _ = socket2::SockRef::from(&stream).set_send_buffer_size(self.limits.socket_send_buffer_bytes as usize);
        let Ok(slot) = self.open(stream, tls, Input::handed_back(canonical(peer), bytes), place, now) else {
            return self.places.leave(held);
        };
        // What the HTTP service has encrypted and not written.
        self.effects.wake(slot);
        self.on_input(slot, &mut [], now);
        self.abort_closed();
    }

    // ---- reading ----

    /// Passes received bytes to the core, or continues with bytes that were kept. The caller must then call
    /// [`EventLoop::abort_closed`].
    pub(super) fn on_input(&mut self, slot: Slot, bytes: &mut [u8], now: Now) {
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        let (places, held) = (&mut self.places, &mut open.held);
        let mut evicted = None;
        let has_place = |client| {
            let Some(place) = places.for_websocket(client) else { return false };
            places.leave(std::mem::replace(held, place.held));
            places.assign(place.held, slot);
            evicted = place.evicted;
            true
        };
        let next = open.input.on_bytes(bytes, now, slot, &mut self.shard, &self.limits, &mut self.effects, has_place);
        match next {
            Next::Stay => {
                self.shard.unfinished(now, slot, open.held_bytes(), &mut self.effects);
                T::read(self, slot);
            }
            Next::HandOver(peer, bytes) => {
                if let Some((socket, tls)) = self.release(slot, now) {
                    hand_over(socket, tls, peer, bytes, &self.http);
                }
            }
        }
        self.evict(evicted, now);
    }

    /// Frees a slot and returns its socket, which leaves the shard.
    fn release(&mut self, slot: Slot, now: Now) -> Option<(OwnedFd, Option<Box<Session>>)> {
        // The head has just been received, and nothing is sent before it is answered, except for a TLS handshake.
        if !T::is_idle(&self.slots[slot.index()].open.as_ref()?.io) {
            // The client has not read the handshake, so this is not an answer to it.
            self.on_failed(slot, now);
            return None;
        }
        let open = self.slots[slot.index()].open.take()?;
        self.transport.release(&open.socket);
        self.shard.handed_over(slot);
        self.open_count -= 1;
        self.places.leave(open.held);
        Some((open.socket, open.tls.map(|tls| tls.session)))
    }

    // ---- closing ----

    /// Tells the core that the client has closed its sending half. The caller must then call
    /// [`EventLoop::abort_closed`].
    pub(super) fn on_peer_closed(&mut self, slot: Slot, now: Now) {
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        if !std::mem::replace(&mut open.is_peer_closed, true) {
            self.shard.peer_closed(now, slot, &mut self.effects);
        }
    }

    /// Tells the core that the socket has failed. The caller must then call [`EventLoop::abort_closed`].
    pub(super) fn on_failed(&mut self, slot: Slot, now: Now) {
        if self.slots[slot.index()].open.as_ref().is_some_and(|open| !open.is_aborted) {
            self.shard.failed(now, slot, &mut self.effects);
        }
    }

    /// Aborts the connections that the core has closed, and shuts down the sending halves of those that it has
    /// finished.
    pub(super) fn abort_closed(&mut self) {
        while let Some(slot) = self.effects.to_half_close.pop() {
            self.half_close(slot);
        }
        while let Some(slot) = self.effects.to_abort.pop() {
            self.abort(slot);
        }
    }

    /// Closes a connection that has lost its place.
    fn evict(&mut self, slot: Option<Slot>, now: Now) {
        if let Some(slot) = slot {
            self.on_failed(slot, now);
            self.abort_closed();
        }
    }

    fn abort(&mut self, slot: Slot) {
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        if !std::mem::replace(&mut open.is_aborted, true) {
            if let Some(tls) = open.tls.as_mut().filter(|_| !T::is_sending(&open.io)) {
                tls.say_goodbye(&open.socket);
            }
            // Makes operations in flight complete. It fails only if the peer has closed, and then they complete anyway.
            let _ = shutdown(&open.socket, Shutdown::Both);
            self.free_if_idle(slot);
        }
    }

    /// Closes an aborted connection and frees its slot, once nothing is in flight for it.
    pub(super) fn free_if_idle(&mut self, slot: Slot) {
        let open = &mut self.slots[slot.index()].open;
        if let Some(open) = open.take_if(|open| open.is_aborted && T::is_idle(&open.io)) {
            discard_unread(&open.socket);
            self.places.leave(open.held);
            drop(open);
            self.open_count -= 1;
            self.shard.freed(slot);
        }
    }

    // ---- stopping ----

    fn stop_if_requested(&mut self, now: Now) {
        if self.stop_at.is_some() || !self.control.is_stop_requested() {
            return;
        }
        self.stop_at = Some(now.ms + self.limits.stop_timeout_ms);
        for listener in &mut self.listeners {
            // From now on the kernel refuses connections.
            let _ = shutdown(&listener.socket, Shutdown::Both);
            listener.retry_at = None;
        }
        self.shard.drain(now, &mut self.effects);
        self.abort_closed();
    }

    /// Whether the loop can end: after a drain, once all connections of this shard and of the others (whose rooms may
    /// live here) are closed, or when `stop_timeout_ms` have passed.
    pub(super) fn has_stopped(&mut self, now: Now) -> bool {
        let Some(stop_at) = self.stop_at else { return false };
        if !self.has_drained && self.shard.drained() {
            self.has_drained = true;
            self.control.report_drained();
        }
        let is_late = stop_at <= now.ms;
        if is_late {
            self.abort_rest(now);
        }
        // Even then the loop runs until the operations in flight have completed, so that their memory can be freed.
        self.open_count == 0 && (is_late || self.control.are_all_drained())
    }

    /// Aborts all connections that are still open when the time to stop is over.
    fn abort_rest(&mut self, now: Now) {
        let rest: Vec<Slot> = (0..self.slots.len() as u32)
            .map(Slot)
            .filter(|slot| self.slots[slot.index()].open.as_ref().is_some_and(|open| !open.is_aborted))
            .collect();
        if !rest.is_empty() {
            tracing::warn!(connections = rest.len(), "some connections did not close in time; they are aborted");
            rest.into_iter().for_each(|slot| self.on_failed(slot, now));
            self.abort_closed();
        }
    }
}
