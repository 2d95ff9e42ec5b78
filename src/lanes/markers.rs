//! Read markers on their way to the database. Each moves often and only its last position matters, so they are kept in
//! memory and written many at a time. This module is plain logic; `super::reader` reads and writes.
//!
//! A marker never goes back, so the first request to move one needs the stored marker. Until that is read, further
//! requests for the same user and room wait. Therefore no request is compared with a marker older than one already
//! written.
//!
//! Membership is read together with the marker. A user who has left since then is answered as a member until the
//! marker is written; the database then ignores the marker.

use std::collections::{HashMap, VecDeque};
use uproar_core::message::StoreReply;
use uproar_model::{Marker, RoomId, UserId};
use uproar_store::UnwrittenMarkers;

/// Markers that are in memory or being read.
pub const MARKERS_LIMIT: usize = 65_536;

type Pair = (UserId, RoomId);

/// `R` says where a reply goes.
pub struct Markers<R> {
    unwritten: UnwrittenMarkers,
    /// Pairs whose stored marker is needed, with the requests that wait for it, in order.
    reading: HashMap<Pair, Vec<(R, Marker)>>,
    /// The pairs of `reading` that are not part of a query yet.
    to_read: Vec<Pair>,
    /// Requests that wait for room.
    waiting: VecDeque<(R, Pair, Marker)>,
    is_writing: bool,
    /// The last write failed.
    is_failing: bool,
    limit: usize,
}

impl<R> Markers<R> {
    /// `limit`: markers that are in memory or being read, at least 1.
    pub fn new(unwritten: UnwrittenMarkers, limit: usize) -> Markers<R> {
        Markers {
            unwritten,
            reading: HashMap::new(),
            to_read: Vec::new(),
            waiting: VecDeque::new(),
            is_writing: false,
            is_failing: false,
            limit: limit.max(1),
        }
    }

    /// Handles a request to move a marker. It is answered immediately, when the stored marker has been read, or when
    /// there is room for it.
    pub fn mark(
        &mut self,
        reply_to: R,
        room: RoomId,
        user: UserId,
        marker: Marker,
        answers: &mut Vec<(R, StoreReply)>,
    ) {
        let pair = (user, room);
        let needs_room = !self.unwritten.lock().contains_key(&pair) && !self.reading.contains_key(&pair);
        if !needs_room || self.has_room() && self.waiting.is_empty() {
            self.accept(reply_to, pair, marker, answers);
        } else if self.is_failing {
            answers.push((reply_to, StoreReply::Failed));
        } else {
            self.waiting.push_back((reply_to, pair, marker));
        }
    }

    fn accept(&mut self, reply_to: R, pair: Pair, marker: Marker, answers: &mut Vec<(R, StoreReply)>) {
        let heard = self.unwritten.heard(pair.0, pair.1);
        if let Some(current) = self.unwritten.lock().get_mut(&pair) {
            if let Some(heard) = heard {
                advance(current, heard);
            }
            answers.push((reply_to, advance(current, marker)));
        } else if let Some(requests) = self.reading.get_mut(&pair) {
            requests.push((reply_to, marker));
        } else {
            self.reading.insert(pair, vec![(reply_to, marker)]);
            self.to_read.push(pair);
        }
    }

    fn has_room(&self) -> bool {
        self.unwritten.lock().len() + self.reading.len() < self.limit
    }

    /// Takes at most `limit` pairs to read in one query, whose result goes to [`Markers::on_read`]. None: there are
    /// no pairs to read.
    pub fn take_to_read(&mut self, limit: usize) -> Option<Vec<(RoomId, UserId)>> {
        let pairs = self.to_read.split_off(self.to_read.len().saturating_sub(limit.max(1)));
        (!pairs.is_empty()).then(|| pairs.into_iter().map(|(user, room)| (room, user)).collect())
    }

