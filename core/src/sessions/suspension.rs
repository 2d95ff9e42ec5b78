//! A shard whose node has lost its lease: it serves nobody, because it might act on rights that were taken away. First
//! it waits. After a while it refuses new connections, and then it sends its clients to the other nodes.

use crate::connections::Phase;
use crate::host::{Host, Now};
use crate::ids::{Serial, Slot};
use crate::message::Caller;
use crate::mutation::{self, Mutation};
use crate::protocol::CloseReason;
use crate::shard::Shard;
use crate::websocket::Refusal;
use std::collections::VecDeque;

/// How often a shard whose lease has expired finds out whether it holds again.
pub(crate) const LEASE_CHECK_INTERVAL_MS: u64 = 10;
/// After this time, clients are sent to the other nodes. A failover of the database should be over by then.
const PATIENCE_MS: u64 = 15_000;
/// For how long clients are closed, one after the other. All at once would overload the others.
const SPREAD_MS: u64 = 5_000;
/// The most that one check adds to the duration: more has passed if the process was stopped. Then the database may well
/// answer.
const LONGEST_STEP_MS: u64 = 1_000;

/// How far it has come.
#[derive(Debug, Default)]
pub(crate) struct Suspension {
    checked_ms: u64,
    /// How long it has lasted while this process ran.
    lasts_ms: u64,
    /// Whether there was another node when it began, or has been one since. Those that can't be heard are forgotten.
    has_peers: bool,
    /// Whether new connections are refused.
    refuses: bool,
    /// Connections below this slot have been closed.
    closed_below: usize,
    /// Connections that were refused or closed since, and until when they may take, earliest first.
    parting: VecDeque<(u64, Caller)>,
}

impl Shard {
    /// Finds out whether the node's lease holds. A driver calls this at the beginning of a loop turn, before any input.
    /// While the lease does not hold, the shard serves nobody: it wants no input (except request heads, most of which
    /// are for HTTP), hands out nothing to write but refusals and goodbyes, and its turns only wait. It still receives
    /// the messages of the mesh, which may say that a right was taken away. When the lease holds again, everything goes
    /// on where it was.
    pub fn check_lease(&mut self, now: Now, host: &mut impl Host) {
        if self.cx.config.lease.is_valid(now.ms) || mutation::active(Mutation::ServesWithoutLease) {
            if self.suspension.take().is_some() {
                self.cx.begin(now);
                self.go_on_after(now.ms.saturating_sub(self.served_ms), host);
            }
            self.served_ms = now.ms;
        } else {
            self.cx.begin(now);
            let begun = || Suspension { checked_ms: now.ms, ..Suspension::default() };
            let suspension = self.suspension.get_or_insert_with(begun);
            suspension.lasts_ms += now.ms.saturating_sub(suspension.checked_ms).min(LONGEST_STEP_MS);
            suspension.checked_ms = now.ms;
            suspension.has_peers |= self.cx.config.bus.has_peers();
        }
    }

    /// The shard serves again, after it has neither read nor written for this long. That is not the fault of clients.
    fn go_on_after(&mut self, pause_ms: u64, host: &mut impl Host) {
        self.homes.extend_deadlines(pause_ms);
        for slot in self.connections.slots() {
            if !matches!(self.connections[slot].phase, Phase::Vacant | Phase::Aborted) {
                self.connections[slot].extend_deadlines(pause_ms);
                host.wake(slot);
            }
        }
    }

    /// A turn while the lease does not hold. A server that stops does not wait for it: its clients can go elsewhere.
    pub(crate) fn suspended_turn(&mut self, host: &mut impl Host) {
        // Other nodes go on showing who is here.
        self.feeds.report_presence(&mut self.cx, host);
        self.deliver_own(host);
        self.homes.announce_due(&mut self.cx, host);
        self.homes.tell_due(&self.cx, host);
        self.deliver_own(host);
        if self.draining {
            self.connections.slots().for_each(|slot| self.abort(slot, host));
            return self.deliver_own(host);
        }
        while let Some(caller) = self.next_parted() {
            if self.connections.of_caller(caller).is_some_and(|it| matches!(it.phase, Phase::Closing { .. })) {
                self.abort(caller.slot, host);
            }
        }
        let Some(Suspension { lasts_ms, has_peers, .. }) = self.suspension else { return };
        if lasts_ms >= self.cx.limits().gap_deadline_ms {
            self.refuse_waiting(host);
        }
        // Without another node, they can only wait here.
        if let Some(since_ms) = lasts_ms.checked_sub(PATIENCE_MS).filter(|_| has_peers) {
            self.send_away(since_ms.min(SPREAD_MS), host);
        }
        self.deliver_own(host);
    }

    /// The next connection that has had its time.
    fn next_parted(&mut self) -> Option<Caller> {
        let parting = &mut self.suspension.as_mut()?.parting;
        let (_, caller) = parting.pop_front_if(|(until_ms, _)| *until_ms <= self.cx.now.ms)?;
        Some(caller)
    }

    /// Whether a connection that asks for a WebSocket now must be refused.
    pub(crate) fn refuses_connections(&self) -> bool {
        self.suspension.as_ref().is_some_and(|suspension| suspension.refuses)
    }

    /// Refuses a connection, so that its client tries again, perhaps on another node.
    pub(crate) fn refuse_without_lease(&mut self, slot: Slot, host: &mut impl Host) {
        let why = "the database can't be reached; try again";
        self.reject(slot, &Refusal::new(503, "unavailable", why), host);
    }

    /// Refuses the connections that wait to be admitted, once.
    fn refuse_waiting(&mut self, host: &mut impl Host) {
        let Some(suspension) = &mut self.suspension else { return };
        if std::mem::replace(&mut suspension.refuses, true) {
            return;
        }
        for slot in self.connections.slots() {
            if matches!(self.connections[slot].phase, Phase::Handshake(_)) {
                self.refuse_without_lease(slot, host);
            }
        }
    }

    /// Closes the part of the connections that is due after `since_ms` of [`SPREAD_MS`]. No new ones are admitted.
    fn send_away(&mut self, since_ms: u64, host: &mut impl Host) {
        let count = self.connections.slots().count();
        let due = (count as u64 * since_ms / SPREAD_MS) as usize;
        let Some(suspension) = &mut self.suspension else { return };
        let slots = suspension.closed_below..due;
        suspension.closed_below = suspension.closed_below.max(due);
        for slot in slots.map(|slot| Slot(slot as u32)) {
            if !matches!(self.connections[slot].phase, Phase::Open(_) | Phase::Connecting(_)) {
                continue;
            }
            // The rest of what has been begun may not be sent any more.
            if self.connections[slot].outbound.is_begun() {
                self.abort(slot, host);
                continue;
            }
            self.close(slot, CloseReason::INSUFFICIENT_STATE, host);
            self.part_from(slot);
        }
    }

    /// All that is left to send to this connection is a refusal or a close frame, which needs no lease.
    pub(crate) fn part_from(&mut self, slot: Slot) {
        self.connections[slot].is_parting = true;
        let until_ms = self.cx.now.ms + self.cx.limits().close_timeout_ms;
        let caller = self.connections.caller(slot, Serial(0));
        if let Some(suspension) = &mut self.suspension {
            suspension.parting.push_back((until_ms, caller));
        }
    }
}
