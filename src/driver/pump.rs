//! What the drivers' loops have in common: the order of a turn, and the lives of its connections from accepting to
//! closing. How bytes move, and how a shard sleeps, is each driver's own: a [`Transport`], known when it is compiled.

use super::accept::{Acceptor, canonical};
use super::connection::{Connection, Next, adopted_request, discard_unread, hand_over, refuse};
use super::{Adopted, Effects, HandOver, Orders, ShardSetup};
use crate::mesh::Inbox;
use rustix::net::{Shutdown, shutdown};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use tokio::sync::mpsc;
use uproar_core::limits::Limits;
use uproar_core::{Host, Message, Now, Shard, Slice};

/// Connections that one listener accepts in one turn; the rest of the shard has its turn between.
const ACCEPTS_PER_TURN_LIMIT: usize = 64;

/// How a driver moves bytes.
pub(super) trait Transport: Sized {
    /// What it keeps for one open connection.
    type Io;

    /// Whether its sockets are non-blocking.
    const NONBLOCKING: bool;

    /// Takes on the socket of a slot.
    ///
    /// # Errors
    /// For want of memory, mostly. The socket is closed.
    fn open(&mut self, slot: u32, socket: &OwnedFd) -> io::Result<Self::Io>;

    /// A socket on which nothing is in flight goes elsewhere.
    fn release(&mut self, socket: &OwnedFd);

    /// Whether nothing is in flight, so that the socket may be closed.
    fn is_idle(io: &Self::Io) -> bool;

    /// The core wants input of this connection: when there are bytes, they go to [`Pump::input`]. Not before the caller
    /// has returned.
    fn read(pump: &mut Pump<Self>, slot: u32);

    /// Writes what the core has for this connection, as far as it can be written now; nothing if it has been cut.
    fn write(pump: &mut Pump<Self>, slot: u32, now: Now);
}

/// A shard and its sockets.
pub(super) struct Pump<T: Transport> {
    pub(super) shard: Shard,
    pub(super) limits: Limits,
    pub(super) effects: Effects,
    pub(super) inbox: Inbox<Message>,
    orders: Orders,
    http: mpsc::Sender<HandOver>,
    pub(super) listeners: Vec<Acceptor>,
    /// By the core's number.
    pub(super) slots: Vec<Slot<T::Io>>,
    /// Slots that are in use.
    open: u64,
    /// From when on the shard is drained, and when this ends at the latest.
    pub(super) stop_at: Option<u64>,
    has_drained: bool,
    /// Emptied after each use.
    pub(super) slices: Vec<Slice>,
    woken: Vec<u32>,
    pub(super) transport: T,
}

/// What belongs to the transport of one connection.
pub(super) struct Slot<I> {
    /// None: the slot is free.
    pub(super) open: Option<Open<I>>,
}

pub(super) struct Open<I> {
    pub(super) socket: OwnedFd,
    connection: Connection,
    /// The core knows that the other side has gone.
    pub(super) has_hung_up: bool,
    /// The core has ended it. What is in flight for it comes back.
    pub(super) is_cut: bool,
    pub(super) io: I,
}

impl<T: Transport> Pump<T> {
    pub(super) fn new(setup: ShardSetup, transport: T) -> Pump<T> {
        let ShardSetup { shard, limits, listeners, port, orders, http, core: _ } = setup;
        Pump {
            shard,
            limits,
            effects: Effects::new(port.outbox),
            inbox: port.inbox,
            orders,
            http,
            listeners: listeners.into_iter().map(Acceptor::new).collect(),
            slots: Vec::new(),
            open: 0,
            stop_at: None,
            has_drained: false,
            slices: Vec::new(),
            woken: Vec::new(),
            transport,
        }
    }

    // ---- the turn ----

