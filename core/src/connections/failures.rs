//! The publishes of a connection that ended with error 100, as far as the order of the later ones depends on them.
//!
//! A client learns of a failure late: what it has sent in the meantime may still be on the wire, or unread in the
//! socket. If that were stored and the failed publish were sent again, the order would be lost. So everything that
//! follows in the room fails too, until the client shows that it knows of the failure: it sends the failed publish
//! again, or the next one if that was stored after all. A client that never does so may go on once it has paused: it
//! has answered a ping that followed the last failure, and sent nothing for a while.

use crate::ids::Serial;
use crate::mutation::{self, Mutation};
use std::sync::Arc;
use uproar_model::RoomId;

/// In how many rooms failures are remembered. A client has left the room of the oldest one long ago.
const ROOMS_LIMIT: usize = 256;
/// How many failed publishes to a room are known by their ids. Those that were sent later fail too, but are forgotten.
const ITEMS_LIMIT: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// At most one for each room.
    rooms: Vec<Failure>,
    /// How many pings the client has been sent, and how many it has answered, as far as either is counted.
    pings: u32,
    pongs: u32,
}

#[derive(Debug)]
struct Failure {
    room: RoomId,
    /// The failed publishes in the order in which they were first sent. There is at least one.
    items: Vec<Item>,
    /// There are more than the limit allows to remember.
    has_more: bool,
    /// All items are stored, and later publishes are accepted again. The client may not know that: it was told that the
    /// items had failed, so it may still begin with the first of them when a later publish fails.
    is_over: bool,
    /// The number of the first ping that was sent after the last publish had failed.
    ping: Option<u32>,
    /// When the client answered it. It had been told of all failures then.
    known_ms: Option<u64>,
    /// The number of the first ping that was sent after the failure, and when the client answered it. What is refused
    /// since then does not change these two.
    first_ping: Option<u32>,
    told_ms: Option<u64>,
}

#[derive(Debug)]
struct Item {
    id: Arc<str>,
    serial: Serial,
    /// It turned out to be stored.
    is_stored: bool,
}

/// A publish has to fail because of an earlier one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MustFail {
    /// The client has to be sent a ping, which it will answer when it knows of this.
    pub needs_ping: bool,
    /// The client has sent others for so long that it will never send the first one on this connection. On a new one
    /// it begins in order.
    pub is_lost: bool,
}

impl Failures {
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    fn of(&mut self, room: RoomId) -> Option<&mut Failure> {
        self.rooms.iter_mut().find(|failure| failure.room == room)
    }

    /// Whether a publish has to fail because of an earlier one. `is_undecided`: a publish of the connection to the room
    /// is still under way.
    pub fn check(
        &mut self,
        room: RoomId,
        id: &Arc<str>,
        serial: Serial,
        now_ms: u64,
        append_deadline_ms: u64,
        is_undecided: bool,
    ) -> Result<(), MustFail> {
        let Some(failure) = self.of(room).filter(|failure| !failure.is_over) else { return Ok(()) };
        // While a publish is under way, it may still turn out to have failed together with them.
        let are_all_stored = !is_undecided && failure.are_all_stored();
        // So may one that was sent between those that are stored and this one.
        let is_next = failure.is_next(id) && (!is_undecided || failure.place_of(id) == 0);
        if is_next || are_all_stored || mutation::active(Mutation::FailureIsForgotten) {
            return Ok(());
        }
        // The client goes on without the first failed publish, and has had time to send the others again.
        let has_paused = failure.known_ms.is_some_and(|known_ms| now_ms >= known_ms + append_deadline_ms);
        if has_paused && !is_undecided {
            return Ok(());
        }
        failure.insert(id, serial);
        if mutation::active(Mutation::RefusalIsTakenAsKnown) {
            return Err(MustFail { needs_ping: false, is_lost: false });
        }
        let needs_ping = failure.needs_ping();
        let is_lost = failure.told_ms.is_some_and(|told_ms| now_ms >= told_ms + 2 * append_deadline_ms);
        Err(MustFail { needs_ping, is_lost })
    }

