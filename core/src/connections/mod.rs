//! Connections: the table of a shard's connections, and what each of them holds. Nothing here knows feeds or homes;
//! what clients ask for is handled in `sessions`.
//!
//! | file | holds |
//! | --- | --- |
//! | `connection.rs` | one connection: its phase, queue and timer; the words for the end of a connection |
//! | `handshake.rs` | the state of a connection before it is open |
//! | `joining.rs` | the state of a client on its way into a channel |
//! | `failures.rs` | the publishes of a connection that ended with error 100 |
//! | `session.rs` | the state of an open connection: user, subscriptions, commands that wait for an answer |
//! | `outbound.rs` | the bytes waiting to be written to one connection |
//! | `shortage.rs` | whom to close when a shard runs short of memory for its connections |
//! | `users.rs` | the users of this shard: their connections, allowances and revoked tokens |
//! | `timers.rs` | when to look at which connection again |

mod connection;
mod failures;
mod handshake;
mod joining;
mod outbound;
mod session;
mod shortage;
mod timers;
mod users;

pub(crate) use connection::{Connection, Phase, Then};
pub(crate) use handshake::{Authenticating, Connecting, Handshake, UpgradeParameters};
pub(crate) use joining::{Joining, Since};
pub(crate) use session::{
    Arrival, Call, CallKind, Client, Dialect, PLAIN_KEY, Session, Subscribing, Subscription, SubscriptionState,
    expiry_ms,
};
pub(crate) use shortage::Shortage;
pub(crate) use users::Users;

use crate::context::Context;
use crate::host::Host;
use crate::ids::{CommandId, Serial, Slot};
use crate::message::{Caller, Endpoint};
use crate::mutation::{self, Mutation};
use crate::protocol::centrifuge::{self, Encoding, Reply};
use std::ops::{Index, IndexMut};
use timers::Timers;

pub(crate) struct Connections {
    /// The shard, as the endpoint of the calls of its connections.
    own: Endpoint,
    table: Vec<Connection>,
    vacant: Vec<Slot>,
    open: usize,
    timers: Timers,
    pub users: Users,
    /// Connections with replies that become a frame at the end of the turn.
    to_flush: Vec<Slot>,
}

impl Index<Slot> for Connections {
    type Output = Connection;

    fn index(&self, slot: Slot) -> &Connection {
        &self.table[slot.index()]
    }
}

impl IndexMut<Slot> for Connections {
    fn index_mut(&mut self, slot: Slot) -> &mut Connection {
        &mut self.table[slot.index()]
    }
}

impl Connections {
    pub fn new(own: Endpoint, users: Users) -> Connections {
        Connections {
            own,
            table: Vec::new(),
            vacant: Vec::new(),
            open: 0,
            timers: Timers::default(),
            users,
            to_flush: Vec::new(),
        }
    }

    // ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes a slot for a connection that was accepted.
    pub fn open(&mut self, cx: &mut Context) -> Slot {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.table.push(Connection::vacant());
            Slot(self.table.len() as u32 - 1)
        });
        self.open += 1;
        let interval = cx.limits().ping_interval_ms;
        let first_ping = interval / 2 + cx.random() % (interval / 2 + 1);
        let generation = self[slot].generation;
        self[slot] = Connection {
            generation,
            phase: Phase::Head,
            opened_ms: cx.now.ms,
            ping_ms: cx.now.ms + first_ping,
            progress_ms: cx.now.ms,
            ..Connection::vacant()
        };
        self.arm_timer(slot, cx.now.ms + cx.limits().handshake_timeout_ms);
        slot
    }

    /// Gives a slot back.
    pub fn free(&mut self, cx: &Context, slot: Slot) {
        debug_assert!(matches!(self[slot].phase, Phase::Aborted));
        self.set_unfinished(cx, slot, 0);
        let generation = self[slot].generation.wrapping_add(1);
        self[slot] = Connection { generation, ..Connection::vacant() };
        self.vacant.push(slot);
        self.open -= 1;
    }

    /// Notes how many bytes the driver holds for a message that has not arrived completely.
    pub fn set_unfinished(&mut self, cx: &Context, slot: Slot, bytes: u32) {
        let before = std::mem::replace(&mut self[slot].unfinished_bytes, bytes);
        let all = &cx.meter.unfinished_bytes;
        all.set(all.get() - u64::from(before) + u64::from(bytes));
    }

    /// The number of connections that have a slot.
    pub fn open_count(&self) -> usize {
        self.open
    }

    /// All slots, vacant ones included.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.table.len() as u32).map(Slot)
    }

    /// The caller for a request of this connection.
    pub fn caller(&self, slot: Slot, serial: Serial) -> Caller {
        Caller { endpoint: self.own, slot, generation: self[slot].generation, serial }
    }

    /// The connection that made a call, if it still exists.
    pub fn of_caller(&mut self, caller: Caller) -> Option<&mut Connection> {
        debug_assert_eq!(caller.endpoint, self.own, "an answer for another endpoint");
        let connection = self.table.get_mut(caller.slot.index())?;
        let is_same = connection.generation == caller.generation || mutation::active(Mutation::SlotWithoutGeneration);
        is_same.then_some(connection)
    }

    // ── timers ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Makes sure that the connection is looked at again at this time or earlier.
    pub fn arm_timer(&mut self, slot: Slot, at_ms: u64) {
        let connection = &mut self.table[slot.index()];
        if at_ms < connection.armed_ms {
            connection.armed_ms = at_ms;
            self.timers.add(at_ms, slot, connection.generation);
        }
    }

    /// The next connection whose timer is due.
    pub fn next_due(&mut self, now_ms: u64) -> Option<Slot> {
        while let Some((at_ms, slot, generation)) = self.timers.due(now_ms) {
            let connection = &mut self.table[slot.index()];
            // Entries of earlier connections, and those that an earlier timer replaced, are skipped.
            if connection.generation == generation && connection.armed_ms == at_ms {
                connection.armed_ms = u64::MAX;
                return Some(slot);
            }
        }
        None
    }

    pub fn next_timer_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    // ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Whether more waits for this connection than its limit allows.
    pub fn is_over_limit(&self, cx: &Context, slot: Slot) -> bool {
        self[slot].outbound.bytes() > cx.limits().outbound_limit_bytes
    }

    /// Something was put into the queue: wakes the driver, and arms the timer that notices a write without progress.
    pub fn written(&mut self, cx: &Context, slot: Slot, host: &mut impl Host) {
        host.wake(slot);
        self.arm_timer(slot, cx.now.ms + cx.limits().write_timeout_ms);
    }

    /// Adds a reply to the frame that this connection is sent at the end of the turn.
    pub fn reply(&mut self, cx: &Context, slot: Slot, id: CommandId, reply: Reply<'_>) {
        self.add_push(cx, slot, |encoding, out| centrifuge::push_reply(encoding, out, id.0, reply));
    }

    /// Adds a reply or push, written by `write`, to the frame that this connection is sent at the end of the turn, or
    /// before the next thing that it is sent. A connection without the Centrifugo protocol gets nothing.
    pub fn add_push(&mut self, cx: &Context, slot: Slot, write: impl FnOnce(Encoding, &mut Vec<u8>)) {
        let flush_bytes = (cx.limits().outbound_message_limit_bytes / 8) as usize;
        let connection = &mut self.table[slot.index()];
        let Some(encoding) = connection.encoding() else { return };
        if connection.outbound.bytes() + connection.replies.len() as u64 > cx.limits().outbound_limit_bytes {
            connection.overflows = true;
            return self.to_flush.push(slot);
        }
        // SDKs limit the size of a frame. A single reply is bounded by the code that makes it.
        if connection.replies.len() >= flush_bytes {
            connection.enqueue_replies(cx.now.ms, &cx.meter);
        }
        if connection.replies.is_empty() {
            self.to_flush.push(slot);
        }
        write(encoding, &mut connection.replies);
    }

    /// Connections with replies, to be made frames of now.
    pub fn take_to_flush(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.to_flush)
    }

    /// The longest outbound queue, in bytes. For tests.
    pub fn longest_queue_bytes(&self) -> u64 {
        self.table.iter().map(|connection| connection.outbound.bytes()).max().unwrap_or(0)
    }
}