    /// The turn, after what came from sockets has gone to the core: so do mesh and orders; then the core has its turn,
    /// connections that it woke are read and written, and new ones accepted. True: there is more to do, come back
    /// without waiting.
    pub(super) fn serve(&mut self, now: Now) -> bool {
        while let Some(adopted) = self.orders.adopted() {
            self.adopt(adopted, now);
        }
        self.stop_if_asked(now);

        let mut more = self.inbox.pop_each(|from, message| self.shard.mesh(now, from, message, &mut self.effects));
        more |= self.shard.turn(now, &mut self.effects);
        self.cut_ended();
        more |= self.serve_woken(now);
        self.shard.turned();

        // Behind all that may have made room for it.
        more | self.accept(now)
    }

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
                    T::read(self, slot);
                }
            }
            T::write(self, slot, now);
        }
        self.woken = woken;
        more || !self.effects.woken.is_empty()
    }

    /// When the next turn must be at the latest; `more`: a time of the driver's own.
    pub(super) fn wake_at(&self, now: Now, more: Option<u64>) -> Option<u64> {
        // A time that has passed is no reason to wake: what waits for it waits for something else too.
        let own = self.listeners.iter().map(|listener| listener.retry_at).chain([self.stop_at, more]);
        own.flatten().filter(|at| *at > now.ms).chain(self.shard.deadline()).min()
    }

    // ---- accepting ----

    /// Accepts who waits, as far as the limit allows. True: there may be more.
    fn accept(&mut self, now: Now) -> bool {
        let mut more = false;
        for index in 0..self.listeners.len() {
            let mut places = ACCEPTS_PER_TURN_LIMIT;
            while self.listeners[index].is_due(now) && self.stop_at.is_none() && !self.is_full() {
                if places == 0 {
                    more = true;
                    break;
                }
                places -= 1;
                let Some((stream, peer)) = self.listeners[index].accept(now) else { continue };
                let is_set = if T::NONBLOCKING { stream.set_nonblocking(true) } else { Ok(()) };
                let opened = is_set.and_then(|()| self.open(stream, Connection::new(peer), now));
                if let Err(error) = opened {
                    self.listeners[index].failed(&error, now);
                }
            }
        }
        more
    }

    fn is_full(&self) -> bool {
        self.open >= self.limits.connections_per_shard_limit
    }

    fn open(&mut self, stream: TcpStream, connection: Connection, now: Now) -> io::Result<u32> {
        let slot = self.shard.opened(now, &mut self.effects);
        let socket = stream.into();
        let io = self.transport.open(slot, &socket).inspect_err(|_| self.shard.handed_over(slot))?;
        let index = slot as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || Slot { open: None });
        }
        debug_assert!(self.slots[index].open.is_none(), "the core gave a slot that is in use");
        self.slots[index].open = Some(Open { socket, connection, has_hung_up: false, is_cut: false, io });
        self.open += 1;
        T::read(self, slot);
        // The core may have ended it at once.
        self.cut_ended();
        Ok(slot)
    }

    fn adopt(&mut self, adopted: Adopted, now: Now) {
        let Adopted { stream, peer, head, rest } = adopted;
        let Some(request) = adopted_request(&head, canonical(peer)) else {
            tracing::error!("a connection was adopted that asks for no WebSocket");
            return;
        };
        if self.stop_at.is_some() || self.is_full() || stream.set_nonblocking(T::NONBLOCKING).is_err() {
            return;
        }
        // Its listener was not one of ours.
        let _ = stream.set_nodelay(true);
        let _ = socket2::SockRef::from(&stream).set_send_buffer_size(self.limits.socket_send_buffer_bytes as usize);
        let Ok(slot) = self.open(stream, Connection::adopted(&rest), now) else { return };
        if self.slots[slot as usize].open.is_none() {
            return;
        }
        self.shard.requested(now, slot, request, &mut self.effects);
        self.effects.wake(slot);
        self.cut_ended();
    }

    // ---- reading ----

    /// Gives the core what has come, or goes on with what was kept. To be followed by [`Pump::cut_ended`].
    pub(super) fn input(&mut self, slot: u32, bytes: &mut [u8], now: Now) {
        let Some(open) = &mut self.slots[slot as usize].open else { return };
        let next = open.connection.received(bytes, now, slot, &mut self.shard, &self.limits, &mut self.effects);
        match next {
            Next::Stay => T::read(self, slot),
            Next::HandOver(peer, bytes) => {
                if let Some(socket) = self.release(slot) {
                    hand_over(socket, peer, bytes, &self.http);
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
        debug_assert!(T::is_idle(&open.io));
        self.transport.release(&open.socket);
        self.shard.handed_over(slot);
        self.open -= 1;
        Some(open.socket)
    }

    // ---- ending ----

    /// The other side has gone. To be followed by [`Pump::cut_ended`].
    pub(super) fn hung_up(&mut self, slot: u32, now: Now) {
        let Some(open) = &mut self.slots[slot as usize].open else { return };
        if !std::mem::replace(&mut open.has_hung_up, true) {
            self.shard.hung_up(now, slot, &mut self.effects);
        }
    }

    /// Ends the connections that the core wants to be ended.
    pub(super) fn cut_ended(&mut self) {
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

    /// Closes a connection that was cut once nothing is in flight for it.
    pub(super) fn vacate_if_done(&mut self, slot: u32) {
        let place = &mut self.slots[slot as usize].open;
        if let Some(open) = place.take_if(|open| open.is_cut && T::is_idle(&open.io)) {
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
    pub(super) fn has_stopped(&mut self, now: Now) -> bool {
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
}
