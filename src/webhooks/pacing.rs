//! When a webhook tries again. A room that fails waits by itself, so that it does not hold up others. If several rooms
//! fail and none succeeds, the receiver is down: then a single POST tries it from time to time. Rooms that keep failing
//! while others succeed say nothing about the receiver.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use uproar_model::RoomId;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Rooms that fail, one after the other, before the receiver counts as down.
const DOWN_ROOMS: usize = 3;
/// POSTs that may be under way at first when it is up again.
const FIRST_PLACES: usize = 4;
/// A room is refused for itself if the receiver has accepted others after this many of its failures in a row. (After
/// the first, the receiver may have been down.)
const OWN_FAULTS: u32 = 2;
/// Rooms that are remembered because they have failed.
const FAILED_LIMIT: usize = 4_096;

/// The state of one receiver.
#[derive(Debug)]
pub struct Pacing {
    places_limit: usize,
    pause_limit: Duration,
    /// POSTs that may be under way.
    places: usize,
    /// Rooms that have failed since the last success, without those that are refused for themselves.
    failed: BTreeSet<RoomId>,
    /// How often each room has failed before the receiver accepted another one. It ends with its own success.
    faults: BTreeMap<RoomId, u32>,
    /// Rounds of failures while it is down. Attempts that were under way together are one round.
    rounds: u32,
    last_failure: Option<Instant>,
    /// While it is down.
    not_before: Option<Instant>,
    /// Until when the receiver wants to be left alone.
    asked_until: Option<Instant>,
}

impl Pacing {
    /// `places_limit`: POSTs that may be under way at the same time. `pause_limit`: the longest pause.
    pub fn new(places_limit: usize, pause_limit: Duration) -> Pacing {
        Pacing {
            places_limit,
            pause_limit,
            places: places_limit,
            failed: BTreeSet::new(),
            faults: BTreeMap::new(),
            rounds: 0,
            last_failure: None,
            not_before: None,
            asked_until: None,
        }
    }

    /// Whether one more POST may begin while this many are under way.
    pub fn admits(&self, under_way: usize, now: Instant) -> bool {
        under_way < self.places && self.next_at().is_none_or(|at| at <= now)
    }

    /// When `admits` may change its mind by itself.
    pub fn next_at(&self) -> Option<Instant> {
        self.not_before.max(self.asked_until)
    }

    fn is_down(&self) -> bool {
        self.failed.len() >= DOWN_ROOMS
    }

    /// Whether a room keeps failing while others succeed.
    pub fn is_refused(&self, room: RoomId) -> bool {
        self.faults.get(&room).is_some_and(|faults| *faults >= OWN_FAULTS)
    }

    /// The room has nothing more to send.
    pub fn forget(&mut self, room: RoomId) {
        self.faults.remove(&room);
    }

    /// Returns whether the receiver was down: then only rooms that are refused for themselves need to wait any longer.
    pub fn succeeded(&mut self, room: RoomId) -> bool {
        let was_down = self.is_down();
        self.failed.remove(&room);
        for failed in std::mem::take(&mut self.failed) {
            if self.faults.len() < FAILED_LIMIT || self.faults.contains_key(&failed) {
                *self.faults.entry(failed).or_default() += 1;
            }
        }
        self.faults.remove(&room);
        self.places = if was_down { FIRST_PLACES } else { self.places.saturating_mul(2) }.min(self.places_limit);
        self.rounds = 0;
        self.not_before = None;
        was_down
    }

