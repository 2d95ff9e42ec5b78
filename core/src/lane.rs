//! A lane: the items that wait for the database, the batch that is being committed, and the answers to the senders. One
//! batch is in flight at a time; the next forms while it commits.
//!
//! A batch whose outcome is unknown is sent again, unchanged, before the next one, until the database answers. Its
//! senders may be answered with error 100 in the meantime, at their deadlines; that does not change the batch.

use crate::ids::Slot;
use crate::limits::Limits;
use crate::message::{Append, Caller, Endpoint, LaneAnswer, OutcomeUnknown};
use crate::mutation::{self, Mutation};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use uproar_model::{DatabaseGeneration, Item, Outcome, Refusal, RoomId};

/// For how many times `append_deadline_ms` a failed stream is remembered. A shard that is late may still send what it
/// took before it learned of the failure.
const DEADLINES_REMEMBERED: u64 = 10;

/// A connection (or HTTP call) and a room that it sends to. Order is kept within a stream.
type Stream = ((Endpoint, Slot, u32), RoomId);

/// How a batch ended.
#[derive(Clone, Debug)]
pub enum BatchResult {
    /// One outcome per item, and the history in which the items are stored. `None`: that may have changed meanwhile.
    Answered(Vec<Outcome>, Option<DatabaseGeneration>),
    /// The batch may have been committed or not.
    OutcomeUnknown,
    /// Nothing was committed, because the database refuses the data of some item.
    BadData,
}

#[derive(Debug)]
struct Batch {
    /// What is sent to the database. The same for each attempt.
    items: Arc<[Item]>,
    /// The sender of each item.
    senders: Vec<Sender>,
}

#[derive(Debug)]
struct Sender {
    append: Box<Append>,
    /// It has been answered with error 100 at its deadline.
    was_answered: bool,
}

impl Batch {
    /// The items whose senders have not been answered.
    fn waiting(&self) -> impl Iterator<Item = &Append> {
        self.senders.iter().filter(|s| !s.was_answered).map(|s| &*s.append)
    }

    fn answer(
        self,
        results: impl IntoIterator<Item = Result<Outcome, OutcomeUnknown>>,
        generation: Option<DatabaseGeneration>,
        answers: &mut Vec<LaneAnswer>,
    ) {
        for (Sender { append, was_answered }, result) in self.senders.into_iter().zip(results) {
            answers.push(LaneAnswer { append, result, was_answered, is_last: true, generation });
        }
    }
}

/// A lane. Its driver asks for the next batch, runs the store call, and reports how it ended.
#[derive(Debug)]
pub struct Lane {
    limits: Limits,
    pending: VecDeque<Box<Append>>,
    pending_bytes: u64,
    /// A lower bound of the deadlines of pending items. Items usually arrive in the order of their deadlines, but one
    /// that waited unread at its session has an earlier deadline than those that arrived in the meantime.
    pending_deadline_ms: u64,
    by_room: HashMap<RoomId, (u64, u64), ahash::RandomState>,
    by_source: HashMap<(Endpoint, Slot, u32), u64, ahash::RandomState>,
    /// Batches to send before pending items: a batch to retry, and the halves of a refused one.
    queued: VecDeque<Batch>,
    in_flight: Option<Batch>,
    /// When a batch may be sent again after an unknown outcome.
    retry_at_ms: Option<u64>,
    retries: u32,
    /// Streams in which an item ended with error 100, each with the era that begins then. All items of earlier eras
    /// must end the same way. The second number is the time until which this is remembered.
    failed: BTreeMap<Stream, (u32, u64)>,
    /// The latest era that began. Eras are never used twice.
    era: u32,
}

