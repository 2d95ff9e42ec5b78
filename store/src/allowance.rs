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
    /// Creating, deleting and joining rooms, adding and removing members. Leaving takes nothing: one can leave only
    /// what one has joined or was added to.
    pub writes: Option<Rate>,
    /// Joining rooms.
    pub joins: Option<Rate>,
    /// Becoming a member of one and the same room, by joining it or by being added.
    pub joins_of_one_room: Option<Rate>,
    /// Being added to rooms by others. Any one of them may use a tenth of it, so that nobody alone can keep the others
    /// from adding a user.
    pub additions: Option<Rate>,
    /// Making direct rooms. It is an addition of each other member, too.
    pub direct_rooms: Option<Rate>,
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
    /// By the user who is added.
    additions: Option<Buckets<UserId>>,
    /// By the user who adds and the one who is added.
    additions_by_one: Option<Buckets<(UserId, UserId)>>,
    direct_rooms: Option<Buckets<UserId>>,
}

/// What was taken for a join, so that it can be given back.
#[must_use]
pub(crate) struct TakenJoin {
    user: UserId,
    pair: u64,
}

/// What was taken for the addition of a member, so that it can be given back.
#[must_use]
#[derive(Debug)]
pub(crate) struct TakenAddition {
    users: (UserId, UserId),
    pair: u64,
}