    /// `begun`: when the attempt was. `failures`: those of this room, one after the other. Returns how long the room
    /// waits.
    pub fn failed(
        &mut self,
        room: RoomId,
        failures: u32,
        begun: Instant,
        now: Instant,
        retry_after: Option<Duration>,
    ) -> Duration {
        let is_refused = self.is_refused(room);
        if !is_refused && self.failed.len() < FAILED_LIMIT {
            self.failed.insert(room);
        }
        let is_new_round = self.last_failure.is_none_or(|last| begun >= last);
        if !is_refused {
            self.last_failure = Some(now);
        }
        if self.is_down() && !is_refused {
            self.places = 1;
            self.rounds += u32::from(is_new_round || self.rounds == 0);
            self.not_before = self.not_before.max(Some(now + self.pause(self.rounds)));
        }
        self.asked_until = self.asked_until.max(retry_after.map(|pause| now + pause));
        self.pause(failures).max(retry_after.unwrap_or_default())
    }

    /// The pauses double. A random part keeps what failed together from being tried again together.
    fn pause(&self, failures: u32) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(self.pause_limit);
        let random = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
        doubled.mul_f64(0.75 + random / 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_pauses_of_a_room_double_up_to_the_limit() {
        let (mut pacing, now) = (Pacing::new(64, HOUR), Instant::now());
        for (failures, seconds) in [(1, 1.0), (2, 2.0), (5, 16.0), (12, 2048.0), (13, 3600.0), (u32::MAX, 3600.0)] {
            let pause = pacing.failed(RoomId(1), failures, now, now, None).as_secs_f64();
            assert!(pause >= 0.75 * seconds && pause <= seconds, "{failures}: {pause}");
        }
        assert!(pacing.admits(0, now), "other rooms may go on");
    }

    #[test]
    fn a_receiver_that_fails_in_several_rooms_is_tried_by_one() {
        let (mut pacing, start) = (Pacing::new(64, HOUR), Instant::now());
        // All of them were under way together, so this is one round.
        for room in 0..64 {
            pacing.failed(RoomId(room), 1, start, start + Duration::from_secs(1), None);
        }
        assert!(!pacing.admits(0, start + Duration::from_millis(1700)));
        let later = start + Duration::from_secs(2);
        assert!(pacing.admits(0, later) && !pacing.admits(1, later));
        pacing.failed(RoomId(1), 2, later, later, None);
        assert!(!pacing.admits(0, later + Duration::from_secs(1)));
        assert!(pacing.admits(0, later + Duration::from_secs(2)));
        assert!(pacing.succeeded(RoomId(1)));
        assert!(pacing.admits(3, later) && !pacing.admits(4, later));
        assert!(!pacing.succeeded(RoomId(1)));
        assert!(pacing.admits(7, later) && !pacing.admits(8, later));
        assert!(!(0..64).any(|room| pacing.is_refused(RoomId(room))), "the receiver was down");
    }

    #[test]
    fn rooms_that_are_always_refused_hold_up_no_others() {
        let (mut pacing, mut now) = (Pacing::new(64, HOUR), Instant::now());
        let healthy = RoomId(99);
        for round in 1..10 {
            now += Duration::from_secs(10);
            for room in 0..5 {
                pacing.failed(RoomId(room), round, now, now, None);
            }
            assert_eq!(pacing.admits(0, now), round > 2, "{round}");
            assert_eq!(pacing.succeeded(healthy), round <= 2, "{round}");
        }
        assert!((0..5).all(|room| pacing.is_refused(RoomId(room))) && !pacing.is_refused(healthy));
        // They count again once they have been accepted.
        for room in 0..5 {
            pacing.succeeded(RoomId(room));
        }
        for room in 0..3 {
            pacing.failed(RoomId(room), 1, now, now, None);
        }
        assert!(!pacing.admits(0, now));
    }

    #[test]
    fn a_receiver_is_left_alone_for_as_long_as_it_asks() {
        let (mut pacing, now) = (Pacing::new(64, HOUR), Instant::now());
        let pause = pacing.failed(RoomId(1), 1, now, now, Some(Duration::from_secs(90)));
        assert_eq!(pause, Duration::from_secs(90));
        pacing.succeeded(RoomId(1));
        assert!(!pacing.admits(0, now + Duration::from_secs(89)), "the success was on its way already");
        assert!(pacing.admits(0, now + Duration::from_secs(90)));
    }
}
