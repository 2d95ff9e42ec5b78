//! How much each user may write besides messages: rooms and memberships.
//!
//! The store keeps the allowances, because every such write ends here, whether it comes by HTTP or with a WebSocket's
//! subscription, which joins a public room.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use uproar_model::UserId;
use uproar_model::fairness::{Buckets, Rate};

/// Buckets of each kind that are kept.
const BUCKETS_LIMIT: usize = 1 << 17;

/// What one user may do. `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteRates {
    /// Creating and deleting rooms, joining and leaving them, adding and removing members.
    pub writes: Option<Rate>,
    /// Joining rooms.
    pub joins: Option<Rate>,
    /// Becoming a member of one and the same room, by joining it or by being added.
    pub joins_of_one_room: Option<Rate>,
    /// Rooms that one user may own.
    pub rooms_owned: Option<u64>,
}

/// The user has used up an allowance, and has something again in so many milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsedUp(pub u64);

pub(crate) struct Allowances {
    /// Buckets count milliseconds from here.
    start: Instant,
    hasher: RandomState,
    buckets: Mutex<UserBuckets>,
}

struct UserBuckets {
    writes: Option<Buckets<UserId>>,
    joins: Option<Buckets<UserId>>,
    /// By a hash of the room and its new member.
    joins_of_one_room: Option<Buckets<u64>>,
}

/// What was taken for a join, so that it can be given back.
#[must_use]
pub(crate) struct TakenJoin {
    user: UserId,
    pair: u64,
}

impl Allowances {
    pub(crate) fn new(rates: WriteRates) -> Allowances {
        let WriteRates { writes, joins, joins_of_one_room, rooms_owned: _ } = rates;
        Allowances {
            start: Instant::now(),
            hasher: RandomState::new(),
            buckets: Mutex::new(UserBuckets {
                writes: writes.map(|rate| Buckets::new(rate, BUCKETS_LIMIT)),
                joins: joins.map(|rate| Buckets::new(rate, BUCKETS_LIMIT)),
                joins_of_one_room: joins_of_one_room.map(|rate| Buckets::new(rate, BUCKETS_LIMIT)),
            }),
        }
    }

    /// Takes one write of the user's.
    pub(crate) fn take_write(&self, user: UserId) -> Result<(), UsedUp> {
        let now_ms = self.now_ms();
        take(&mut self.lock().writes, user, now_ms)
    }

    /// Takes one write and one join of the user's, and one for this room.
    pub(crate) fn take_join(&self, user: UserId, room: &str) -> Result<TakenJoin, UsedUp> {
        let pair = self.hasher.hash_one((room, user));
        let now_ms = self.now_ms();
        let mut buckets = self.lock();
        // First all are asked, so that a refusal costs nothing.
        let UserBuckets { writes, joins, joins_of_one_room } = &mut *buckets;
        let waits = [wait_ms(writes, &user, now_ms), wait_ms(joins, &user, now_ms)];
        let wait = waits.into_iter().max().unwrap_or(0).max(wait_ms(joins_of_one_room, &pair, now_ms));
        if wait > 0 {
            return Err(UsedUp(wait));
        }
        take(writes, user, now_ms)?;
        take(joins, user, now_ms)?;
        take(joins_of_one_room, pair, now_ms)?;
        Ok(TakenJoin { user, pair })
    }

    /// Gives a join back that changed nothing, because the user had become a member meanwhile. It counts as a write.
    pub(crate) fn give_back(&self, taken: TakenJoin) {
        let mut buckets = self.lock();
        if let Some(of_user) = &mut buckets.joins {
            of_user.give_back(&taken.user);
        }
        if let Some(of_room) = &mut buckets.joins_of_one_room {
            of_room.give_back(&taken.pair);
        }
    }