impl Lane {
    pub fn new(limits: Limits) -> Lane {
        // Nobody outside chooses these keys, so the seeds need not be secret.
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
        Lane {
            limits,
            pending: VecDeque::new(),
            pending_bytes: 0,
            pending_deadline_ms: u64::MAX,
            by_room: HashMap::with_hasher(hasher.clone()),
            by_source: HashMap::with_hasher(hasher),
            queued: VecDeque::new(),
            in_flight: None,
            retry_at_ms: None,
            retries: 0,
            failed: BTreeMap::new(),
            era: 0,
        }
    }

    /// An item arrived. It waits, or is answered with error 100 immediately.
    pub fn receive(&mut self, now_ms: u64, mut append: Box<Append>, answers: &mut Vec<LaneAnswer>) {
        let stream = (append.caller.source(), append.item.room);
        if let Some((era, _)) = self.failed.get(&stream) {
            if append.era < *era && !mutation::active(Mutation::LaneForgetsFailure) {
                append.era = *era;
                answers.push(LaneAnswer::only(append, Err(OutcomeUnknown)));
                return;
            }
            // The session has seen the failure: later items belong to a new era.
            self.failed.remove(&stream);
        }
        if now_ms >= append.deadline_ms || !self.has_space(&append) {
            append.era = self.begin_era(now_ms, stream, append.era);
            answers.push(LaneAnswer::only(append, Err(OutcomeUnknown)));
            return;
        }
        if mutation::active(Mutation::AcknowledgeBeforeCommit) && matches!(append.caller.endpoint, Endpoint::Shard(_)) {
            let early = Outcome::Duplicate(uproar_model::Stored { offset: 1, number: 1, time: 1 });
            answers.push(LaneAnswer { is_last: false, ..LaneAnswer::only(append.clone(), Ok(early)) });
        }
        self.count(&append, 1);
        self.pending_deadline_ms = self.pending_deadline_ms.min(append.deadline_ms);
        self.pending.push_back(append);
    }

    fn has_space(&self, append: &Append) -> bool {
        let cost = append.cost_bytes();
        let (room_items, room_bytes) = self.by_room.get(&append.item.room).copied().unwrap_or_default();
        let from_source = self.by_source.get(&append.caller.source()).copied().unwrap_or_default();
        (self.pending.len() as u64) < self.limits.lane_limit_items
            && self.pending_bytes + cost <= self.limits.lane_limit_bytes
            && room_items < self.limits.lane_limit_items / 4
            && room_bytes + cost <= self.limits.lane_limit_bytes / 4
            && from_source < self.limits.pending_publishes_limit
    }

    /// Adds an item to the counts of pending items (`sign` is 1), or takes it out (-1).
    fn count(&mut self, append: &Append, sign: i64) {
        let cost = append.cost_bytes() as i64 * sign;
        let step = |value: &mut u64, by: i64| *value = value.saturating_add_signed(by);
        step(&mut self.pending_bytes, cost);
        let room = self.by_room.entry(append.item.room).or_default();
        step(&mut room.0, sign);
        step(&mut room.1, cost);
        if room.0 == 0 {
            self.by_room.remove(&append.item.room);
        }
        let source = self.by_source.entry(append.caller.source()).or_default();
        step(source, sign);
        if *source == 0 {
            self.by_source.remove(&append.caller.source());
        }
    }

    /// The batch to send now, if one is due and none is in flight. After an unknown outcome it is the same slice again.
    pub fn next_batch(&mut self, now_ms: u64) -> Option<Arc<[Item]>> {
        if self.in_flight.is_some() || self.retry_at_ms.is_some_and(|at| now_ms < at) {
            return None;
        }
        self.retry_at_ms = None;
        let batch = match self.queued.pop_front() {
            Some(batch) => batch,
            None => self.form_batch()?,
        };
        let items = Arc::clone(&batch.items);
        self.in_flight = Some(batch);
        Some(items)
    }

