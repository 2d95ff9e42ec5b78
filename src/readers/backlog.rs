//! The rooms in which a reader has something to do. Each is worked on by one task at a time; rooms take turns, and
//! those that have failed wait for a while.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tokio::time::Instant;
use uproar_model::{Offset, RoomId, UnixMillis};

/// Rooms that are remembered. If there are more, the others are found later, when the reader looks at all rooms.
const ROOMS_LIMIT: usize = 16_384;

/// How far a reader was in a room when it last looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub done: Offset,
    pub head: Offset,
    /// When the first publication that is not done was stored. 0: it is not known.
    pub since: UnixMillis,
}

/// What a reader still has to do, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    pub rooms: u64,
    pub publications: u64,
    /// When the oldest of them was stored. 0: there are none, or it is not known.
    pub since: UnixMillis,
}

#[derive(Debug)]
struct Room {
    seen: Seen,
    state: State,
    failures: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// In `ready`.
    Ready,
    /// A task works on it. `again`: something was committed meanwhile.
    Working { again: bool },
    /// In `delayed`.
    Delayed(Instant),
}

#[derive(Debug, Default)]
pub struct Backlog {
    rooms: BTreeMap<RoomId, Room>,
    ready: VecDeque<RoomId>,
    delayed: BTreeSet<(Instant, RoomId)>,
}

impl Backlog {
    /// Whether there is room for many more rooms.
    pub fn has_space(&self) -> bool {
        self.rooms.len() < ROOMS_LIMIT / 2
    }

    /// A room has something to do, or may have. `seen`: how far the reader is there, if that is known. `false`: there
    /// are too many rooms already.
    pub fn note(&mut self, room: RoomId, seen: Option<Seen>) -> bool {
        if let Some(known) = self.rooms.get_mut(&room) {
            match (&mut known.state, seen) {
                (State::Working { again }, _) => *again = true,
                (_, Some(seen)) => known.seen = seen,
                // How much it is will be seen later.
                (_, None) => {}
            }
            return true;
        }
        if self.rooms.len() >= ROOMS_LIMIT {
            return false;
        }
        self.rooms.insert(room, Room { seen: seen.unwrap_or_default(), state: State::Ready, failures: 0 });
        self.ready.push_back(room);
        true
    }

    /// The next room to work on.
    pub fn take(&mut self, now: Instant) -> Option<RoomId> {
        while let Some((at, room)) = self.delayed.first().copied()
            && at <= now
        {
            self.delayed.pop_first();
            self.make_ready(room);
        }
        let room = self.ready.pop_front()?;
        if let Some(known) = self.rooms.get_mut(&room) {
            known.state = State::Working { again: false };
        }
        Some(room)
    }

    /// When `take` may have a room, if it has none now.
    pub fn next_at(&self) -> Option<Instant> {
        self.delayed.first().map(|(at, _)| *at)
    }

    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// A task has ended, and the room has nothing more to do, unless something was committed meanwhile.
    pub fn finished(&mut self, room: RoomId) {
        match self.rooms.get(&room).map(|known| &known.state) {
            Some(State::Working { again: true }) => self.continued(room, Seen::default()),
            _ => _ = self.rooms.remove(&room),
        }
    }

    /// A task has ended, and the room is forgotten, whatever was committed.
    pub fn forget(&mut self, room: RoomId) {
        self.rooms.remove(&room);
    }

    /// A task has ended, and the room has more to do: it goes behind the others.
    pub fn continued(&mut self, room: RoomId, seen: Seen) {
        if let Some(known) = self.rooms.get_mut(&room) {
            (known.seen, known.failures) = (seen, 0);
            self.make_ready(room);
        }
    }

    /// A task has failed. Returns how many have done so, one after the other.
    pub fn failed(&mut self, room: RoomId, seen: Option<Seen>) -> u32 {
        let Some(known) = self.rooms.get_mut(&room) else { return 0 };
        known.failures = known.failures.saturating_add(1);
        if let Some(seen) = seen {
            known.seen = seen;
        }
        known.failures
    }