    /// Takes one write of the actor's, who adds a member to this room, and one of the member's for this room.
    pub(crate) fn take_addition(&self, actor: UserId, room: &str, member: impl Hash) -> Result<(), UsedUp> {
        let pair = self.hasher.hash_one((room, member));
        let now_ms = self.now_ms();
        let mut buckets = self.lock();
        match wait_ms(&mut buckets.joins_of_one_room, &pair, now_ms) {
            0 => {}
            wait => return Err(UsedUp(wait)),
        }
        take(&mut buckets.writes, actor, now_ms)?;
        take(&mut buckets.joins_of_one_room, pair, now_ms)
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn lock(&self) -> MutexGuard<'_, UserBuckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take<K: Eq + Hash>(buckets: &mut Option<Buckets<K>>, key: K, now_ms: u64) -> Result<(), UsedUp> {
    buckets.as_mut().map_or(Ok(()), |buckets| buckets.take(key, now_ms).map_err(UsedUp))
}

fn wait_ms<K: Eq + Hash>(buckets: &mut Option<Buckets<K>>, key: &K, now_ms: u64) -> u64 {
    buckets.as_mut().map_or(0, |buckets| buckets.wait_ms(key, now_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: UserId = UserId(1);
    const BEN: UserId = UserId(2);

    fn allowances() -> Allowances {
        Allowances::new(WriteRates {
            writes: Some(Rate::per_hour(1, 6)),
            joins: Some(Rate::per_hour(1, 4)),
            joins_of_one_room: Some(Rate::per_hour(1, 2)),
            rooms_owned: None,
        })
    }

    #[test]
    fn each_user_has_allowances_of_their_own() {
        let allowances = allowances();
        let taken = |user| (0..100).filter(|_| allowances.take_write(user).is_ok()).count();
        assert_eq!(taken(ANN), 6);
        assert!(matches!(allowances.take_write(ANN), Err(UsedUp(3_500_000..))));
        assert_eq!(taken(BEN), 6);
    }

    #[test]
    fn a_join_takes_from_three_allowances_or_from_none() {
        let allowances = allowances();
        assert!(allowances.take_join(ANN, "lobby").is_ok());
        assert!(allowances.take_join(ANN, "lobby").is_ok());
        for _ in 0..10 {
            assert!(allowances.take_join(ANN, "lobby").is_err(), "twice for one room");
        }
        assert!(allowances.take_join(ANN, "first").is_ok());
        assert!(allowances.take_join(ANN, "second").is_ok());
        assert!(allowances.take_join(ANN, "third").is_err(), "four joins");
        assert_eq!((0..10).filter(|_| allowances.take_write(ANN).is_ok()).count(), 2, "six writes");
        assert!(allowances.take_join(BEN, "lobby").is_ok());
    }

    #[test]
    fn a_join_that_changed_nothing_is_given_back() {
        let allowances = allowances();
        for _ in 0..6 {
            let Ok(taken) = allowances.take_join(ANN, "lobby") else { panic!("used up") };
            allowances.give_back(taken);
        }
        assert!(allowances.take_join(ANN, "lobby").is_err(), "it was a write all the same");
    }

    #[test]
    fn an_addition_is_paid_for_by_the_actor_except_for_the_room() {
        let allowances = allowances();
        assert_eq!(allowances.take_addition(ANN, "lobby", "ben"), Ok(()));
        assert_eq!(allowances.take_addition(ANN, "lobby", "ben"), Ok(()));
        assert!(allowances.take_addition(ANN, "lobby", "ben").is_err());
        assert_eq!(allowances.take_addition(ANN, "lobby", "cid"), Ok(()));
        assert_eq!((0..10).filter(|_| allowances.take_write(ANN).is_ok()).count(), 3);
        assert_eq!((0..10).filter(|_| allowances.take_write(BEN).is_ok()).count(), 6);
    }

    #[test]
    fn without_rates_there_is_no_limit() {
        let allowances = Allowances::new(WriteRates::default());
        assert!((0..1000).all(|_| allowances.take_join(ANN, "lobby").is_ok()));
    }
}
