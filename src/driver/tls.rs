//! TLS between a driver and a connection's input and output. The core does not know about it.
//!
//! Received ciphertext becomes plaintext in one buffer of the shard and then takes the way of all input. The core's
//! output becomes one record at a time: the next is made when the kernel has taken the one before, and only then does
//! the core learn that its bytes are sent. So a slow reader's output waits in the core's queue, where it is counted,
//! and not as ciphertext.

use super::event_loop::{EventLoop, Open, Transport};
use super::input::Input;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use std::collections::VecDeque;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use uproar_core::websocket::Refusal;
use uproar_core::{Host, Now, Slice, Slot};
use uproar_tls::{Config, Error, RECORD_LIMIT_BYTES, Session};

/// Steps of handshakes in one turn, so that a storm of new connections does not delay the open ones: the server's
/// signature takes up to a millisecond.
pub(super) const HANDSHAKES_PER_TURN: usize = 8;

/// What a shard needs to accept TLS connections.
pub struct TlsSetup {
    pub config: Config,
    /// The shard's own listeners, one per address.
    pub listeners: Vec<TcpListener>,
}

/// The TLS side of one connection.
pub(super) struct Tls {
    pub(super) session: Box<Session>,
    /// How many bytes of the core's output are in ciphertext that is not completely written.
    sealed: usize,
    /// It waits in `EventLoop::handshakes` for its turn.
    is_waiting: bool,
    /// The core has finished: after the ciphertext, the sending half of the socket is shut down.
    half_closes: bool,
}

impl Tls {
    pub(super) fn new(session: Box<Session>) -> Box<Tls> {
        Box::new(Tls { session, sealed: 0, is_waiting: false, half_closes: false })
    }

    /// Encrypts the first of these bytes: those that fit into one record.
    fn seal(&mut self, slices: &[Slice], record: &mut Vec<u8>) -> Result<(), Error> {
        match slices {
            [] => return Ok(()),
            [only] => {
                self.sealed = only.len().min(RECORD_LIMIT_BYTES);
                return self.session.seal(&only[..self.sealed]);
            }
            slices => {
                for slice in slices {
                    let room = RECORD_LIMIT_BYTES - record.len();
                    record.extend_from_slice(&slice[..slice.len().min(room)]);
                }
            }
        }
        self.sealed = record.len();
        let result = self.session.seal(record);
        record.clear();
        result
    }