    /// Takes the stored markers of `pairs`, in the same order. A marker is None if the user is not a member; the whole
    /// list is None if the database did not answer.
    pub fn on_read(
        &mut self,
        pairs: &[(RoomId, UserId)],
        stored: Option<Vec<Option<Marker>>>,
        answers: &mut Vec<(R, StoreReply)>,
    ) {
        let stored = stored.filter(|stored| stored.len() == pairs.len());
        for (index, &(room, user)) in pairs.iter().enumerate() {
            let pair = (user, room);
            let requests = self.reading.remove(&pair).unwrap_or_default();
            match stored.as_ref().map(|stored| stored[index]) {
                None => answers.extend(requests.into_iter().map(|(reply_to, _)| (reply_to, StoreReply::Failed))),
                Some(None) => {
                    answers.extend(requests.into_iter().map(|(reply_to, _)| (reply_to, StoreReply::Marked(None))));
                }
                Some(Some(stored)) => {
                    let mut current = stored;
                    let replies = requests.into_iter();
                    answers.extend(replies.map(|(reply_to, marker)| (reply_to, advance(&mut current, marker))));
                    // A marker that has not moved need not be written.
                    if current != stored {
                        self.unwritten.lock().insert(pair, current);
                    }
                }
            }
        }
        self.accept_waiting(answers);
    }

    /// Accepts waiting requests while there is room.
    fn accept_waiting(&mut self, answers: &mut Vec<(R, StoreReply)>) {
        while self.has_room()
            && let Some((reply_to, pair, marker)) = self.waiting.pop_front()
        {
            self.accept(reply_to, pair, marker, answers);
        }
    }

    /// Whether there is something to write.
    pub fn has_unwritten(&self) -> bool {
        !self.unwritten.lock().is_empty()
    }

    /// Whether requests must wait for room, so that the markers should be written without delay.
    pub fn must_write_now(&self) -> bool {
        !self.has_room() && self.has_unwritten() && !self.is_failing
    }

    /// Returns all unwritten markers for a write, whose result goes to [`Markers::on_written`]. None: there are none,
    /// or a write is under way.
    pub fn take_to_write(&mut self) -> Option<Vec<(RoomId, UserId, Marker)>> {
        let unwritten = self.unwritten.lock();
        if self.is_writing || unwritten.is_empty() {
            return None;
        }
        self.is_writing = true;
        Some(unwritten.iter().map(|(&(user, room), &marker)| (room, user, marker)).collect())
    }

    /// Takes the result of a write: the markers that are in the database now, and whether that was all of them. Markers
    /// that were not written, or have moved since, stay in memory.
    pub fn on_written(&mut self, markers: &[(RoomId, UserId, Marker)], all: bool, answers: &mut Vec<(R, StoreReply)>) {
        self.is_writing = false;
        self.is_failing = !all;
        let mut unwritten = self.unwritten.lock();
        for &(room, user, marker) in markers {
            if unwritten.get(&(user, room)) == Some(&marker) {
                unwritten.remove(&(user, room));
            }
        }
        drop(unwritten);
        self.accept_waiting(answers);
        if self.is_failing {
            answers.extend(self.waiting.drain(..).map(|(reply_to, ..)| (reply_to, StoreReply::Failed)));
        }
    }

    /// Whether the last write failed.
    pub fn is_failing(&self) -> bool {
        self.is_failing
    }
}

