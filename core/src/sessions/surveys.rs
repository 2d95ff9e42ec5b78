//! Surveys: what a backend asks about the clients of this shard, and has done with them.

use super::joining::Denied;
use crate::host::Host;
use crate::ids::Slot;
use crate::protocol::CloseReason;
use crate::shard::Shard;
use crate::survey::{Expiry, Findings, Pattern, Survey};
use std::collections::BTreeMap;
use std::sync::Arc;
use uproar_model::UserId;

/// When connections that never expire do so, in Unix milliseconds.
const NEVER_UNIX_MS: u64 = 1 << 53;

impl Shard {
    /// Answers a survey, or does what it says.
    pub(crate) fn on_survey(&mut self, survey: &Survey, host: &mut impl Host) -> Findings {
        match survey {
            Survey::Presence { channel } => self.homes.own_presence(&self.cx, channel),
            Survey::PresenceStats { channel } => self.homes.own_presence_stats(channel),
            Survey::Channels { pattern } => self.channels(pattern.as_ref()),
            Survey::Unsubscribe { user, channel, client } => {
                self.unsubscribe_user(*user, channel, client.as_deref(), host)
            }
            Survey::Disconnect { user, client, spared, code, reason } => {
                let mut slots = self.slots_of(*user, client.as_deref());
                slots.retain(|slot| spared.is_empty() || !spared.contains(&self.client_id(*slot).into()));
                done(slots, |slot| self.close_as(slot, *code, reason, host))
            }
            Survey::Refresh { user, client, expiry } => {
                let slots = self.slots_of(*user, client.as_deref());
                done(slots, |slot| self.set_expiry(slot, *expiry, host))
            }
        }
    }

    /// The open connections of a user, or of these the one with this id.
    fn slots_of(&self, user: UserId, client: Option<&str>) -> Vec<Slot> {
        let slots = self.connections.users.connections(user).iter().copied();
        slots.filter(|slot| client.is_none_or(|client| self.client_id(*slot) == client)).collect()
    }

    fn channels(&self, pattern: Option<&Pattern>) -> Findings {
        let limit = self.cx.limits().channels_limit as usize;
        let all = self.feeds.channels().filter(|(name, _)| pattern.is_none_or(|pattern| pattern.matches(name)));
        let mut channels: BTreeMap<_, _> = all.take(limit + 1).map(|(name, count)| (Arc::clone(name), count)).collect();
        let has_more = channels.len() > limit;
        if has_more {
            channels.pop_last();
        }
        Findings { channels, has_more, ..Findings::default() }
    }

    fn unsubscribe_user(
        &mut self,
        user: UserId,
        channel: &str,
        client: Option<&str>,
        host: &mut impl Host,
    ) -> Findings {
        let mut slots = self.slots_of(user, client);
        let key_of = |shard: &Shard, slot: Slot| shard.connections[slot].session()?.key_of(channel);
        slots.retain(|slot| key_of(self, *slot).is_some());
        done(slots, |slot| {
            if let Some(key) = key_of(self, slot) {
                self.end_or_deny(slot, key, Denied::Ended, host);
            }
        })
    }

    fn set_expiry(&mut self, slot: Slot, expiry: Expiry, host: &mut impl Host) {
        let now = self.cx.now;
        let expires_unix_ms = match expiry {
            Expiry::Now => return self.close(slot, CloseReason::EXPIRED, host),
            Expiry::At(time) if time <= now.unix_ms => return self.close(slot, CloseReason::EXPIRED, host),
            Expiry::At(time) => time.saturating_add(self.cx.limits().expired_grace_ms).min(NEVER_UNIX_MS),
            Expiry::Never => NEVER_UNIX_MS,
        };
        let Some(session) = self.connections[slot].session_mut() else { return };
        session.expires_unix_ms = expires_unix_ms;
        self.connections.arm_timer(slot, now.ms + expires_unix_ms.saturating_sub(now.unix_ms));
    }
}

/// Does something with each of these connections, and says with how many.
fn done(slots: Vec<Slot>, act: impl FnMut(Slot)) -> Findings {
    let client_count = slots.len() as u64;
    slots.into_iter().for_each(act);
    Findings { client_count, ..Findings::default() }
}
