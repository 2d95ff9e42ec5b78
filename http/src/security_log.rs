//! The log of what matters to security: accounts that appear or change, and rights that end. One line per event, with
//! the client's address and the user's id, and never with a secret. (`attempts` logs failed sign-ins.)

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use uproar_model::fairness::{AddressBuckets, LogLimit, Rate};
use uproar_model::{RoomId, UserId};

/// How many lines are logged for one address, and in all, so that nobody can fill the disk or hide among the lines of
/// others.
const ADDRESS_RATE: Rate = Rate::per_second(1, 100);
const TOTAL_RATE: Rate = Rate::per_second(20, 1000);

/// Buckets of addresses that are kept.
const BUCKETS_LIMIT: usize = 1 << 14;

/// What a user did, or tried to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event<'a> {
    SignedUp,
    /// The account may be new.
    SignedInWithProvider,
    ChangedPassword,
    SignedOut,
    /// The token that a request carried was valid until it was revoked.
    UsedRevokedToken,
    DeletedRoom {
        room: RoomId,
        name: &'a str,
    },
    RemovedMember {
        room: RoomId,
        name: &'a str,
        member: UserId,
    },
    /// `detail`: what was changed, as the room's log has it.
    ModeratedRoom {
        room: RoomId,
        name: &'a str,
        detail: &'a str,
    },
    CreatedHook {
        room: RoomId,
        name: &'a str,
        hook: i64,
    },
    DeletedHook {
        room: RoomId,
        name: &'a str,
        hook: i64,
    },
    CreatedInvite {
        name: &'a str,
    },
    RevokedInvite {
        name: &'a str,
    },
}

/// The target of its lines begins with this.
pub(crate) const TARGET: &str = module_path!();

pub(crate) struct SecurityLog {
    /// Buckets count milliseconds from here.
    start: Instant,
    state: Mutex<State>,
}

struct State {
    by_address: AddressBuckets,
    total: LogLimit,
}

impl SecurityLog {
    pub(crate) fn new(now: Instant) -> SecurityLog {
        let by_address = AddressBuckets::new(ADDRESS_RATE, BUCKETS_LIMIT);
        let state = State { by_address, total: LogLimit::new(TOTAL_RATE) };
        SecurityLog { start: now, state: Mutex::new(state) }
    }

    /// Logs an event, unless there were too many. The next line then says how many were left out.
    pub(crate) fn log(&self, address: IpAddr, user: UserId, event: Event<'_>) {
        let Some(unlogged) = self.admit(address, Instant::now()) else { return };
        let user = user.0;
        match event {
            Event::SignedUp => tracing::info!(%address, user, unlogged, "a user signed up"),
            Event::SignedInWithProvider => {
                tracing::info!(%address, user, unlogged, "a user signed in with the identity provider");
            }
            Event::ChangedPassword => {
                tracing::info!(%address, user, unlogged, "a user changed the password; earlier tokens are revoked");
            }
            Event::SignedOut => tracing::info!(%address, user, unlogged, "a user signed out; all tokens are revoked"),
            Event::UsedRevokedToken => tracing::info!(%address, user, unlogged, "a revoked token was refused"),
            Event::DeletedRoom { room, name } => {
                tracing::info!(%address, user, room = room.0, name, unlogged, "a user deleted a room");
            }
            Event::RemovedMember { room, name, member } => {
                let (room, member) = (room.0, member.0);
                tracing::info!(%address, user, room, name, member, unlogged, "a user removed a member from a room");
            }
            Event::ModeratedRoom { room, name, detail } => {
                tracing::info!(%address, user, room = room.0, name, detail, unlogged, "a user moderated a room");
            }
            Event::CreatedHook { room, name, hook } => {
                tracing::info!(%address, user, room = room.0, name, hook, unlogged, "a user created a hook of a room");
            }
            Event::DeletedHook { room, name, hook } => {
                tracing::info!(%address, user, room = room.0, name, hook, unlogged, "a user deleted a hook of a room");
            }
            Event::CreatedInvite { name } => {
                tracing::info!(%address, user, name, unlogged, "a user created an invite to a room");
            }
            Event::RevokedInvite { name } => {
                tracing::info!(%address, user, name, unlogged, "a user revoked an invite to a room");
            }
        }
    }

    /// How many events were left out before this one. `None`: this one is left out too.
    fn admit(&self, address: IpAddr, now: Instant) -> Option<u64> {
        let now_ms = now.saturating_duration_since(self.start).as_millis() as u64;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { by_address, total } = &mut *state;
        if by_address.take(address, (), now_ms).is_err() {
            total.leave_out();
            return None;
        }
        total.admit(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    #[test]
    fn one_address_can_not_use_up_the_lines_of_others() {
        let start = Instant::now();
        let log = SecurityLog::new(start);
        let [here, there] = [1, 2].map(|last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
        let logged = (0..500).filter(|_| log.admit(here, start).is_some()).count();
        assert_eq!(logged as u64, ADDRESS_RATE.burst);
        assert_eq!(log.admit(there, start), Some(500 - ADDRESS_RATE.burst));
        assert_eq!(log.admit(here, start), None);
        assert_eq!(log.admit(here, start + Duration::from_secs(1)), Some(1));
    }
}