    fn form_batch(&mut self) -> Option<Batch> {
        let mut senders = Vec::new();
        let mut bytes = 0;
        while let Some(append) = self.pending.front() {
            bytes += append.cost_bytes();
            if senders.len() as u64 >= self.limits.batch_limit_items
                || !senders.is_empty() && bytes > self.limits.batch_limit_bytes
            {
                break;
            }
            let append = self.pending.pop_front()?;
            self.count(&append, -1);
            senders.push(Sender { append, was_answered: false });
        }
        if senders.is_empty() {
            return None;
        }
        let items = senders.iter().map(|sender| sender.append.item.clone()).collect();
        Some(Batch { items, senders })
    }

    /// The senders of the items of the batch in flight, also of those that have been answered already.
    pub fn callers(&self) -> impl Iterator<Item = &Caller> {
        self.in_flight.iter().flat_map(|batch| &batch.senders).map(|sender| &sender.append.caller)
    }

    /// The batch in flight has ended.
    pub fn finished(&mut self, now_ms: u64, result: BatchResult, answers: &mut Vec<LaneAnswer>) {
        let Some(batch) = self.in_flight.take() else { return };
        match result {
            BatchResult::Answered(outcomes, generation) => {
                debug_assert_eq!(outcomes.len(), batch.senders.len());
                let was_retried = std::mem::take(&mut self.retries) > 0;
                let results = outcomes.into_iter().map(|outcome| match outcome {
                    // An attempt that was given up may still be under way in the database, and succeed there once
                    // the user who is refused now is a member again or may post. An unknown reason may be one of
                    // that sort.
                    Outcome::Refused(refusal) if was_retried && may_end(refusal) => Err(OutcomeUnknown),
                    outcome => Ok(outcome),
                });
                let begin = answers.len();
                batch.answer(results, generation, answers);
                let mut failed = BTreeMap::new();
                let has_failed = |answer: &&LaneAnswer| answer.result.is_err() && !answer.was_answered;
                for LaneAnswer { append, .. } in answers[begin..].iter().filter(has_failed) {
                    note_failed(&mut failed, append);
                }
                self.fail_streams(now_ms, failed, begin, answers);
            }
            BatchResult::OutcomeUnknown => {
                let delay = self.limits.retry_delay_ms << self.retries.min(10);
                self.retry_at_ms = Some(now_ms + delay.min(1000));
                self.retries += 1;
                self.queued.push_front(batch);
            }
            BatchResult::BadData if batch.items.len() > 1 => {
                self.retries = 0;
                let middle = batch.items.len() / 2;
                let mut first = batch.senders;
                let second = first.split_off(middle);
                self.queued.push_front(Batch { items: batch.items[middle..].into(), senders: second });
                self.queued.push_front(Batch { items: batch.items[..middle].into(), senders: first });
            }
            BatchResult::BadData => {
                self.retries = 0;
                batch.answer([Ok(Outcome::Refused(Refusal::BadData))], None, answers);
            }
        }
    }

    /// Answers items that are past their deadline, and with them all items of their streams.
    pub fn tick(&mut self, now_ms: u64, answers: &mut Vec<LaneAnswer>) {
        self.failed.retain(|_, (_, until)| now_ms < *until);
        if self.first_deadline_ms().is_none_or(|at| now_ms < at) {
            return;
        }
        let begin = answers.len();
        let mut failed: BTreeMap<Stream, u32> = BTreeMap::new();
        let batches = self.in_flight.iter().chain(&self.queued);
        for append in batches.flat_map(Batch::waiting).chain(self.pending.iter().map(|append| &**append)) {
            if now_ms >= append.deadline_ms {
                note_failed(&mut failed, append);
            }
        }
        // Items sent before a late one of the same stream are at least as late, so the whole stream fails.
        for sender in self.in_flight.iter_mut().chain(&mut self.queued).flat_map(|batch| &mut batch.senders) {
            if !sender.was_answered && fails_too(&mut failed, &sender.append) {
                sender.was_answered = true;
                let answer = LaneAnswer::only(sender.append.clone(), Err(OutcomeUnknown));
                answers.push(LaneAnswer { is_last: false, ..answer });
            }
        }
        self.fail_streams(now_ms, failed, begin, answers);
    }

