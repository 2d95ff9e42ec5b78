//! Whom to close when a shard runs short of memory for its connections: those who hold the most of it, not the one that
//! happens to be served next.

use super::{Connection, Connections, Phase};
use crate::ids::Slot;
use std::collections::{BTreeMap, BinaryHeap};
use uproar_model::UserId;

/// Memory that a shard's connections share: bytes that wait to be written, or those of unfinished messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shortage {
    /// The bytes held now.
    pub held: u64,
    /// What all connections together may hold.
    pub limit: u64,
    /// What the connections of one user may hold while more than half of `limit` is in use.
    pub user_limit: u64,
    /// The part of one connection.
    pub of: fn(&Connection) -> u64,
}

/// Who holds memory: a user, or a connection whose user is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Holder {
    User(UserId),
    Connection(Slot),
}

impl Shortage {
    /// Whether all connections together hold too much.
    pub fn is_acute(&self) -> bool {
        self.held > self.limit
    }

    /// Whether they hold so much that one user may hold no more than a share.
    pub fn is_near(&self) -> bool {
        self.held > self.limit / 2
    }
}

impl Connections {
    /// The connections to close so that the shortage ends: the largest of the user who holds the most, again and again,
    /// until an eighth of the limit is free. It looks at all connections, so it is for rare use.
    pub fn to_close_in(&self, shortage: &Shortage) -> Vec<Slot> {
        let mut holders: BTreeMap<Holder, (u64, Vec<(u64, Slot)>)> = BTreeMap::new();
        for slot in self.slots() {
            let bytes = (shortage.of)(&self[slot]);
            if bytes > 0 {
                let holder = match &self[slot].phase {
                    Phase::Open(session) => Holder::User(session.user.id),
                    _ => Holder::Connection(slot),
                };
                let (sum, connections) = holders.entry(holder).or_default();
                *sum += bytes;
                connections.push((bytes, slot));
            }
        }
        let mut by_size = BinaryHeap::with_capacity(holders.len());
        for (holder, (sum, connections)) in &mut holders {
            connections.sort_unstable();
            by_size.push((*sum, *holder));
        }
        let aim = match shortage.is_acute() {
            true => shortage.limit - shortage.limit / 8,
            false => shortage.held,
        };
        let mut held = shortage.held;
        let mut to_close = Vec::new();
        // Several users may be over their limit, however much is held in all.
        while let Some((sum, holder)) = by_size.pop()
            && (held > aim || sum > shortage.user_limit)
        {
            let Some((bytes, slot)) = holders.get_mut(&holder).and_then(|(_, connections)| connections.pop()) else {
                continue;
            };
            to_close.push(slot);
            held = held.saturating_sub(bytes);
            if sum > bytes {
                by_size.push((sum - bytes, holder));
            }
        }
        to_close
    }
}
