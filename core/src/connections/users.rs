//! The users of this shard: their connections, their allowances, and the tokens that were revoked.

use crate::context::Context;
use crate::ids::Slot;
use std::collections::HashMap;
use std::sync::Arc;
use uproar_model::fairness::{Bucket, Rate};
use uproar_model::{Revocation, Revocations, UserId};

/// How often users without connections are forgotten.
const SWEEP_INTERVAL_MS: u64 = 10_000;
/// Users whose new names are remembered. If more are renamed, a connection that is just opening may keep the former
/// name.
const NEW_NAMES_LIMIT: usize = 4_096;

pub(crate) struct Users {
    users: HashMap<UserId, UserState, ahash::RandomState>,
    /// Of users who were renamed a moment ago: a name that was asked for earlier may arrive later.
    new_names: HashMap<UserId, NewName, ahash::RandomState>,
    last_number: u64,
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

#[derive(Debug)]
struct NewName {
    username: Arc<str>,
    heard_ms: u64,
    /// Counts what this shard heard of such names.
    number: u64,
}

impl Users {
    pub fn new(hasher: ahash::RandomState, revocations: Revocations) -> Users {
        let (users, new_names) = (HashMap::with_hasher(hasher.clone()), HashMap::with_hasher(hasher));
        Users { users, new_names, last_number: 0, revocations, swept_ms: 0 }
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

    /// The users who have connections. Not in order, because there may be many.
    pub fn connected(&self) -> Vec<UserId> {
        let connected = self.users.iter().filter(|(_, state)| !state.slots.is_empty());
        connected.map(|(user, _)| *user).collect()
    }

    pub fn connections(&self, user: UserId) -> &[Slot] {
        self.users.get(&user).map_or(&[], |state| &state.slots)
    }

    pub fn has_too_many_connections(&self, cx: &Context, user: UserId) -> bool {
        self.connections(user).len() as u64 >= cx.limits().user_connections_limit
    }

    /// A user has been renamed. Returns the number of this news.
    pub fn add_new_name(&mut self, cx: &Context, user: UserId, username: &Arc<str>) -> u64 {
        self.last_number += 1;
        let number = self.last_number;
        if self.new_names.len() >= NEW_NAMES_LIMIT {
            self.forget_names(cx);
        }
        if self.new_names.len() < NEW_NAMES_LIMIT || self.new_names.contains_key(&user) {
            self.new_names.insert(user, NewName { username: Arc::clone(username), heard_ms: cx.now.ms, number });
        }
        number
    }

    /// The name of a user was read because of the news with this number. False: there is later news.
    #[must_use]
    pub fn set_new_name(&mut self, user: UserId, number: u64, username: &Arc<str>) -> bool {
        let Some(name) = self.new_names.get_mut(&user) else { return true };
        if name.number != number {
            return false;
        }
        name.username = Arc::clone(username);
        true
    }

    /// The name that a user has got since this time.
    pub fn new_name(&self, user: UserId, since_ms: u64) -> Option<&Arc<str>> {
        let name = self.new_names.get(&user).filter(|name| name.heard_ms >= since_ms)?;
        Some(&name.username)
    }

    /// Forgets names that are older than anything that a connection may still wait for.
    fn forget_names(&mut self, cx: &Context) {
        let kept_ms = cx.limits().handshake_timeout_ms.max(cx.limits().command_deadline_ms);
        self.new_names.retain(|_, name| cx.now.ms <= name.heard_ms + kept_ms);
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
        self.forget_names(cx);
        self.revocations.sweep(cx.now.ms);
    }
}