/// Moves a marker forward, or leaves it where it is if `to` is not ahead of it.
fn advance(current: &mut Marker, to: Marker) -> StoreReply {
    let is_ahead = to.offset > current.offset;
    if is_ahead {
        *current = to;
    }
    StoreReply::Marked(Some((*current, is_ahead)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: RoomId = RoomId(1);
    const ANN: UserId = UserId(10);
    const BEN: UserId = UserId(11);
    const NO_ANSWER: Option<Vec<Option<Marker>>> = None;

    fn at(offset: u64) -> Marker {
        Marker { offset, number: offset }
    }

    fn stored(markers: &[Option<Marker>]) -> Option<Vec<Option<Marker>>> {
        Some(markers.to_vec())
    }

    #[derive(Debug, PartialEq)]
    enum Reply {
        Moved(u64),
        Stays(u64),
        NotMember,
        Failed,
    }
    use Reply::{Failed, Moved, NotMember, Stays};

    /// Markers whose requests are identified by numbers. Each step returns its replies.
    struct World(Markers<u32>);

    impl World {
        fn new(limit: usize) -> World {
            World(Markers::new(UnwrittenMarkers::default(), limit))
        }

        fn step(&mut self, step: impl FnOnce(&mut Markers<u32>, &mut Vec<(u32, StoreReply)>)) -> Vec<(u32, Reply)> {
            let mut answers = Vec::new();
            step(&mut self.0, &mut answers);
            let reply = |answer| match answer {
                StoreReply::Marked(Some((marker, true))) => Moved(marker.offset),
                StoreReply::Marked(Some((marker, false))) => Stays(marker.offset),
                StoreReply::Marked(None) => NotMember,
                StoreReply::Failed => Failed,
                other => panic!("{other:?}"),
            };
            answers.into_iter().map(|(request, answer)| (request, reply(answer))).collect()
        }

        fn mark(&mut self, request: u32, user: UserId, offset: u64) -> Vec<(u32, Reply)> {
            self.step(|markers, answers| markers.mark(request, ROOM, user, at(offset), answers))
        }

        fn read(&mut self, pairs: &[(RoomId, UserId)], markers: Option<Vec<Option<Marker>>>) -> Vec<(u32, Reply)> {
            self.step(|this, answers| this.on_read(pairs, markers, answers))
        }

        fn written(&mut self, batch: &[(RoomId, UserId, Marker)], all: bool) -> Vec<(u32, Reply)> {
            self.step(|markers, answers| markers.on_written(batch, all, answers))
        }

        /// Puts a marker into memory.
        fn keep(&mut self, user: UserId, offset: u64) {
            assert_eq!(self.mark(0, user, offset), []);
            let pairs = self.0.take_to_read(9).unwrap();
            assert_eq!(self.read(&pairs, stored(&[Some(at(0))])), [(0, Moved(offset))]);
        }
    }

    #[test]
    fn a_marker_is_read_once_and_then_kept_in_memory() {
        let mut world = World::new(9);
        assert_eq!(world.0.take_to_read(9), None);
        assert_eq!(world.mark(1, ANN, 5), []);
        assert_eq!(world.mark(2, ANN, 7), []);
        assert_eq!(world.0.take_to_read(9), Some(vec![(ROOM, ANN)]));
        // While it is being read, it is not read again.
        assert_eq!(world.mark(3, ANN, 6), []);
        assert_eq!(world.0.take_to_read(9), None);
        let answers = world.read(&[(ROOM, ANN)], stored(&[Some(at(4))]));
        assert_eq!(answers, [(1, Moved(5)), (2, Moved(7)), (3, Stays(7))]);
        assert_eq!(world.mark(4, ANN, 7), [(4, Stays(7))]);
        assert_eq!(world.mark(5, ANN, 9), [(5, Moved(9))]);
        assert_eq!(world.0.take_to_write(), Some(vec![(ROOM, ANN, at(9))]));
    }

    #[test]
    fn markers_that_need_no_write_are_not_kept() {
        let mut world = World::new(9);
        assert_eq!(world.mark(1, ANN, 5), []);
        assert_eq!(world.mark(2, BEN, 5), []);
        let pairs = world.0.take_to_read(9).unwrap();
        assert_eq!(pairs, [(ROOM, ANN), (ROOM, BEN)]);
        assert_eq!(world.read(&pairs, stored(&[Some(at(5)), None])), [(1, Stays(5)), (2, NotMember)]);
        assert!(!world.0.has_unwritten());
        assert_eq!(world.0.take_to_write(), None);
    }

    #[test]
    fn a_failed_read_is_reported_and_tried_again() {
        let mut world = World::new(9);
        assert_eq!(world.mark(1, ANN, 5), []);
        let pairs = world.0.take_to_read(9).unwrap();
        assert_eq!(world.mark(2, ANN, 6), []);
        assert_eq!(world.read(&pairs, NO_ANSWER), [(1, Failed), (2, Failed)]);
        world.keep(ANN, 5);
        // A result of the wrong length counts as no answer.
        assert_eq!(world.mark(3, BEN, 5), []);
        let pairs = world.0.take_to_read(9).unwrap();
        assert_eq!(world.read(&pairs, stored(&[])), [(3, Failed)]);
    }

    #[test]
    fn the_pairs_in_one_query_are_limited() {
        let mut world = World::new(9);
        for user in 1..=5 {
            assert_eq!(world.mark(user, UserId(i64::from(user)), 5), []);
        }
        let sizes: Vec<_> = std::iter::from_fn(|| world.0.take_to_read(2)).map(|pairs| pairs.len()).collect();
        assert_eq!(sizes, [2, 2, 1]);
    }

    #[test]
    fn written_markers_are_forgotten_unless_they_have_moved_meanwhile() {
        let mut world = World::new(9);
        world.keep(ANN, 5);
        world.keep(BEN, 5);
        let batch = world.0.take_to_write().unwrap();
        assert_eq!(batch, [(ROOM, ANN, at(5)), (ROOM, BEN, at(5))]);
        assert_eq!(world.0.take_to_write(), None, "one write at a time");
        assert_eq!(world.mark(1, ANN, 6), [(1, Moved(6))]);
        assert_eq!(world.written(&batch, true), []);
        assert_eq!(world.0.take_to_write(), Some(vec![(ROOM, ANN, at(6))]));
        // A marker that is no longer in memory is read again.
        assert_eq!(world.mark(2, BEN, 6), []);
        assert!(world.0.take_to_read(9).is_some());
    }

    #[test]
    fn markers_that_could_not_be_written_are_kept() {
        let mut world = World::new(9);
        world.keep(ANN, 5);
        world.keep(BEN, 5);
        let batch = world.0.take_to_write().unwrap();
        assert_eq!(world.written(&batch[..1], false), []);
        assert!(world.0.is_failing());
        assert_eq!(world.mark(1, BEN, 4), [(1, Stays(5))], "it still counts");
        let batch = world.0.take_to_write().unwrap();
        assert_eq!(batch, [(ROOM, BEN, at(5))]);
        assert_eq!(world.written(&batch, true), []);
        assert!(!world.0.is_failing() && !world.0.has_unwritten());
    }

    #[test]
    fn without_room_new_markers_wait_for_a_write() {
        let mut world = World::new(2);
        world.keep(ANN, 5);
        assert!(!world.0.must_write_now());
        assert_eq!(world.mark(1, BEN, 5), []);
        // A marker that is being read takes room too.
        assert_eq!(world.mark(2, UserId(12), 5), []);
        assert_eq!(world.mark(3, UserId(12), 6), []);
        assert!(world.0.must_write_now());
        assert_eq!(world.0.take_to_read(9), Some(vec![(ROOM, BEN)]));
        assert_eq!(world.read(&[(ROOM, BEN)], stored(&[Some(at(0))])), [(1, Moved(5))]);
        assert_eq!(world.0.take_to_read(9), None);
        assert_eq!(world.mark(4, ANN, 6), [(4, Moved(6))], "a marker in memory can move");
        let batch = world.0.take_to_write().unwrap();
        assert_eq!(world.written(&batch, true), []);
        assert_eq!(world.0.take_to_read(9), Some(vec![(ROOM, UserId(12))]));
        assert_eq!(world.read(&[(ROOM, UserId(12))], stored(&[Some(at(0))])), [(2, Moved(5)), (3, Moved(6))]);
    }

    /// A read makes room without a write if the user is not a member, or has read further already.
    #[test]
    fn room_that_a_read_makes_is_used() {
        let mut world = World::new(1);
        assert_eq!(world.mark(1, ANN, 5), []);
        assert_eq!(world.mark(2, BEN, 5), []);
        let pairs = world.0.take_to_read(9).unwrap();
        assert_eq!(world.read(&pairs, stored(&[None])), [(1, NotMember)]);
        assert_eq!(world.0.take_to_read(9), Some(vec![(ROOM, BEN)]));
        assert_eq!(world.0.take_to_write(), None);
    }

    #[test]
    fn without_room_and_without_writes_new_markers_fail() {
        let mut world = World::new(1);
        world.keep(ANN, 5);
        assert_eq!(world.mark(1, BEN, 5), []);
        let batch = world.0.take_to_write().unwrap();
        assert_eq!(world.written(&[], false), [(1, Failed)]);
        assert!(!world.0.must_write_now(), "it is tried again after the interval");
        assert_eq!(world.mark(2, BEN, 5), [(2, Failed)]);
        assert_eq!(world.mark(3, ANN, 6), [(3, Moved(6))]);
        assert_eq!(batch, [(ROOM, ANN, at(5))]);
        let batch = world.0.take_to_write().unwrap();
        assert_eq!(world.written(&batch, true), []);
        assert_eq!(world.mark(4, BEN, 5), []);
        assert!(world.0.take_to_read(9).is_some());
    }
}