    /// Items of these streams have failed: those that are pending fail too, and an era begins. The answers from `begin`
    /// on name it.
    fn fail_streams(
        &mut self,
        now_ms: u64,
        mut failed: BTreeMap<Stream, u32>,
        begin: usize,
        answers: &mut Vec<LaneAnswer>,
    ) {
        if failed.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending).into_iter();
        let (gone, kept): (VecDeque<_>, VecDeque<_>) = pending.partition(|append| fails_too(&mut failed, append));
        self.pending = kept;
        self.pending_deadline_ms = self.pending.iter().map(|append| append.deadline_ms).min().unwrap_or(u64::MAX);
        for append in gone {
            self.count(&append, -1);
            answers.push(LaneAnswer::only(append, Err(OutcomeUnknown)));
        }
        for (stream, era) in &mut failed {
            *era = self.begin_era(now_ms, *stream, *era);
        }
        for LaneAnswer { append, result, was_answered, .. } in &mut answers[begin..] {
            if result.is_err()
                && !*was_answered
                && let Some(era) = failed.get(&(append.caller.source(), append.item.room))
            {
                append.era = *era;
            }
        }
    }

    /// Begins an era of a stream. It is later than those of all items that are under way: they are of an era that began
    /// here, or of the same one as an item that fails now.
    fn begin_era(&mut self, now_ms: u64, stream: Stream, failed_era: u32) -> u32 {
        self.era = self.era.max(failed_era).saturating_add(1);
        self.failed.insert(stream, (self.era, now_ms + DEADLINES_REMEMBERED * self.limits.append_deadline_ms));
        self.era
    }

    fn first_deadline_ms(&self) -> Option<u64> {
        let batches = self.in_flight.iter().chain(&self.queued);
        let of_batches = batches.flat_map(Batch::waiting).map(|append| append.deadline_ms).min();
        let of_pending = (!self.pending.is_empty()).then_some(self.pending_deadline_ms);
        of_batches.into_iter().chain(of_pending).min()
    }

    /// When `tick` or `next_batch` must be called at the latest, in [`Now::ms`](crate::Now::ms).
    pub fn deadline_ms(&self) -> Option<u64> {
        let retry = self.retry_at_ms.filter(|_| self.in_flight.is_none());
        self.first_deadline_ms().into_iter().chain(retry).min()
    }

    /// Whether nothing is pending or being committed.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.queued.is_empty() && self.in_flight.is_none()
    }

    /// Whether the last batch got no answer: the database is down, or slower than its deadline.
    pub fn is_stuck(&self) -> bool {
        self.retries > 0
    }
}

/// Whether an item that was refused may be accepted later, when rights or the room have changed, or when time has
/// passed.
fn may_end(refusal: Refusal) -> bool {
    match refusal {
        Refusal::NoRoom
        | Refusal::NotMember
        | Refusal::NotYours
        | Refusal::NoTarget
        | Refusal::Silenced { .. }
        | Refusal::ModeratorsOnly
        | Refusal::NobodyPosts
        | Refusal::SlowMode { .. }
        | Refusal::Unknown => true,
        Refusal::TooManyReactions | Refusal::IdReused | Refusal::BadData => false,
    }
}

/// Notes the stream of an item that has failed, with the latest era of its items.
fn note_failed(failed: &mut BTreeMap<Stream, u32>, append: &Append) {
    let era = failed.entry((append.caller.source(), append.item.room)).or_default();
    *era = append.era.max(*era);
}

