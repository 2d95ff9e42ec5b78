//! The users of this shard: their connections, their allowances, and the tokens that were revoked.

use crate::context::Context;
use crate::ids::Slot;
use std::collections::HashMap;
use uproar_model::fairness::{Bucket, Rate};
use uproar_model::{Revocation, Revocations, UserId};

/// How often users without connections are forgotten.
const SWEEP_INTERVAL_MS: u64 = 10_000;

pub(crate) struct Users {
    users: HashMap<UserId, UserState, ahash::RandomState>,
    revocations: Revocations,
    swept_ms: u64,
}

/// A user who is connected to this shard, or was recently.
#[derive(Debug, Default)]
struct UserState {
    slots: Vec<Slot>,
    publishes: Option<Bucket>,
    /// Requests for lists.
    lists: Option<Bucket>,
}

impl Users {
    pub fn new(hasher: ahash::RandomState, revocations: Revocations) -> Users {
        Users { users: HashMap::with_hasher(hasher), revocations, swept_ms: 0 }
    }

    // ── connections ─────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn add_connection(&mut self, user: UserId, slot: Slot) {
        self.users.entry(user).or_default().slots.push(slot);
    }

    pub fn remove_connection(&mut self, user: UserId, slot: Slot) {
        if let Some(state) = self.users.get_mut(&user) {
            state.slots.retain(|s| *s != slot);
        }
    }

    /// The users who have connections, in ascending order.
    pub fn connected(&self) -> Vec<UserId> {
        let connected = self.users.iter().filter(|(_, state)| !state.slots.is_empty());
        let mut users: Vec<UserId> = connected.map(|(user, _)| *user).collect();
        users.sort_unstable();
        users
    }

    pub fn connections(&self, user: UserId) -> &[Slot] {
        self.users.get(&user).map_or(&[], |state| &state.slots)
    }

    pub fn has_too_many_connections(&self, cx: &Context, user: UserId) -> bool {
        self.connections(user).len() as u64 >= cx.limits().user_connections_limit
    }

    // ── rates ───────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes one publish out of the user's allowance. False: the allowance is used up.
    #[must_use]
    pub fn take_publish(&mut self, cx: &Context, user: UserId) -> bool {
        let Some(rate) = cx.limits().publish_rate() else { return true };
        let state = self.users.entry(user).or_default();
        state.publishes.get_or_insert_with(|| Bucket::full(rate, cx.now.ms)).take(rate, cx.now.ms)
    }

    /// Takes one request for a list out of the user's allowance. False: the allowance is used up.
    #[must_use]
    pub fn take_list(&mut self, cx: &Context, user: UserId) -> bool {
        let rate = cx.limits().list_rate();
        let state = self.users.entry(user).or_default();
        state.lists.get_or_insert_with(|| Bucket::full(rate, cx.now.ms)).take(rate, cx.now.ms)
    }

    // ── revoked tokens ──────────────────────────────────────────────────────────────────────────────────────────────

    /// Whether a token of this user is revoked.
    pub fn is_revoked(&self, user: UserId, generation: Option<u32>, issued_at_s: u64) -> bool {
        self.revocations.of(user).is_some_and(|revocation| revocation.covers(generation, issued_at_s))
    }

    pub fn revoke(&mut self, revocation: Revocation) {
        self.revocations.add(revocation);
    }

    /// Forgets users without connections whose allowance is full again, and revocations that are older than any token.
    pub fn sweep(&mut self, cx: &Context) {
        if cx.now.ms < self.swept_ms + SWEEP_INTERVAL_MS {
            return;
        }
        self.swept_ms = cx.now.ms;
        let (publishes, lists) = (cx.limits().publish_rate(), cx.limits().list_rate());
        self.users.retain(|_, state| {
            let is_full = |bucket: &mut Option<Bucket>, rate: Option<Rate>| match (bucket, rate) {
                (Some(bucket), Some(rate)) => bucket.is_full(rate, cx.now.ms),
                _ => true,
            };
            !state.slots.is_empty()
                || !is_full(&mut state.publishes, publishes)
                || !is_full(&mut state.lists, Some(lists))
        });
        self.revocations.sweep(cx.now.ms);
    }
}