    /// A publish ended with error 100. Returns whether the client has to be sent a ping, which it will answer when it
    /// knows of this.
    pub fn add(&mut self, room: RoomId, id: &Arc<str>, serial: Serial) -> bool {
        let Some(failure) = self.of(room) else {
            if self.rooms.len() >= ROOMS_LIMIT {
                self.rooms.remove(0);
            }
            let items = vec![Item::new(id, serial)];
            let known_ms = mutation::active(Mutation::FailureIsTakenAsKnown).then_some(0);
            self.rooms.push(Failure {
                room,
                items,
                has_more: false,
                is_over: false,
                ping: None,
                known_ms,
                first_ping: None,
                told_ms: None,
            });
            return true;
        };
        if failure.is_next(id) || mutation::active(Mutation::LastFailureCounts) {
            // It was sent again and has failed again. What follows was sent without knowing that.
            let is_stored = failure.items.get(failure.place_of(id)).is_some_and(|item| item.is_stored);
            failure.items = vec![Item { is_stored, ..Item::new(id, serial) }];
            failure.has_more = false;
            failure.is_over = false;
        } else {
            failure.insert(id, serial);
        }
        failure.known_ms = None;
        failure.first_ping = None;
        failure.told_ms = None;
        failure.ping.take().is_some()
    }

    /// A publish failed together with an earlier one. Returns whether the client has to be sent a ping: it may have
    /// answered one that it was sent before it was told of this.
    pub fn add_follower(&mut self, room: RoomId, id: &Arc<str>, serial: Serial) -> bool {
        let Some(failure) = self.of(room) else { return false };
        if !failure.items.first().is_some_and(|first| first.serial.is_before(serial)) {
            return false;
        }
        failure.insert(id, serial);
        failure.needs_ping()
    }

    /// A publish to this room is under way again: others may follow it.
    pub fn on_sent(&mut self, room: RoomId, id: &str) {
        let Some(failure) = self.of(room) else { return };
        if failure.are_all_stored() && failure.place_of(id) == failure.items.len() {
            failure.is_over = true;
            return;
        }
        self.rooms.retain(|failure| failure.room != room);
        if self.rooms.is_empty() {
            self.rooms = Vec::new();
        }
    }

    /// A publish that had failed is stored after all.
    pub fn on_stored(&mut self, room: RoomId, id: &str) {
        let Some(failure) = self.of(room) else { return };
        if let Some(item) = failure.items.iter_mut().find(|item| *item.id == *id) {
            item.is_stored = true;
        }
    }

    /// The client is sent a ping. Returns its number.
    pub fn on_ping(&mut self) -> u32 {
        self.pings = self.pings.wrapping_add(1);
        for failure in &mut self.rooms {
            failure.ping.get_or_insert(self.pings);
            failure.first_ping.get_or_insert(self.pings);
        }
        self.pings
    }

    /// The client has answered the ping with this number; `None`: the next one. Returns whether it has to be sent
    /// another one.
    pub fn on_pong(&mut self, number: Option<u32>, now_ms: u64) -> bool {
        self.pongs = number.unwrap_or(self.pongs.wrapping_add(1));
        let pongs = self.pongs;
        let is_answered = |ping: &u32| (pongs.wrapping_sub(*ping) as i32) >= 0;
        for failure in &mut self.rooms {
            if failure.ping.as_ref().is_some_and(is_answered) {
                failure.known_ms.get_or_insert(now_ms);
            }
            if failure.first_ping.as_ref().is_some_and(is_answered) {
                failure.told_ms.get_or_insert(now_ms);
            }
        }
        self.rooms.iter().any(|failure| failure.ping.is_none())
    }
}

impl Failure {
    /// The index of an item; that of the end if there is none with this id.
    fn place_of(&self, id: &str) -> usize {
        self.items.iter().position(|item| *item.id == *id).unwrap_or(self.items.len())
    }

    fn are_all_stored(&self) -> bool {
        !self.has_more && self.items.iter().all(|item| item.is_stored)
    }

    /// The client does not know of the latest failure yet. Returns whether it has to be sent a ping; one that is to be
    /// sent, or is under way, is followed by another one.
    fn needs_ping(&mut self) -> bool {
        self.ping = None;
        self.known_ms.take().is_some()
    }

    /// Whether this is the first failed publish, or those before it are stored.
    fn is_next(&self, id: &str) -> bool {
        let place = self.place_of(id);
        place < self.items.len() && self.items[..place].iter().all(|item| item.is_stored)
    }

