//! Read markers that are not in the database yet. They are written many at a time, but count from the moment when they
//! move.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use uproar_model::{Marker, RoomId, UserId};

/// Markers of other nodes that are remembered.
const HEARD_LIMIT: usize = 65_536;
/// How long. By default a node writes its markers every five seconds.
const HEARD_AGE: Duration = Duration::from_secs(15);

/// A user comes first, so that all markers of one user are adjacent.
type Pair = (UserId, RoomId);

/// Markers that may be ahead of the database. The one who writes them puts them here and takes them out; the store
/// counts them wherever it says what a user has read.
#[derive(Clone, Debug, Default)]
pub struct UnwrittenMarkers {
    own: Arc<Mutex<BTreeMap<Pair, Marker>>>,
    heard: Arc<Mutex<Heard>>,
}

/// Markers that another node will write.
#[derive(Debug, Default)]
struct Heard {
    markers: BTreeMap<Pair, Marker>,
    /// When each of them moved, oldest first.
    moves: VecDeque<(Instant, Pair, Marker)>,
}

impl UnwrittenMarkers {
    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<Pair, Marker>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A marker has moved on another node.
    pub fn hear(&self, user: UserId, room: RoomId, marker: Marker) {
        self.lock_heard().hear(Instant::now(), (user, room), marker);
    }

    /// The marker of another node, if one has moved there and may not be stored yet.
    pub fn heard(&self, user: UserId, room: RoomId) -> Option<Marker> {
        self.lock_heard().current(Instant::now()).get(&(user, room)).copied()
    }

    /// To be called before the database is asked, because markers that are written in the meantime are no longer here
    /// afterwards.
    pub(crate) fn of_user(&self, user: UserId) -> HashMap<RoomId, Marker> {
        let range = (user, RoomId(i64::MIN))..=(user, RoomId(i64::MAX));
        let mut markers: HashMap<_, _> =
            self.lock().range(range.clone()).map(|(&(_, room), &marker)| (room, marker)).collect();
        for (&(_, room), &heard) in self.lock_heard().current(Instant::now()).range(range) {
            let marker = markers.entry(room).or_insert(heard);
            *marker = ahead(*marker, heard);
        }
        markers
    }

    /// Replaces markers that were read from the database by newer ones of other nodes.
    pub(crate) fn add_heard(&self, pairs: &[(RoomId, UserId)], stored: &mut [Option<Marker>]) {
        let mut heard = self.lock_heard();
        let heard = heard.current(Instant::now());
        for (&(room, user), stored) in pairs.iter().zip(stored) {
            if let (Some(stored), Some(heard)) = (stored, heard.get(&(user, room))) {
                *stored = ahead(*stored, *heard);
            }
        }
    }

    fn lock_heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn hear(&mut self, now: Instant, pair: Pair, marker: Marker) {
        self.current(now);
        let newest = self.markers.entry(pair).or_default();
        if marker.offset > newest.offset {
            *newest = marker;
            self.moves.push_back((now, pair, marker));
        }
        if self.moves.len() > HEARD_LIMIT {
            self.forget_oldest();
        }
    }

    /// Those that may not be in the database yet.
    fn current(&mut self, now: Instant) -> &BTreeMap<Pair, Marker> {
        while self.moves.front().is_some_and(|(moved, ..)| now.duration_since(*moved) >= HEARD_AGE) {
            self.forget_oldest();
        }
        &self.markers
    }

    fn forget_oldest(&mut self) {
        if let Some((_, pair, marker)) = self.moves.pop_front()
            && self.markers.get(&pair) == Some(&marker)
        {
            self.markers.remove(&pair);
        }
    }
}

fn ahead(one: Marker, other: Marker) -> Marker {
    if other.offset > one.offset { other } else { one }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: Pair = (UserId(1), RoomId(2));

    fn at(offset: u64) -> Marker {
        Marker { offset, number: offset }
    }

    #[test]
    fn markers_of_other_nodes_count_if_they_are_ahead() {
        let unwritten = UnwrittenMarkers::default();
        unwritten.hear(PAIR.0, PAIR.1, at(5));
        unwritten.hear(PAIR.0, PAIR.1, at(3));
        unwritten.hear(PAIR.0, RoomId(9), at(1));
        unwritten.lock().insert(PAIR, at(4));
        unwritten.lock().insert((PAIR.0, RoomId(9)), at(2));
        unwritten.hear(UserId(7), PAIR.1, at(8));
        assert_eq!(unwritten.of_user(PAIR.0), HashMap::from([(PAIR.1, at(5)), (RoomId(9), at(2))]));
        let mut stored = [Some(at(2)), Some(at(9)), None];
        unwritten.add_heard(&[(PAIR.1, PAIR.0), (PAIR.1, UserId(7)), (PAIR.1, PAIR.0)], &mut stored);
        assert_eq!(stored, [Some(at(5)), Some(at(9)), None], "who is not a member has no marker");
    }

    #[test]
    fn they_are_forgotten_after_a_while() {
        let (mut heard, start) = (Heard::default(), Instant::now());
        heard.hear(start, PAIR, at(5));
        heard.hear(start + HEARD_AGE / 2, PAIR, at(6));
        assert_eq!(heard.current(start + HEARD_AGE).get(&PAIR), Some(&at(6)));
        assert!(heard.current(start + HEARD_AGE * 2).is_empty() && heard.moves.is_empty());
        for room in 0..HEARD_LIMIT as i64 + 10 {
            heard.hear(start, (UserId(1), RoomId(room)), at(1));
        }
        assert_eq!((heard.markers.len(), heard.moves.len()), (HEARD_LIMIT, HEARD_LIMIT));
    }
}