    /// The room waits until this time.
    pub fn delay(&mut self, room: RoomId, until: Instant) {
        if let Some(known) = self.rooms.get_mut(&room) {
            known.state = State::Delayed(until);
            self.delayed.insert((until, room));
        }
    }

    /// No room waits any longer because of its failures, except these.
    pub fn end_delays(&mut self, except: impl Fn(RoomId) -> bool) {
        for (until, room) in std::mem::take(&mut self.delayed) {
            if except(room) {
                self.delayed.insert((until, room));
            } else {
                self.make_ready(room);
            }
        }
    }

    fn make_ready(&mut self, room: RoomId) {
        if let Some(known) = self.rooms.get_mut(&room) {
            known.state = State::Ready;
            self.ready.push_back(room);
        }
    }

    pub fn lag(&self) -> Lag {
        let mut lag = Lag { rooms: self.rooms.len() as u64, ..Lag::default() };
        for Room { seen, .. } in self.rooms.values() {
            // A room that was not looked at yet has at least one.
            lag.publications += seen.head.saturating_sub(seen.done).max(1);
            if seen.since > 0 && (lag.since == 0 || seen.since < lag.since) {
                lag.since = seen.since;
            }
        }
        lag
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ONE: RoomId = RoomId(1);
    const TWO: RoomId = RoomId(2);

    fn seen(done: Offset, head: Offset) -> Seen {
        Seen { done, head, since: 1000 + done }
    }

    #[test]
    fn rooms_take_turns_and_a_room_has_one_task() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        for room in [ONE, ONE, TWO] {
            assert!(backlog.note(room, None));
        }
        assert_eq!([backlog.take(now), backlog.take(now), backlog.take(now)], [Some(ONE), Some(TWO), None]);
        backlog.note(ONE, None);
        assert_eq!(backlog.take(now), None, "a task works on it");
        backlog.finished(ONE);
        backlog.continued(TWO, seen(1, 5));
        assert_eq!([backlog.take(now), backlog.take(now)], [Some(ONE), Some(TWO)], "it has been noted meanwhile");
        backlog.finished(ONE);
        backlog.finished(TWO);
        assert!(backlog.is_empty());
    }

    #[test]
    fn a_room_that_has_failed_waits() {
        let (mut backlog, now) = (Backlog::default(), Instant::now());
        backlog.note(ONE, None);
        assert_eq!(backlog.take(now), Some(ONE));
        assert_eq!(backlog.failed(ONE, Some(seen(1, 3))), 1);
        let later = now + Duration::from_secs(5);
        backlog.delay(ONE, later);
        backlog.note(ONE, Some(seen(1, 4)));
        assert_eq!((backlog.take(now), backlog.next_at()), (None, Some(later)));
        assert_eq!(backlog.lag(), Lag { rooms: 1, publications: 3, since: 1001 });
        assert_eq!(backlog.take(later), Some(ONE));
        assert_eq!(backlog.failed(ONE, None), 2);
        backlog.delay(ONE, later);
        backlog.end_delays(|room| room == ONE);
        assert_eq!((backlog.take(now), backlog.next_at()), (None, Some(later)));
        backlog.end_delays(|_| false);
        assert_eq!(backlog.take(now), Some(ONE));
        backlog.continued(ONE, seen(4, 4));
        assert_eq!(backlog.take(now), Some(ONE));
        assert_eq!(backlog.failed(ONE, None), 1, "it has succeeded in between");
    }

    #[test]
    fn there_are_only_so_many_rooms() {
        let mut backlog = Backlog::default();
        assert!((0..ROOMS_LIMIT as i64).all(|room| backlog.note(RoomId(room), None)));
        assert!(!backlog.note(RoomId(-1), None) && !backlog.has_space());
        assert!(backlog.note(RoomId(0), None), "it is known");
    }
}
