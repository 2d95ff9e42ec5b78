//! Read markers on their way into the database: kept in memory and written for many at once, since each of them moves
//! often and only the last place matters. Plain logic; `super::reader` does what it says.
//!
//! A pair (user, room) that is not kept is read first, since a marker never goes back. While it is being read, further
//! questions about it wait for that read: so none is judged by a marker that is older than one already written.
//!
//! That somebody is a member was read with the marker. Who has left since is answered as a member until their marker
//! is written; the database then leaves it out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use uproar_core::message::Answer;
use uproar_model::{JoinedRoom, Marker, RoomId, UserId};

/// Pairs that are kept, or being read to be kept.
pub const KEPT_LIMIT: usize = 65_536;

/// In this order, so that all of one user are together.
type Pair = (UserId, RoomId);

/// `Q` is whom an answer is for.
pub struct Markers<Q> {
    /// Not known to be in the database.
    kept: BTreeMap<Pair, Marker>,
    /// Asked of the database, with the questions that wait for it, in order.
    asked: HashMap<Pair, Vec<(Q, Marker)>>,
    /// Of `asked`, what no query has taken yet.
    to_read: Vec<Pair>,
    /// Questions for which there was no place.
    held: VecDeque<(Q, Pair, Marker)>,
    is_writing: bool,
    /// The last write failed.
    is_failing: bool,
    limit: usize,
}

impl<Q> Markers<Q> {
    /// `limit`: pairs that are kept, or being read to be kept; at least 1.
    pub fn new(limit: usize) -> Markers<Q> {
        Markers {
            kept: BTreeMap::new(),
            asked: HashMap::new(),
            to_read: Vec::new(),
            held: VecDeque::new(),
            is_writing: false,
            is_failing: false,
            limit: limit.max(1),
        }
    }

    /// A question to move a marker. It is answered now, when its pair has been read, or when there is place for it.
    pub fn mark(&mut self, question: Q, room: RoomId, user: UserId, marker: Marker, answers: &mut Vec<(Q, Answer)>) {
        let pair = (user, room);
        let needs_place = !self.kept.contains_key(&pair) && !self.asked.contains_key(&pair);
        if !needs_place || self.has_place() && self.held.is_empty() {
            self.let_in(question, pair, marker, answers);
        } else if self.is_failing {
            answers.push((question, Answer::Failed));
        } else {
            self.held.push_back((question, pair, marker));
        }
    }

    fn let_in(&mut self, question: Q, pair: Pair, marker: Marker, answers: &mut Vec<(Q, Answer)>) {
        if let Some(kept) = self.kept.get_mut(&pair) {
            answers.push((question, moved(kept, marker)));
        } else if let Some(waiting) = self.asked.get_mut(&pair) {
            waiting.push((question, marker));
        } else {
            self.asked.insert(pair, vec![(question, marker)]);
            self.to_read.push(pair);
        }
    }

    fn has_place(&self) -> bool {
        self.kept.len() + self.asked.len() < self.limit
    }

    /// Takes pairs to be read in one query, at most `limit`; the answer goes to [`Markers::read`]. None: nothing to do.
    pub fn take_to_read(&mut self, limit: usize) -> Option<Vec<(RoomId, UserId)>> {
        let pairs = self.to_read.split_off(self.to_read.len().saturating_sub(limit.max(1)));
        (!pairs.is_empty()).then(|| pairs.into_iter().map(|(user, room)| (room, user)).collect())
    }

    /// What was read for `pairs`, in their order; none: the database did not answer.
    pub fn read(
        &mut self,
        pairs: &[(RoomId, UserId)],
        stored: Option<Vec<Option<Marker>>>,
        answers: &mut Vec<(Q, Answer)>,
    ) {
        let stored = stored.filter(|stored| stored.len() == pairs.len());
        for (index, &(room, user)) in pairs.iter().enumerate() {
            let pair = (user, room);
            let waiting = self.asked.remove(&pair).unwrap_or_default();
            match stored.as_ref().map(|stored| stored[index]) {
                None => answers.extend(waiting.into_iter().map(|(question, _)| (question, Answer::Failed))),
                Some(None) => answers.extend(waiting.into_iter().map(|(question, _)| (question, Answer::Marked(None)))),
                Some(Some(stored)) => {
                    let mut now = stored;
                    answers.extend(waiting.into_iter().map(|(question, marker)| (question, moved(&mut now, marker))));
                    // What is where it was need not be written.
                    if now != stored {
                        self.kept.insert(pair, now);
                    }
                }
            }
        }
        self.let_in_held(answers);
    }