    /// Adds an item at its place.
    fn insert(&mut self, id: &Arc<str>, serial: Serial) {
        self.is_over = false;
        let place = self.items.partition_point(|item| item.serial.is_before(serial));
        if let Some(known) = self.items.iter().position(|item| item.id == *id) {
            // It was sent again. The earlier place counts.
            if known <= place {
                return;
            }
            self.items.remove(known);
        }
        self.items.insert(place, Item::new(id, serial));
        self.has_more |= self.items.len() > ITEMS_LIMIT;
        self.items.truncate(ITEMS_LIMIT);
    }
}

impl Item {
    fn new(id: &Arc<str>, serial: Serial) -> Item {
        Item { id: Arc::clone(id), serial, is_stored: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: RoomId = RoomId(1);
    const DEADLINE_MS: u64 = 100;

    /// The failures of a connection, with the time and the number of its requests.
    struct Sender {
        failures: Failures,
        serial: u32,
        now_ms: u64,
    }

    impl Sender {
        /// These publishes have failed.
        fn with_failed(ids: &[&str]) -> Sender {
            let mut sender = Sender { failures: Failures::default(), serial: 10, now_ms: 0 };
            ids.iter().for_each(|id| sender.fail(id));
            sender
        }

        fn fail(&mut self, id: &str) {
            self.serial = self.serial.wrapping_add(1);
            self.failures.add(ROOM, &id.into(), Serial(self.serial));
        }

        fn refuses(&mut self, id: &str) -> bool {
            self.serial = self.serial.wrapping_add(1);
            self.failures.check(ROOM, &id.into(), Serial(self.serial), self.now_ms, DEADLINE_MS, false).is_err()
        }
    }

    #[test]
    fn only_the_first_failed_publish_may_follow_a_failure() {
        let mut sender = Sender::with_failed(&["b", "c"]);
        assert!(sender.refuses("c") && sender.refuses("d") && !sender.refuses("b"));
        // An earlier one that was still under way fails as well.
        sender.failures.add(ROOM, &"a".into(), Serial(1));
        assert!(sender.refuses("b") && !sender.refuses("a"));
        assert_eq!(sender.failures.check(RoomId(2), &"c".into(), Serial(99), 0, DEADLINE_MS, false), Ok(()));
        sender.failures.on_sent(ROOM, "a");
        assert!(sender.failures.is_empty() && !sender.refuses("c"));
    }

    #[test]
    fn a_publish_that_fails_again_begins_a_new_failure() {
        let mut sender = Sender::with_failed(&["a", "b"]);
        sender.fail("a");
        sender.failures.on_stored(ROOM, "a");
        assert!(!sender.refuses("new"), "what had failed with it before does not matter any more");
    }

    #[test]
    fn the_next_one_may_follow_when_the_first_is_stored_after_all() {
        let mut sender = Sender::with_failed(&["a", "b"]);
        assert!(sender.refuses("c"));
        sender.failures.on_stored(ROOM, "a");
        assert!(sender.refuses("c") && sender.refuses("new") && !sender.refuses("b") && !sender.refuses("a"));
        let is_undecided = true;
        let refusal = sender.failures.check(ROOM, &"b".into(), Serial(59), 0, DEADLINE_MS, is_undecided);
        assert!(refusal.is_err(), "one that was sent before it may still fail");
        sender.failures.on_stored(ROOM, "b");
        sender.failures.on_stored(ROOM, "c");
        assert!(sender.refuses("other") && !sender.refuses("new"));
        for id in ["new", "other"] {
            sender.failures.on_stored(ROOM, id);
        }
        let refuses_while_undecided =
            |failures: &mut Failures| failures.check(ROOM, &"last".into(), Serial(60), 0, DEADLINE_MS, true).is_err();
        assert!(refuses_while_undecided(&mut sender.failures), "another one may still fail");
        sender.failures.on_stored(ROOM, "last");
        assert!(!sender.refuses("newest"), "all of them are stored");
    }

    #[test]
    fn a_client_may_begin_with_the_first_that_failed_although_it_is_stored() {
        let mut sender = Sender::with_failed(&["a", "b"]);
        sender.failures.on_stored(ROOM, "a");
        sender.failures.on_stored(ROOM, "b");
        for id in ["c", "d"] {
            assert!(!sender.refuses(id));
            sender.failures.on_sent(ROOM, id);
        }
        sender.fail("c");
        sender.fail("d");
        assert!(sender.refuses("d") && sender.refuses("b2") && !sender.refuses("c") && !sender.refuses("a"));
        sender.failures.on_sent(ROOM, "a");
        assert!(sender.failures.is_empty(), "the client goes back to the first one");
    }

    #[test]
    fn serials_that_wrap_keep_their_order() {
        let mut sender = Sender::with_failed(&[]);
        sender.serial = u32::MAX - 1;
        sender.fail("a");
        sender.fail("b");
        assert!(sender.refuses("b") && !sender.refuses("a"));
    }

    #[test]
    fn a_client_that_has_answered_a_ping_may_go_on_after_a_pause() {
        let mut sender = Sender::with_failed(&[]);
        sender.failures.on_ping();
        sender.fail("a");
        assert!(sender.failures.on_pong(None, 0), "this pong answers an earlier ping");
        sender.now_ms = 1000;
        assert!(sender.refuses("b"), "the client may not know yet");
        sender.failures.on_ping();
        assert!(!sender.failures.on_pong(None, 1000));
        sender.now_ms = 1100;
        let mut check =
            |is_undecided| sender.failures.check(ROOM, &"c".into(), Serial(50), 1100, DEADLINE_MS, is_undecided);
        assert_eq!(check(true), Err(MustFail { needs_ping: true, is_lost: false }));
        let unknown = MustFail { needs_ping: false, is_lost: false };
        assert_eq!(check(false), Err(unknown), "it may not know of the last refusal");
        sender.failures.on_ping();
        assert!(!sender.failures.on_pong(None, 1100));
        sender.now_ms = 1199;
        assert!(sender.refuses("d"), "it has not paused");
        sender.failures.on_ping();
        sender.failures.on_pong(None, 1199);
        sender.now_ms = 1299;
        assert!(!sender.refuses("e"));
        // A later failure is news to it.
        sender.fail("f");
        sender.failures.on_pong(None, 1301);
        sender.now_ms = 2000;
        assert!(sender.refuses("g"));
    }

    #[test]
    fn a_client_that_neither_pauses_nor_begins_with_the_first_is_lost() {
        let mut sender = Sender::with_failed(&["a", "b"]);
        sender.failures.on_ping();
        sender.failures.on_pong(None, 10);
        let mut is_lost_at = |now_ms| {
            let refusal = sender.failures.check(ROOM, &"b".into(), Serial(50), now_ms, DEADLINE_MS, false);
            sender.failures.on_ping();
            sender.failures.on_pong(None, now_ms);
            refusal.unwrap_err().is_lost
        };
        assert!(!is_lost_at(60) && !is_lost_at(140) && !is_lost_at(209) && is_lost_at(210));
    }

    #[test]
    fn a_publish_that_fails_while_a_ping_is_under_way_needs_another_ping() {
        let mut sender = Sender::with_failed(&["a"]);
        sender.failures.on_ping();
        assert!(sender.refuses("b"));
        assert!(sender.failures.on_pong(None, 0), "the ping was sent before the second failure");
        sender.now_ms = 1000;
        assert!(sender.refuses("c"));
    }

    /// A client that had answered a ping in between was taken to know of it.
    #[test]
    fn a_publish_that_fails_together_with_an_earlier_one_needs_another_ping() {
        let mut sender = Sender::with_failed(&["a"]);
        sender.failures.on_ping();
        sender.failures.on_pong(None, 0);
        assert!(sender.failures.add_follower(ROOM, &"b".into(), Serial(20)));
        sender.now_ms = 1000;
        assert!(sender.refuses("c"));
        sender.failures.on_ping();
        assert!(!sender.failures.add_follower(ROOM, &"d".into(), Serial(30)));
        assert!(sender.failures.on_pong(None, 1000), "the ping was sent before that failure");
    }

    #[test]
    fn the_number_of_rooms_is_bounded() {
        let mut failures = Failures::default();
        for room in 0..2 * ROOMS_LIMIT {
            failures.add(RoomId(room as i64), &"a".into(), Serial(1));
        }
        assert_eq!(failures.rooms.len(), ROOMS_LIMIT);
    }

    #[test]
    fn the_number_of_items_is_bounded() {
        let mut sender = Sender::with_failed(&["a"]);
        for number in 0..2 * ITEMS_LIMIT {
            assert!(sender.refuses(&number.to_string()));
        }
        assert_eq!(sender.failures.rooms[0].items.len(), ITEMS_LIMIT);
        assert!(!sender.refuses("a"));
    }
}
