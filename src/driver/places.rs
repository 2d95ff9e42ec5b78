//! The places of a shard's connections, which client addresses share.
//!
//! Connections whose first request has not arrived have places of their own. So a stranger who holds all the
//! WebSockets, or opens connections and sends nothing, keeps no request from being read and answered.

use std::collections::HashMap;
use std::net::IpAddr;
use uproar_core::Slot;
use uproar_core::limits::Limits;
use uproar_model::fairness::{Entry, Place, Pool, Prefix, Share};

pub(super) struct Places {
    heads: Pool<Prefix>,
    websockets: Pool<Prefix>,
    /// The slots of the connections that hold the places.
    slots: HashMap<Held, Slot>,
}

/// A place that a connection holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Held {
    /// Its first request has not arrived.
    Head(Place),
    WebSocket(Place),
}

/// A place for a connection.
pub(super) struct Granted {
    pub(super) held: Held,
    /// The connection that had the place, and must be closed.
    pub(super) evicted: Option<Slot>,
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Places {
        Places {
            heads: Pool::new(limits.heads_per_shard_limit as usize),
            websockets: Pool::new(limits.connections_per_shard_limit as usize),
            slots: HashMap::new(),
        }
    }

    /// A place for a connection that has just been accepted. `None`: this client has its share.
    pub(super) fn for_head(&mut self, client: IpAddr) -> Option<Granted> {
        let entry = self.heads.enter(&Share::of_address(client));
        let granted = self.granted(entry, Held::Head)?;
        if let Held::Head(place) = granted.held {
            // Until its request has arrived, closing it harms nobody much.
            self.heads.set_idle(place, true);
        }
        Some(granted)
    }

    /// A place for a WebSocket. `None`: this client has its share.
    pub(super) fn for_websocket(&mut self, client: IpAddr) -> Option<Granted> {
        let entry = self.websockets.enter(&Share::of_address(client));
        self.granted(entry, Held::WebSocket)
    }

    fn granted(&mut self, entry: Entry, held: fn(Place) -> Held) -> Option<Granted> {
        match entry {
            Entry::Free(place) => Some(Granted { held: held(place), evicted: None }),
            Entry::Instead { place, evicted } => {
                Some(Granted { held: held(place), evicted: self.slots.remove(&held(evicted)) })
            }
            Entry::Refused => None,
        }
    }

    /// Says which connection holds a place.
    pub(super) fn assign(&mut self, held: Held, slot: Slot) {
        self.slots.insert(held, slot);
    }

    /// Gives a place back. Nothing happens if another connection has it already.
    pub(super) fn leave(&mut self, held: Held) {
        self.slots.remove(&held);
        match held {
            Held::Head(place) => self.heads.leave(place),
            Held::WebSocket(place) => self.websockets.leave(place),
        }
    }
}