impl Allowances {
    pub(crate) fn new(rates: WriteRates) -> Allowances {
        let WriteRates { writes, joins, joins_of_one_room, additions, direct_rooms, rooms_owned: _ } = rates;
        let tenth = |rate: Rate| Rate {
            tokens: (rate.tokens / 10).max(1),
            burst: (rate.burst / 10).max(1),
            per_ms: rate.per_ms,
        };
        Allowances {
            start: Instant::now(),
            hasher: RandomState::new(),
            buckets: Mutex::new(UserBuckets {
                writes: writes.map(|rate| Buckets::new(rate, BUCKETS_LIMIT)),
                joins: joins.map(|rate| Buckets::new(rate, BUCKETS_LIMIT)),
                joins_of_one_room: joins_of_one_room.map(|rate| Buckets::new(rate, BUCKETS_LIMIT)),
                additions: additions.map(|rate| Buckets::new(rate, BUCKETS_LIMIT)),
                additions_by_one: additions.map(|rate| Buckets::new(tenth(rate), BUCKETS_LIMIT)),
                direct_rooms: direct_rooms.map(|rate| Buckets::new(rate, BUCKETS_LIMIT)),
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
        let UserBuckets { writes, joins, joins_of_one_room, .. } = &mut *buckets;
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

    /// Takes one write of the actor's, who adds a member to this room, and one addition of the member's. The actor has
    /// the right to do so.
    pub(crate) fn take_addition(&self, actor: UserId, room: &str, member: UserId) -> Result<TakenAddition, UsedUp> {
        let pair = self.hasher.hash_one((room, member));
        let users = (actor, member);
        let now_ms = self.now_ms();
        let mut buckets = self.lock();
        let UserBuckets { writes, joins_of_one_room, additions, additions_by_one, .. } = &mut *buckets;
        let waits = [
            wait_ms(writes, &actor, now_ms),
            wait_ms(joins_of_one_room, &pair, now_ms),
            wait_ms(additions, &member, now_ms),
            wait_ms(additions_by_one, &users, now_ms),
        ];
        match waits.into_iter().max() {
            None | Some(0) => {}
            Some(wait) => return Err(UsedUp(wait)),
        }
        take(writes, actor, now_ms)?;
        take(joins_of_one_room, pair, now_ms)?;
        take(additions, member, now_ms)?;
        take(additions_by_one, users, now_ms)?;
        Ok(TakenAddition { users, pair })
    }

    /// Takes one write and one direct room of the actor's, and one addition of each other member.
    pub(crate) fn take_direct(&self, actor: UserId, people: &[UserId]) -> Result<(), UsedUp> {
        let now_ms = self.now_ms();
        let others = || people.iter().copied().filter(|person| *person != actor);
        let mut buckets = self.lock();
        let UserBuckets { writes, additions, additions_by_one, direct_rooms, .. } = &mut *buckets;
        let mut wait = wait_ms(writes, &actor, now_ms).max(wait_ms(direct_rooms, &actor, now_ms));
        for other in others() {
            wait = wait.max(wait_ms(additions, &other, now_ms)).max(wait_ms(additions_by_one, &(actor, other), now_ms));
        }
        if wait > 0 {
            return Err(UsedUp(wait));
        }
        take(writes, actor, now_ms)?;
        take(direct_rooms, actor, now_ms)?;
        for other in others() {
            take(additions, other, now_ms)?;
            take(additions_by_one, (actor, other), now_ms)?;
        }
        Ok(())
    }

    /// Gives an addition back that changed nothing. It counts as a write.
    pub(crate) fn give_back_addition(&self, taken: TakenAddition) {
        let mut buckets = self.lock();
        if let Some(of_room) = &mut buckets.joins_of_one_room {
            of_room.give_back(&taken.pair);
        }
        if let Some(of_member) = &mut buckets.additions {
            of_member.give_back(&taken.users.1);
        }
        if let Some(of_both) = &mut buckets.additions_by_one {
            of_both.give_back(&taken.users);
        }
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
    const CID: UserId = UserId(3);

    fn allowances() -> Allowances {
        Allowances::new(WriteRates {
            writes: Some(Rate::per_hour(1, 6)),
            joins: Some(Rate::per_hour(1, 4)),
            joins_of_one_room: Some(Rate::per_hour(1, 2)),
            additions: Some(Rate::per_hour(30, 30)),
            direct_rooms: Some(Rate::per_hour(2, 2)),
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
    fn an_addition_takes_a_write_of_the_actor_and_an_addition_of_the_member() {
        let allowances = allowances();
        assert!(allowances.take_addition(ANN, "lobby", BEN).is_ok());
        assert!(allowances.take_addition(ANN, "lobby", BEN).is_ok());
        assert!(allowances.take_addition(ANN, "lobby", BEN).is_err(), "twice for one room");
        assert!(allowances.take_join(BEN, "lobby").is_err(), "by joining too");
        assert!(allowances.take_addition(ANN, "lobby", CID).is_ok());
        assert_eq!((0..10).filter(|_| allowances.take_write(ANN).is_ok()).count(), 3);
        assert_eq!((0..10).filter(|_| allowances.take_write(BEN).is_ok()).count(), 6);
    }

    #[test]
    fn one_user_can_not_use_up_the_additions_of_another() {
        let allowances = allowances();
        let added =
            |actor| (0..5).filter(|n| allowances.take_addition(actor, &format!("{actor:?} {n}"), BEN).is_ok()).count();
        assert_eq!(added(ANN), 3, "a tenth of all");
        assert_eq!(added(CID), 3);
        assert_eq!((4..50).map(|id| added(UserId(id))).sum::<usize>(), 24, "thirty in all");
    }

    #[test]
    fn an_addition_that_changed_nothing_is_given_back() {
        let allowances = allowances();
        for _ in 0..6 {
            allowances.give_back_addition(allowances.take_addition(ANN, "lobby", BEN).unwrap());
        }
        assert!(allowances.take_addition(ANN, "lobby", BEN).is_err(), "it was a write all the same");
    }

    #[test]
    fn a_direct_room_takes_an_addition_of_each_other_member_or_nothing() {
        let allowances = allowances();
        assert!(allowances.take_direct(ANN, &[ANN, BEN, CID]).is_ok());
        assert!(allowances.take_direct(ANN, &[ANN, BEN]).is_ok());
        assert!(matches!(allowances.take_direct(ANN, &[ANN, CID]), Err(UsedUp(1_700_000..))), "two within an hour");
        assert_eq!((0..10).filter(|_| allowances.take_write(ANN).is_ok()).count(), 4, "six writes");
        // Any one may use a tenth of a user's additions, in whichever way.
        assert!(allowances.take_direct(BEN, &[ANN, BEN]).is_ok());
        assert!(allowances.take_addition(BEN, "a", ANN).is_ok());
        assert!(allowances.take_addition(BEN, "b", ANN).is_ok());
        assert!(allowances.take_direct(BEN, &[ANN, BEN, CID]).is_err());
    }

    #[test]
    fn without_rates_there_is_no_limit() {
        let allowances = Allowances::new(WriteRates::default());
        assert!((0..1000).all(|_| allowances.take_join(ANN, "lobby").is_ok()));
    }
}