    /// Gives what is held its turn, while there is place.
    fn let_in_held(&mut self, answers: &mut Vec<(Q, Answer)>) {
        while self.has_place()
            && let Some((question, pair, marker)) = self.held.pop_front()
        {
            self.let_in(question, pair, marker, answers);
        }
    }

    /// Whether there is something to write.
    pub fn has_news(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Whether questions wait until something is written: it must be written now.
    pub fn is_pressed(&self) -> bool {
        !self.has_place() && self.has_news() && !self.is_failing
    }

    /// All that is not known to be written; the outcome goes to [`Markers::written`]. None: there is nothing, or a write
    /// is under way.
    pub fn take_to_write(&mut self) -> Option<Vec<(RoomId, UserId, Marker)>> {
        if self.is_writing || self.kept.is_empty() {
            return None;
        }
        self.is_writing = true;
        Some(self.kept.iter().map(|(&(user, room), &marker)| (room, user, marker)).collect())
    }

    /// The write is over: these are in the database, and whether that was all. What has moved since stays, as does what
    /// was not written.
    pub fn written(&mut self, markers: &[(RoomId, UserId, Marker)], all: bool, answers: &mut Vec<(Q, Answer)>) {
        self.is_writing = false;
        self.is_failing = !all;
        for &(room, user, marker) in markers {
            if self.kept.get(&(user, room)) == Some(&marker) {
                self.kept.remove(&(user, room));
            }
        }
        self.let_in_held(answers);
        if self.is_failing {
            answers.extend(self.held.drain(..).map(|(question, ..)| (question, Answer::Failed)));
        }
    }

    /// Whether the last write failed.
    pub fn is_failing(&self) -> bool {
        self.is_failing
    }

    /// The markers of a user that the database may not have, for [`overlay`]. To be taken before the database is asked:
    /// what is written meanwhile is no longer here afterwards.
    pub fn of_user(&self, user: UserId) -> HashMap<RoomId, Marker> {
        let range = (user, RoomId(i64::MIN))..=(user, RoomId(i64::MAX));
        self.kept.range(range).map(|(&(_, room), &marker)| (room, marker)).collect()
    }
}

/// Moves a marker forward, or leaves it.
fn moved(now: &mut Marker, to: Marker) -> Answer {
    let is_ahead = to.offset > now.offset;
    if is_ahead {
        *now = to;
    }
    Answer::Marked(Some((*now, is_ahead)))
}

/// Puts the markers that the database may not have over those that it gave.
pub fn overlay(rooms: &mut [JoinedRoom], kept: &HashMap<RoomId, Marker>) {
    for room in rooms {
        if let Some(marker) = kept.get(&room.id).filter(|marker| marker.offset > room.read.offset) {
            room.read = *marker;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uproar_model::{Epoch, Head, Role};

    const ROOM: RoomId = RoomId(1);
    const ANN: UserId = UserId(10);
    const BEN: UserId = UserId(11);
    const DOWN: Option<Vec<Option<Marker>>> = None;

    fn at(offset: u64) -> Marker {
        Marker { offset, number: offset }
    }

    fn stored(markers: &[Option<Marker>]) -> Option<Vec<Option<Marker>>> {
        Some(markers.to_vec())
    }

    #[derive(Debug, PartialEq)]
    enum Told {
        Moved(u64),
        Stays(u64),
        NoMember,
        Failed,
    }
    use Told::{Failed, Moved, NoMember, Stays};

    /// Questions are numbers here; each step says what was answered.
    struct Desk(Markers<u32>);

    impl Desk {
        fn new(limit: usize) -> Desk {
            Desk(Markers::new(limit))
        }

        fn step(&mut self, step: impl FnOnce(&mut Markers<u32>, &mut Vec<(u32, Answer)>)) -> Vec<(u32, Told)> {
            let mut answers = Vec::new();
            step(&mut self.0, &mut answers);
            let told = |answer| match answer {
                Answer::Marked(Some((marker, true))) => Moved(marker.offset),
                Answer::Marked(Some((marker, false))) => Stays(marker.offset),
                Answer::Marked(None) => NoMember,
                Answer::Failed => Failed,
                other => panic!("{other:?}"),
            };
            answers.into_iter().map(|(question, answer)| (question, told(answer))).collect()
        }

        fn mark(&mut self, question: u32, user: UserId, offset: u64) -> Vec<(u32, Told)> {
            self.step(|markers, answers| markers.mark(question, ROOM, user, at(offset), answers))
        }

        fn read(&mut self, pairs: &[(RoomId, UserId)], markers: Option<Vec<Option<Marker>>>) -> Vec<(u32, Told)> {
            self.step(|this, answers| this.read(pairs, markers, answers))
        }

        fn written(&mut self, batch: &[(RoomId, UserId, Marker)], all: bool) -> Vec<(u32, Told)> {
            self.step(|markers, answers| markers.written(batch, all, answers))
        }

        /// A marker that is kept.
        fn keep(&mut self, user: UserId, offset: u64) {
            assert_eq!(self.mark(0, user, offset), []);
            let pairs = self.0.take_to_read(9).unwrap();
            assert_eq!(self.read(&pairs, stored(&[Some(at(0))])), [(0, Moved(offset))]);
        }
    }

    #[test]
    fn a_pair_is_read_once_and_then_kept() {
        let mut desk = Desk::new(9);
        assert_eq!(desk.0.take_to_read(9), None);
        assert_eq!(desk.mark(1, ANN, 5), []);
        assert_eq!(desk.mark(2, ANN, 7), []);
        assert_eq!(desk.0.take_to_read(9), Some(vec![(ROOM, ANN)]));
        // While it is being read nobody asks again.
        assert_eq!(desk.mark(3, ANN, 6), []);
        assert_eq!(desk.0.take_to_read(9), None);
        let answers = desk.read(&[(ROOM, ANN)], stored(&[Some(at(4))]));
        assert_eq!(answers, [(1, Moved(5)), (2, Moved(7)), (3, Stays(7))]);
        assert_eq!(desk.mark(4, ANN, 7), [(4, Stays(7))]);
        assert_eq!(desk.mark(5, ANN, 9), [(5, Moved(9))]);
        assert_eq!(desk.0.take_to_write(), Some(vec![(ROOM, ANN, at(9))]));
    }

    #[test]
    fn what_need_not_be_written_is_not_kept() {
        let mut desk = Desk::new(9);
        assert_eq!(desk.mark(1, ANN, 5), []);
        assert_eq!(desk.mark(2, BEN, 5), []);
        let pairs = desk.0.take_to_read(9).unwrap();
        assert_eq!(pairs, [(ROOM, ANN), (ROOM, BEN)]);
        assert_eq!(desk.read(&pairs, stored(&[Some(at(5)), None])), [(1, Stays(5)), (2, NoMember)]);
        assert!(!desk.0.has_news());
        assert_eq!(desk.0.take_to_write(), None);
    }

    #[test]
    fn a_read_that_failed_is_said_and_forgotten() {
        let mut desk = Desk::new(9);
        assert_eq!(desk.mark(1, ANN, 5), []);
        let pairs = desk.0.take_to_read(9).unwrap();
        assert_eq!(desk.mark(2, ANN, 6), []);
        assert_eq!(desk.read(&pairs, DOWN), [(1, Failed), (2, Failed)]);
        desk.keep(ANN, 5);
        // An answer that is not one to the question counts as none.
        assert_eq!(desk.mark(3, BEN, 5), []);
        let pairs = desk.0.take_to_read(9).unwrap();
        assert_eq!(desk.read(&pairs, stored(&[])), [(3, Failed)]);
    }

    #[test]
    fn queries_have_a_limit() {
        let mut desk = Desk::new(9);
        for user in 1..=5 {
            assert_eq!(desk.mark(user, UserId(i64::from(user)), 5), []);
        }
        let sizes: Vec<_> = std::iter::from_fn(|| desk.0.take_to_read(2)).map(|pairs| pairs.len()).collect();
        assert_eq!(sizes, [2, 2, 1]);
    }

    #[test]
    fn what_is_written_is_forgotten_but_not_what_has_moved_meanwhile() {
        let mut desk = Desk::new(9);
        desk.keep(ANN, 5);
        desk.keep(BEN, 5);
        let batch = desk.0.take_to_write().unwrap();
        assert_eq!(batch, [(ROOM, ANN, at(5)), (ROOM, BEN, at(5))]);
        assert_eq!(desk.0.take_to_write(), None, "one write at a time");
        assert_eq!(desk.mark(1, ANN, 6), [(1, Moved(6))]);
        assert_eq!(desk.written(&batch, true), []);
        assert_eq!(desk.0.take_to_write(), Some(vec![(ROOM, ANN, at(6))]));
        // Who is not kept is read again.
        assert_eq!(desk.mark(2, BEN, 6), []);
        assert!(desk.0.take_to_read(9).is_some());
    }

    #[test]
    fn what_could_not_be_written_is_kept() {
        let mut desk = Desk::new(9);
        desk.keep(ANN, 5);
        desk.keep(BEN, 5);
        let batch = desk.0.take_to_write().unwrap();
        assert_eq!(desk.written(&batch[..1], false), []);
        assert!(desk.0.is_failing());
        assert_eq!(desk.mark(1, BEN, 4), [(1, Stays(5))], "and counts");
        let batch = desk.0.take_to_write().unwrap();
        assert_eq!(batch, [(ROOM, BEN, at(5))]);
        assert_eq!(desk.written(&batch, true), []);
        assert!(!desk.0.is_failing() && !desk.0.has_news());
    }

    #[test]
    fn when_it_is_full_others_wait_for_a_write() {
        let mut desk = Desk::new(2);
        desk.keep(ANN, 5);
        assert!(!desk.0.is_pressed());
        assert_eq!(desk.mark(1, BEN, 5), []);
        // Being read it has its place too.
        assert_eq!(desk.mark(2, UserId(12), 5), []);
        assert_eq!(desk.mark(3, UserId(12), 6), []);
        assert!(desk.0.is_pressed());
        assert_eq!(desk.0.take_to_read(9), Some(vec![(ROOM, BEN)]));
        assert_eq!(desk.read(&[(ROOM, BEN)], stored(&[Some(at(0))])), [(1, Moved(5))]);
        assert_eq!(desk.0.take_to_read(9), None);
        assert_eq!(desk.mark(4, ANN, 6), [(4, Moved(6))], "who has a place goes on");
        let batch = desk.0.take_to_write().unwrap();
        assert_eq!(desk.written(&batch, true), []);
        assert_eq!(desk.0.take_to_read(9), Some(vec![(ROOM, UserId(12))]));
        assert_eq!(desk.read(&[(ROOM, UserId(12))], stored(&[Some(at(0))])), [(2, Moved(5)), (3, Moved(6))]);
    }

    /// Who was not a member, or has read further already, leaves a place without a write.
    #[test]
    fn a_place_that_a_read_leaves_is_taken() {
        let mut desk = Desk::new(1);
        assert_eq!(desk.mark(1, ANN, 5), []);
        assert_eq!(desk.mark(2, BEN, 5), []);
        let pairs = desk.0.take_to_read(9).unwrap();
        assert_eq!(desk.read(&pairs, stored(&[None])), [(1, NoMember)]);
        assert_eq!(desk.0.take_to_read(9), Some(vec![(ROOM, BEN)]));
        assert_eq!(desk.0.take_to_write(), None);
    }

    #[test]
    fn when_it_is_full_and_nothing_can_be_written_it_is_said() {
        let mut desk = Desk::new(1);
        desk.keep(ANN, 5);
        assert_eq!(desk.mark(1, BEN, 5), []);
        let batch = desk.0.take_to_write().unwrap();
        assert_eq!(desk.written(&[], false), [(1, Failed)]);
        assert!(!desk.0.is_pressed(), "it is tried again at its time");
        assert_eq!(desk.mark(2, BEN, 5), [(2, Failed)]);
        assert_eq!(desk.mark(3, ANN, 6), [(3, Moved(6))]);
        assert_eq!(batch, [(ROOM, ANN, at(5))]);
        let batch = desk.0.take_to_write().unwrap();
        assert_eq!(desk.written(&batch, true), []);
        assert_eq!(desk.mark(4, BEN, 5), []);
        assert!(desk.0.take_to_read(9).is_some());
    }

    #[test]
    fn the_list_of_rooms_has_what_is_not_written_yet() {
        let room = |id, read| JoinedRoom {
            id: RoomId(id),
            name: String::new(),
            title: String::new(),
            is_private: false,
            size: 1,
            members: 1,
            head: Head { epoch: Epoch("e".into()), offset: 9, number: 9 },
            read: at(read),
            role: Role::Member,
        };
        let mut desk = Desk::new(9);
        desk.keep(ANN, 5);
        assert_eq!(desk.0.of_user(BEN), HashMap::new());
        assert_eq!(desk.0.of_user(UserId(9)), HashMap::new());
        let kept = desk.0.of_user(ANN);
        assert_eq!(kept, HashMap::from([(ROOM, at(5))]));
        let mut rooms = [room(1, 3), room(2, 3)];
        overlay(&mut rooms, &kept);
        assert_eq!(rooms, [room(1, 5), room(2, 3)]);
        // The database may have got ahead: who left and came back begins at the head.
        let mut rooms = [room(1, 8)];
        overlay(&mut rooms, &kept);
        assert_eq!(rooms, [room(1, 8)]);
    }
}