    /// Whether it has received bytes that wait for a step of the handshake. Until then it must not be read.
    pub(super) fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// Tells the client that nothing more follows, if that is possible without waiting.
    pub(super) fn say_goodbye(&mut self, socket: &OwnedFd) {
        self.session.close();
        if !self.session.outgoing().is_empty() {
            // An error means that the client has gone, or reads too slowly.
            let _ = send(socket, self.session.outgoing(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
    }
}

impl<T: Transport> EventLoop<T> {
    /// Passes received bytes on, for both kinds of connections. The caller must then call
    /// [`EventLoop::abort_closed`].
    pub(super) fn on_bytes(&mut self, slot: Slot, bytes: &mut [u8], now: Now) {
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        match &mut open.tls {
            None => self.on_input(slot, bytes, now),
            Some(tls) if tls.session.is_established() || has_left(&mut self.handshakes_left, &self.handshakes) => {
                self.on_ciphertext(slot, bytes, now);
            }
            Some(_) => self.wait_for_handshake(slot, bytes, now),
        }
    }

    /// Keeps the received bytes of a handshake for a later turn. Until then the connection need not be read.
    fn wait_for_handshake(&mut self, slot: Slot, bytes: &[u8], now: Now) {
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        let Some(tls) = &mut open.tls else { return };
        if tls.session.keep(bytes).is_err() {
            return self.on_failed(slot, now);
        }
        if !std::mem::replace(&mut tls.is_waiting, true) {
            self.handshakes.push_back(slot);
        }
        self.shard.unfinished(now, slot, open.held_bytes(), &mut self.effects);
    }

    /// Goes on with the handshakes that had to wait. True: some still wait.
    pub(super) fn continue_handshakes(&mut self, now: Now) -> bool {
        self.handshakes_left = HANDSHAKES_PER_TURN;
        while self.handshakes_left > 0
            && let Some(slot) = self.handshakes.pop_front()
        {
            let open = self.slots[slot.index()].open.as_mut().filter(|open| !open.is_aborted);
            // Another connection may have the slot now.
            if open.and_then(|open| open.tls.as_mut()).is_some_and(|tls| std::mem::take(&mut tls.is_waiting)) {
                self.handshakes_left -= 1;
                self.on_ciphertext(slot, &mut [], now);
                self.abort_closed();
            }
        }
        !self.handshakes.is_empty()
    }

    fn on_ciphertext(&mut self, slot: Slot, bytes: &mut [u8], now: Now) {
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        let Some(tls) = &mut open.tls else { return };
        let mut plaintext = std::mem::take(&mut self.plaintext);
        let received = tls.session.receive(bytes, &mut plaintext);
        let is_peer_closed = tls.session.is_peer_closed();
        if !tls.session.outgoing().is_empty() {
            self.effects.wake(slot);
        }
        match received {
            Ok(()) if plaintext.is_empty() => self.on_nothing(slot, now),
            Ok(()) => self.on_input(slot, &mut plaintext, now),
            Err(Error::PlainHttp) => {
                // From here on, it is a plain connection that has been refused.
                open.tls = None;
                open.input = Input::closed();
                let text = "this port speaks TLS: use https:// or wss:// in the address";
                self.shard.refused(now, slot, &Refusal::new(400, "bad_request", text), &mut self.effects);
                T::read(self, slot);
            }
            Err(error) => {
                tracing::debug!(%error, "a TLS session failed");
                // The alert is sent when the connection is aborted.
                self.on_failed(slot, now);
            }
        }
        plaintext.clear();
        self.plaintext = plaintext;
        let has_all = |open: &Open<T::Io>| self.shard.wants_input(slot) && !open.input.has_undecoded();
        // Otherwise the core learns it after the rest of the input: see `EventLoop::serve_woken`.
        if is_peer_closed && self.slots[slot.index()].open.as_ref().is_some_and(has_all) {
            self.on_peer_closed(slot, now);
        }
    }

    /// The bytes contained nothing for the core, such as a part of the handshake or of a record.
    fn on_nothing(&mut self, slot: Slot, now: Now) {
        let Some(open) = &self.slots[slot.index()].open else { return };
        self.shard.unfinished(now, slot, open.held_bytes(), &mut self.effects);
        T::read(self, slot);
    }

    /// Encrypts the next of the core's output for a TLS connection, unless earlier ciphertext has yet to be written.
    /// True: there is ciphertext to write.
    pub(super) fn seal(&mut self, slot: Slot, now: Now) -> bool {
        let Some(open) = &mut self.slots[slot.index()].open else { return false };
        let Some(tls) = &mut open.tls else { return false };
        if tls.sealed == 0 {
            debug_assert!(self.slices.is_empty());
            self.shard.outgoing(slot, &mut self.slices);
            let sealed = tls.seal(&self.slices, &mut self.record);
            self.slices.clear();
            if sealed.is_err() {
                self.on_failed(slot, now);
                return false;
            }
        }
        !tls.session.outgoing().is_empty()
    }

    /// All ciphertext of a connection is written.
    pub(super) fn on_sealed_sent(&mut self, slot: Slot, now: Now) {
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        let Some(tls) = &mut open.tls else { return };
        match std::mem::take(&mut tls.sealed) {
            0 if tls.half_closes && tls.session.outgoing().is_empty() => drop(shutdown(&open.socket, Shutdown::Write)),
            // The core may have had output while this was under way.
            sealed => self.shard.sent(now, slot, sealed, &mut self.effects),
        }
    }

    /// Shuts down the sending half of a connection that the core has finished: on TLS, after the client has been told.
    pub(super) fn half_close(&mut self, slot: Slot) {
        let Some(open) = &mut self.slots[slot.index()].open else { return };
        match &mut open.tls {
            Some(tls) => {
                tls.half_closes = true;
                tls.session.close();
                self.effects.wake(slot);
            }
            // It fails only if the client has closed, and then the next read tells.
            None => drop(shutdown(&open.socket, Shutdown::Write)),
        }
    }
}

/// Whether a step of a handshake may be taken now, which is then counted. Those that wait come first.
fn has_left(left: &mut usize, waiting: &VecDeque<Slot>) -> bool {
    let has_left = *left > 0 && waiting.is_empty();
    *left -= usize::from(has_left);
    has_left
}