/// Whether an item's stream has failed. Then its era counts.
fn fails_too(failed: &mut BTreeMap<Stream, u32>, append: &Append) -> bool {
    let Some(era) = failed.get_mut(&(append.caller.source(), append.item.room)) else { return false };
    *era = append.era.max(*era);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Serial;
    use uproar_model::{Kind, Stored, UserId};

    fn append(room: i64, slot: u32, era: u32, id: &str, deadline_ms: u64) -> Box<Append> {
        let caller = Caller { endpoint: Endpoint::Shard(0), slot: Slot(slot), generation: 0, serial: Serial(0) };
        let item = Item {
            room: RoomId(room),
            user: UserId(1),
            id: id.into(),
            kind: Kind::Message,
            target: None,
            body: Some("x".into()),
            meta: None,
        };
        Box::new(Append { caller, era, deadline_ms, item, username: "ann".into() })
    }

    fn ids(items: &[Item]) -> Vec<&str> {
        items.iter().map(|item| &*item.id).collect()
    }

    fn new(offset: u64) -> Outcome {
        Outcome::New(Stored { offset, number: offset, time: 0 })
    }

    #[test]
    fn the_next_batch_forms_while_one_commits() {
        let (mut lane, mut answers) = (Lane::new(Limits::default()), Vec::new());
        lane.receive(0, append(1, 1, 0, "a", 100), &mut answers);
        assert_eq!(ids(&lane.next_batch(0).unwrap()), ["a"]);
        lane.receive(0, append(1, 1, 0, "b", 100), &mut answers);
        lane.receive(0, append(2, 1, 0, "c", 100), &mut answers);
        assert!(lane.next_batch(0).is_none(), "one in flight");
        lane.finished(1, BatchResult::Answered(vec![new(1)], None), &mut answers);
        assert_eq!(answers.pop().unwrap().result, Ok(new(1)));
        assert_eq!(ids(&lane.next_batch(1).unwrap()), ["b", "c"]);
    }

    #[test]
    fn a_batch_with_an_unknown_outcome_is_retried_unchanged_before_anything_else() {
        let (mut lane, mut answers) = (Lane::new(Limits::default()), Vec::new());
        lane.receive(0, append(1, 1, 0, "a", 100), &mut answers);
        let first = lane.next_batch(0).unwrap();
        lane.receive(0, append(2, 2, 0, "b", 1000), &mut answers);
        lane.finished(0, BatchResult::OutcomeUnknown, &mut answers);
        assert!(lane.next_batch(0).is_none(), "the retry waits");
        assert_eq!(lane.callers().count(), 0);
        // Its sender is answered at the deadline; it is sent again nevertheless.
        lane.tick(100, &mut answers);
        let told = answers.pop().unwrap();
        assert_eq!((told.result, told.is_last, answers.len()), (Err(OutcomeUnknown), false, 0));
        assert_eq!(lane.next_batch(100).unwrap(), first);
        assert_eq!(lane.callers().collect::<Vec<_>>(), [&told.append.caller]);
        lane.finished(100, BatchResult::Answered(vec![new(1)], None), &mut answers);
        let late = answers.pop().unwrap();
        assert_eq!((late.result, late.was_answered, late.is_last), (Ok(new(1)), true, true));
        assert_eq!(ids(&lane.next_batch(100).unwrap()), ["b"]);
    }

    #[test]
    fn refused_data_is_split_down_to_the_item() {
        let (mut lane, mut answers) = (Lane::new(Limits::default()), Vec::new());
        for id in ["a", "b", "bad", "c", "d"] {
            lane.receive(0, append(1, 1, 0, id, 100), &mut answers);
        }
        let mut offset = 0;
        let mut order = Vec::new();
        while let Some(items) = lane.next_batch(0) {
            let result = if ids(&items).contains(&"bad") {
                BatchResult::BadData
            } else {
                order.extend(items.iter().map(|item| item.id.to_string()));
                BatchResult::Answered(
                    items
                        .iter()
                        .map(|_| {
                            offset += 1;
                            new(offset)
                        })
                        .collect(),
                    None,
                )
            };
            lane.finished(0, result, &mut answers);
        }
        assert_eq!(order, ["a", "b", "c", "d"]);
        let bad: Vec<_> = answers.iter().filter(|a| a.result == Ok(Outcome::Refused(Refusal::BadData))).collect();
        assert_eq!((bad.len(), &*bad[0].append.item.id, answers.len()), (1, "bad", 5));
    }

    #[test]
    fn later_items_of_a_failed_stream_fail_until_the_session_has_seen_it() {
        let (mut lane, mut answers) = (Lane::new(Limits::default()), Vec::new());
        lane.receive(0, append(1, 1, 0, "a", 100), &mut answers);
        lane.next_batch(0);
        lane.receive(50, append(1, 1, 0, "b", 150), &mut answers);
        lane.receive(50, append(2, 1, 0, "other room", 150), &mut answers);
        lane.receive(50, append(1, 2, 0, "other sender", 150), &mut answers);
        lane.tick(100, &mut answers);
        assert_eq!(answers.iter().map(|a| &*a.append.item.id).collect::<Vec<_>>(), ["a", "b"]);
        answers.clear();
        lane.receive(101, append(1, 1, 0, "c", 201), &mut answers);
        assert_eq!(
            answers.pop().map(|a| a.result),
            Some(Err(OutcomeUnknown)),
            "it was under way when its stream failed"
        );
        lane.receive(102, append(1, 1, 1, "a", 202), &mut answers);
        assert!(answers.is_empty(), "a new era");
        lane.finished(103, BatchResult::Answered(vec![new(1)], None), &mut answers);
        assert_eq!(ids(&lane.next_batch(103).unwrap()), ["other room", "other sender", "a"]);
    }

    #[test]
    fn an_item_sent_without_knowing_of_an_earlier_failure_fails() {
        let limits = Limits { pending_publishes_limit: 1, ..Limits::default() };
        let (mut lane, mut answers) = (Lane::new(limits), Vec::new());
        lane.receive(0, append(1, 1, 0, "a", 100), &mut answers);
        lane.receive(0, append(1, 1, 0, "b", 100), &mut answers);
        let refused = answers.pop().unwrap();
        assert_eq!((&*refused.append.item.id, refused.append.era), ("b", 1));
        lane.tick(100, &mut answers);
        let late = answers.pop().unwrap();
        assert_eq!((&*late.append.item.id, late.append.era), ("a", 2));
        // The session has seen that b failed, but not that a did.
        lane.receive(101, append(1, 1, 1, "b", 201), &mut answers);
        assert_eq!(answers.pop().map(|answer| (answer.result, answer.append.era)), Some((Err(OutcomeUnknown), 2)));
        lane.receive(102, append(1, 1, 2, "a", 202), &mut answers);
        assert!(answers.is_empty());
    }

    #[test]
    fn every_bound_admits_the_last_item_and_refuses_the_next() {
        let limits = Limits { lane_limit_items: 8, pending_publishes_limit: 1, ..Limits::default() };
        let (mut lane, mut answers) = (Lane::new(limits), Vec::new());
        lane.receive(0, append(1, 1, 0, "a", 100), &mut answers);
        assert!(answers.is_empty());
        lane.receive(0, append(1, 1, 0, "b", 100), &mut answers);
        assert_eq!(answers.len(), 1, "one connection");
        lane.receive(0, append(1, 2, 0, "a", 100), &mut answers);
        assert_eq!(answers.len(), 1);
        lane.receive(0, append(1, 3, 0, "a", 100), &mut answers);
        assert_eq!(answers.len(), 2, "one room has a quarter");
        for slot in 4..10 {
            lane.receive(0, append(i64::from(slot), slot, 0, "a", 100), &mut answers);
        }
        assert_eq!(answers.len(), 2);
        lane.receive(0, append(99, 99, 0, "a", 100), &mut answers);
        assert_eq!(answers.len(), 3, "the lane is full");
        assert_eq!(lane.next_batch(0).map(|b| b.len()), Some(8));
        lane.receive(0, append(100, 100, 0, "a", 100), &mut answers);
        assert_eq!(answers.len(), 3, "what is in a batch takes no place among the pending");
    }
}
