//! One step of a webhook in one room: usually one POST, and some more where positions are rarely written.
//!
//! The order of events makes it safe to be killed at any moment. The range of a batch is stored before its first POST,
//! so that each attempt to deliver it has the same id and the same publications. The position moves after the receiver
//! has accepted it.

use super::body::{self, ENVELOPE_BYTES};
use super::memory::{Memory, Reserved};
use super::plan::Plan;
use super::secret::signatures;
use super::settings::{Events, Hook, matches_pattern};
use crate::chat::Chat;
use crate::outgoing::{Bounds, Client};
use crate::readers::{PositionWriter, Seen};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uproar_core::limits::Limits;
use uproar_core::message::Recent;
use uproar_core::protocol::Entry;
use uproar_model::{Epoch, Head, Offset, Page, PageRequest, Publication, RoomId, UnixMillis};
use uproar_store::{Batch, Move, Position, Progress, SharedStore, StoreError};

/// Publications in one batch, and how long its body may be when it is made. (An edit can make it longer later. A single
/// message always fits into a batch.)
const BATCH_LIMIT_PUBLICATIONS: usize = 100;
const BATCH_LIMIT_BYTES: usize = 256 * 1024;
/// How long a room may go on with batches that were read for it, before it goes behind the others.
const TURN: Duration = Duration::from_millis(250);
/// Pages of publications that the receiver does not want, which are skipped at a time, and rooms of which it is
/// remembered what was skipped.
const SKIPPED_PAGES_LIMIT: usize = 100;
const SKIPPED_ROOMS_LIMIT: usize = 1024;
/// What is read of an answer, and shown of it.
const ANSWER_LIMIT_BYTES: usize = 4096;
const SHOWN_LIMIT_CHARACTERS: usize = 200;
/// The longest pause that a receiver can ask for.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Everything that a step needs.
pub struct Sender {
    pub hook: Hook,
    /// The name under which positions are stored.
    pub reader: Arc<str>,
    pub store: SharedStore,
    /// Has the latest publications of rooms in memory. `None`: everything is read from the database.
    pub chat: Option<Arc<Chat>>,
    pub client: Client,
    pub writer: PositionWriter,
    /// Reads of all webhooks that may be under way: they come in the store's turn of the server itself.
    pub reads: Arc<Semaphore>,
    /// For the bodies of this webhook's POSTs.
    pub memory: Memory,
    pub skipped: Skipped,
    /// The receiver has answered 410, which could not be recorded yet.
    pub is_pause_unrecorded: AtomicBool,
    pub limits: Limits,
}

/// In each room, where publications begin and end that were read and are not wanted, but which come after a batch that
/// was not delivered yet, so that the position can't say it. It is only a memory: without it, they are read again.
#[derive(Debug, Default)]
pub struct Skipped(Mutex<BTreeMap<RoomId, (Offset, Offset)>>);

impl Skipped {
    fn note(&self, room: RoomId, after: Offset, to: Offset) {
        let mut skipped = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if skipped.len() >= SKIPPED_ROOMS_LIMIT {
            skipped.clear();
        }
        skipped.insert(room, (after, to));
    }

    /// How far a reader that is at `done` need not read.
    fn end(&self, room: RoomId, done: Offset) -> Offset {
        let mut skipped = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match skipped.get(&room).copied() {
            Some((after, to)) if (after..=to).contains(&done) => to,
            Some((_, to)) if to < done => {
                skipped.remove(&room);
                done
            }
            _ => done,
        }
    }
}

/// What a step has done, and how it has ended.
#[derive(Debug)]
pub struct Outcome {
    pub delivered: Delivered,
    pub step: Step,
}

/// What the receiver has accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    pub posts: u64,
    pub publications: u64,
}

#[derive(Debug)]
pub enum Step {
    /// The hook has everything of this room, or the room is gone.
    Finished,
    /// There is more to do.
    Continue { seen: Seen },
    /// The room is not one of the hook's.
    NotMine,
    /// The receiver did not take a batch. It will be sent again.
    Failed { seen: Seen, room: String, failure: Failure },
    /// The receiver did not take a batch for so long that it will not be sent again.
    GivenUp { seen: Seen, room: String, failure: Failure, from: Offset, to: Offset, publications: u64 },
    /// The store has failed, or another node has moved the position.
    Retry,
}

impl From<Step> for Outcome {
    /// Nothing was delivered.
    fn from(step: Step) -> Outcome {
        Outcome { delivered: Delivered::default(), step }
    }
}

/// Why a receiver did not take a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One line.
    pub reason: String,
    /// How long the receiver wants to be left alone.
    pub retry_after: Option<Duration>,
    /// It wants nothing more at all.
    pub is_gone: bool,
}

/// The next publications of a room.
struct Cut {
    /// Everything up to here is done, or not wanted.
    done: Offset,
    batch: Option<Prepared>,
    /// Where the batches after it end, if more than one are to be stored together.
    next: Vec<Offset>,
    head: Offset,
    epoch: Epoch,
}

struct Prepared {
    to: Offset,
    publications: Vec<Box<RawValue>>,
    /// How long the body is, at most.
    bytes: usize,
    first_at: UnixMillis,
    last_at: UnixMillis,
}

/// A batch that is read again.
enum Again {
    /// The hook wants nothing of it.
    Nothing,
    Whole(Prepared),
    /// Its body would have so many bytes, which are too many now.
    TooLong(usize),
}

/// What follows when batches were delivered.
enum After {
    End(Step),
    /// The next batch, which is stored. `first`: the same, if it was read already.
    Next {
        room: Room,
        batch: Batch,
        first: Option<(Prepared, Reserved)>,
    },
}

/// A POST that was not accepted.
struct Attempt {
    first_at: UnixMillis,
    last_at: UnixMillis,
    publications: u64,
    failure: Failure,
}

/// A room in which a step works.
struct Room {
    id: RoomId,
    name: String,
    head: Offset,
    /// As it is stored.
    position: Position,
}

/// What is known of a room before its log is read.
struct Known<'a> {
    epoch: &'a Epoch,
    head: Offset,
}

/// The room is gone.
struct Gone;

impl Sender {
    /// Delivers the next batch of a room, if there is one, and those whose ranges are stored together with it.
    pub async fn step(&self, room: RoomId) -> Outcome {
        let mut delivered = Delivered::default();
        let step = self.try_step(room, &mut delivered).await.unwrap_or_else(|error| {
            error.log("a webhook can't read what it has to send; will retry");
            Step::Retry
        });
        Outcome { delivered, step }
    }

    async fn try_step(&self, id: RoomId, delivered: &mut Delivered) -> Result<Step, StoreError> {
        let Some(progress) = self.progress(id).await? else { return Ok(Step::Finished) };
        if !matches_pattern(&self.hook.rooms, &progress.name) {
            return Ok(Step::NotMine);
        }
        let Progress { name, epoch, head, position } = progress;
        let mut room = Room { id, name, head, position };
        if room.position.done > head {
            // Only somebody who has changed the database can have done that.
            let name = &room.name;
            tracing::warn!(webhook = self.hook.name, room = name, "continues at the room's head, which has gone back");
            let is_moved = self.go(&room, Position { done: head, batch: None }).await;
            return Ok(if is_moved { Step::Finished } else { Step::Retry });
        }
        let stored = room.position.batch.clone().filter(|batch| batch.epoch == epoch && batch.to <= head);
        let (mut batch, mut first) = match stored {
            Some(batch) => (batch, None),
            None => {
                let mut memory = self.memory.reserve(BATCH_LIMIT_BYTES).await;
                let Ok(cut) = self.cut(id, room.position.done, &Known { epoch: &epoch, head }).await? else {
                    return Ok(Step::Finished);
                };
                let next = self.position_of(&cut);
                // A single message can be longer than batches are. It is read again.
                let first = cut.batch.filter(|batch| batch.bytes <= BATCH_LIMIT_BYTES);
                memory.shrink(first.as_ref().map_or(0, |batch| batch.bytes));
                if next != room.position && !self.go(&room, next.clone()).await {
                    return Ok(Step::Retry);
                }
                let seen = Seen { done: cut.done, head: cut.head, since: 0 };
                let Some(batch) = next.batch.clone() else {
                    return Ok(if cut.done >= cut.head { Step::Finished } else { Step::Continue { seen } });
                };
                (room.head, room.position) = (cut.head, next);
                (batch, first.map(|first| (first, memory)))
            }
        };
        let begun = Instant::now();
        loop {
            match self.deliver(room, batch, first, delivered).await? {
                After::End(step) => return Ok(step),
                After::Next { room, first, .. } if begun.elapsed() >= TURN => {
                    let since = first.map_or(0, |(first, _)| first.first_at);
                    return Ok(Step::Continue { seen: Seen { done: room.position.done, head: room.head, since } });
                }
                After::Next { room: next, batch: next_batch, first: next_first } => {
                    (room, batch, first) = (next, next_batch, next_first);
                }
            }
        }
    }

    /// Delivers this batch of the position, and then those that are planned, as long as the next write would have to be
    /// waited for. `first`: the batch, if it was read already.
    async fn deliver(
        &self,
        room: Room,
        batch: Batch,
        mut first: Option<(Prepared, Reserved)>,
        delivered: &mut Delivered,
    ) -> Result<After, StoreError> {
        let plan = Plan::parse(&batch.note, batch.to, room.head);
        let Plan { events, next } = plan.unwrap_or_else(|| Plan { events: self.hook.events.clone(), next: Vec::new() });
        let begun = Instant::now();
        let (mut done, mut to, mut next) = (room.position.done, Some(batch.to), VecDeque::from(next));
        while let Some(end) = to {
            let read = match first.take() {
                Some(first) => Ok(Some(first)),
                None => {
                    let known = Known { epoch: &batch.epoch, head: room.head };
                    self.read_within_limits(room.id, done, end, &events, &known).await
                }
            };
            let prepared = match read {
                Ok(prepared) => prepared,
                Err(error) if done > room.position.done => {
                    error.log("a webhook can't read what it has to send next; will retry");
                    break;
                }
                Err(error) => return Err(error),
            };
            // If there is nothing, the batch was begun by another program.
            if let Some((prepared, memory)) = prepared {
                let Prepared { publications, first_at, last_at, .. } = prepared;
                let count = publications.len() as u64;
                let posted = self.post(&room, done, end, &batch, publications).await;
                drop(memory);
                if let Err(failure) = posted {
                    let rest = Batch { to: end, note: Plan { events, next: next.into() }.encode(), ..batch };
                    let attempt = Attempt { first_at, last_at, publications: count, failure };
                    return Ok(After::End(self.refused(room, done, rest, attempt).await));
                }
                delivered.posts += 1;
                delivered.publications += count;
            }
            (done, to) = (end, next.pop_front());
            if begun.elapsed() >= self.writer.pause() {
                break;
            }
        }
        match to {
            None => Ok(self.accepted(room, done, &batch.epoch).await),
            Some(to) => {
                let rest = Batch { to, note: Plan { events, next: next.into() }.encode(), ..batch };
                self.go(&room, Position { done, batch: Some(rest) }).await;
                Ok(After::End(Step::Continue { seen: Seen { done, head: room.head.max(to), since: 0 } }))
            }
        }
    }

    /// The receiver has everything up to here.
    async fn accepted(&self, room: Room, done: Offset, epoch: &Epoch) -> After {
        // The next batch is stored together with the end of this one, unless it can't be read now.
        let mut memory = self.memory.reserve(BATCH_LIMIT_BYTES).await;
        let cut = match self.cut(room.id, done, &Known { epoch, head: room.head }).await {
            Ok(Ok(cut)) => cut,
            Ok(Err(Gone)) => return After::End(Step::Finished),
            Err(error) => {
                error.log("a webhook can't read what it has to send next; will retry");
                self.go(&room, Position { done, batch: None }).await;
                return After::End(Step::Continue { seen: Seen { done, head: done + 1, since: 0 } });
            }
        };
        let next = self.position_of(&cut);
        let Cut { done, head, batch, .. } = cut;
        let since = batch.as_ref().map_or(0, |batch| batch.first_at);
        let first = batch.filter(|batch| batch.bytes <= BATCH_LIMIT_BYTES);
        // The write may take a while.
        memory.shrink(first.as_ref().map_or(0, |batch| batch.bytes));
        let is_moved = self.go(&room, next.clone()).await;
        match next.batch.clone() {
            Some(batch) if is_moved => {
                let room = Room { head, position: next, ..room };
                After::Next { room, batch, first: first.map(|first| (first, memory)) }
            }
            // If another node has moved the position, it has delivered the batch, too.
            _ if done >= head => After::End(Step::Finished),
            _ => After::End(Step::Continue { seen: Seen { done, head, since } }),
        }
    }

    /// The receiver has everything up to `done`, and has not taken the batch after that. `rest`: this batch, and those
    /// that are planned.
    async fn refused(&self, mut room: Room, done: Offset, rest: Batch, attempt: Attempt) -> Step {
        let Attempt { first_at, last_at, publications, failure } = attempt;
        let now = self.store.clock().unix_ms();
        if failure.is_gone
            && let Err(error) = self.record_pause().await
        {
            error.log("it can't be recorded that a webhook is paused, so another node would try again; will retry");
        }
        if done > room.position.done {
            let position = Position { done, batch: Some(rest.clone()) };
            // A receiver that is gone is left alone, even if another node has moved the position.
            if !self.go(&room, position.clone()).await && !failure.is_gone {
                return Step::Retry;
            }
            room.position = position;
        }
        let seen = Seen { done, head: room.head, since: first_at };
        if failure.is_gone || !may_be_given_up(now, last_at, rest.begun_at, &self.limits) {
            return Step::Failed { seen, room: room.name, failure };
        }
        // Those that are planned may have been sent before a restart, so they stay as they are.
        let plan = Plan::parse(&rest.note, rest.to, room.head);
        let (from, to) = (done + 1, rest.to);
        let after = plan.and_then(|Plan { events, next }| {
            let (first, next) = next.split_first()?;
            let note = Plan { events, next: next.to_vec() }.encode();
            Some(Batch { to: *first, note, ..rest })
        });
        if !self.go(&room, Position { done: to, batch: after }).await {
            return Step::Retry;
        }
        let seen = Seen { done: to, head: room.head, since: 0 };
        Step::GivenUp { seen, room: room.name, failure, from, to, publications }
    }

    async fn record_pause(&self) -> Result<(), StoreError> {
        self.is_pause_unrecorded.store(true, Ordering::Relaxed);
        self.store.pause_reader(&self.reader, self.store.clock().unix_ms()).await?;
        self.is_pause_unrecorded.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether no server has started since the receiver has answered 410.
    pub async fn is_still_paused(&self) -> Result<bool, StoreError> {
        if self.is_pause_unrecorded.load(Ordering::Relaxed) {
            self.record_pause().await?;
            return Ok(true);
        }
        Ok(self.store.reader_paused_at(&self.reader).await? > 0)
    }

    async fn progress(&self, room: RoomId) -> Result<Option<Progress>, StoreError> {
        let _place = self.reads.acquire().await;
        self.store.progress(&self.reader, room).await
    }

    /// A page of the log: its beginning, if this node has that in memory. `None`: the room is gone.
    async fn read_page(
        &self,
        room: RoomId,
        request: PageRequest,
        known: &Known<'_>,
    ) -> Result<Option<Page>, StoreError> {
        if let Some(chat) = &self.chat
            && let Some(recent) = chat.recent(room, request.from).await
            && let Some(page) = page_of(&recent, request, known)
        {
            return Ok(Some(page));
        }
        let _place = self.reads.acquire().await;
        self.store.read_log(room, request).await
    }

    /// Moves the position in a room.
    async fn go(&self, room: &Room, to: Position) -> bool {
        self.writer
            .write(Move { reader: Arc::clone(&self.reader), room: room.id, from: room.position.clone(), to })
            .await
    }

    fn position_of(&self, cut: &Cut) -> Position {
        let begun_at = self.store.clock().unix_ms();
        let plan = Plan { events: self.hook.events.clone(), next: cut.next.clone() };
        let batch =
            |prepared: &Prepared| Batch { to: prepared.to, epoch: cut.epoch.clone(), begun_at, note: plan.encode() };
        Position { done: cut.done, batch: cut.batch.as_ref().map(batch) }
    }

    /// The publications of a batch that was begun earlier, and memory for its body. `None`: none of them is wanted.
    async fn read_within_limits(
        &self,
        room: RoomId,
        done: Offset,
        to: Offset,
        events: &Events,
        known: &Known<'_>,
    ) -> Result<Option<(Prepared, Reserved)>, StoreError> {
        let mut limit = BATCH_LIMIT_BYTES;
        loop {
            let mut memory = self.memory.reserve(limit).await;
            // What is longer than everything that a webhook may use is alone at least.
            let is_all = self.memory.is_all(limit);
            match self.read(room, done, to, events, known, if is_all { usize::MAX } else { limit }).await? {
                Again::Nothing => return Ok(None),
                Again::Whole(prepared) => {
                    memory.shrink(prepared.bytes);
                    return Ok(Some((prepared, memory)));
                }
                // Edits have made it longer.
                Again::TooLong(bytes) => limit = bytes,
            }
        }
    }

    /// `limit`: how many bytes are kept. What is longer is only measured.
    async fn read(
        &self,
        room: RoomId,
        done: Offset,
        to: Offset,
        events: &Events,
        known: &Known<'_>,
        limit: usize,
    ) -> Result<Again, StoreError> {
        let (mut publications, mut bytes, mut times) = (Vec::new(), ENVELOPE_BYTES, None);
        let mut from = done;
        while from < to {
            let request = PageRequest {
                from,
                ascending: true,
                up_to: to,
                items_limit: BATCH_LIMIT_PUBLICATIONS,
                bytes_limit: BATCH_LIMIT_BYTES,
            };
            let Some(page) = self.read_page(room, request, known).await? else { break };
            let Some(last) = page.publications.last() else { break };
            from = last.offset;
            for publication in page.publications.into_iter().filter(|publication| events.contain(publication)) {
                let time = publication.time;
                let Some(json) = body::publication(publication) else { continue };
                bytes += json.get().len() + 1;
                times = Some((times.map_or(time, |(first, _)| first), time));
                if bytes <= limit {
                    publications.push(json);
                } else {
                    publications = Vec::new();
                }
            }
        }
        let Some((first_at, last_at)) = times else { return Ok(Again::Nothing) };
        if bytes > limit {
            return Ok(Again::TooLong(bytes));
        }
        Ok(Again::Whole(Prepared { to, publications, bytes, first_at, last_at }))
    }

    /// Makes a batch of what comes after `done`, and decides where some more end if writes are rare. All of them
    /// together skip only so many pages.
    async fn cut(&self, room: RoomId, done: Offset, known: &Known<'_>) -> Result<Result<Cut, Gone>, StoreError> {
        let mut pages = SKIPPED_PAGES_LIMIT;
        let done = self.skipped.end(room, done);
        let Ok(mut cut) = self.cut_one(room, done, known, &mut pages).await? else { return Ok(Err(Gone)) };
        let Some(mut end) = cut.batch.as_ref().map(|batch| batch.to) else { return Ok(Ok(cut)) };
        while cut.next.len() + 1 < self.writer.steps() && pages > 0 {
            let begin = self.skipped.end(room, end);
            if begin >= cut.head {
                break;
            }
            let Ok(after) = self.cut_one(room, begin, known, &mut pages).await? else { return Ok(Err(Gone)) };
            if after.epoch != cut.epoch {
                break;
            }
            cut.head = after.head;
            let Some(batch) = after.batch else {
                self.skipped.note(room, end, after.done);
                break;
            };
            end = batch.to;
            cut.next.push(end);
        }
        Ok(Ok(cut))
    }

    /// Makes a batch of what comes after `done`. `pages`: how many pages may be skipped. It counts them down.
    async fn cut_one(
        &self,
        room: RoomId,
        mut done: Offset,
        known: &Known<'_>,
        pages: &mut usize,
    ) -> Result<Result<Cut, Gone>, StoreError> {
        loop {
            let request = PageRequest {
                from: done,
                ascending: true,
                up_to: Offset::MAX,
                items_limit: BATCH_LIMIT_PUBLICATIONS,
                bytes_limit: BATCH_LIMIT_BYTES,
            };
            let Some(page) = self.read_page(room, request, known).await? else { return Ok(Err(Gone)) };
            let (head, epoch) = (page.head.offset, page.head.epoch.clone());
            let last = page.publications.last().map(|publication| publication.offset);
            let (batch, before) = self.prepare(page.publications);
            if batch.is_some() {
                return Ok(Ok(Cut { done: before.max(done), batch, next: Vec::new(), head, epoch }));
            }
            done = last.unwrap_or(done);
            *pages = pages.saturating_sub(1);
            if !page.more || last.is_none() || *pages == 0 {
                return Ok(Ok(Cut { done, batch: None, next: Vec::new(), head, epoch }));
            }
        }
    }

    /// Takes as many wanted publications as fit into a batch. Returns also the offset before the first one.
    fn prepare(&self, publications: Vec<Publication>) -> (Option<Prepared>, Offset) {
        let (mut batch, mut before): (Option<Prepared>, Offset) = (None, 0);
        for publication in publications {
            let (offset, time) = (publication.offset, publication.time);
            if !self.hook.events.contain(&publication) {
                if let Some(batch) = &mut batch {
                    batch.to = offset;
                }
                continue;
            }
            let Some(json) = body::publication(publication) else { continue };
            let bytes = batch.as_ref().map_or(ENVELOPE_BYTES, |batch| batch.bytes) + json.get().len() + 1;
            match &mut batch {
                None => {
                    before = offset - 1;
                    let publications = vec![json];
                    batch = Some(Prepared { to: offset, publications, bytes, first_at: time, last_at: time });
                }
                Some(_) if bytes > BATCH_LIMIT_BYTES => break,
                Some(batch) => {
                    batch.publications.push(json);
                    (batch.to, batch.bytes, batch.last_at) = (offset, bytes, time);
                }
            }
        }
        (batch, before)
    }

    /// Sends what comes after `done` up to `to`.
    async fn post(
        &self,
        room: &Room,
        done: Offset,
        to: Offset,
        batch: &Batch,
        publications: Vec<Box<RawValue>>,
    ) -> Result<(), Failure> {
        let from = done + 1;
        let id = body::id(&self.hook.name, room.id, &batch.epoch, from, to);
        let body = body::encode(&room.name, &batch.epoch, from, to, batch.begun_at, &publications);
        drop(publications);
        // Receivers compare it with their own clock, as the log does.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let headers = headers(&id, now, &signatures(&self.hook.secrets, &id, now, &body));
        let timeout = Duration::from_millis(self.limits.webhook_timeout_ms);
        let bounds = Bounds { timeout, body_limit_bytes: ANSWER_LIMIT_BYTES };
        let answer = self.client.send(Method::POST, &self.hook.url, headers, body.into(), bounds).await;
        let answer =
            answer.map_err(|failure| Failure { reason: failure.to_string(), retry_after: None, is_gone: false })?;
        if answer.status.is_success() {
            return Ok(());
        }
        Err(refusal(answer.status, &answer.headers, answer.body.as_deref().unwrap_or_default()))
    }
}

/// The page of the log that was asked for, or its beginning. `None`: the memory has nothing of it, or is of another
/// history.
fn page_of(recent: &Recent, request: PageRequest, known: &Known<'_>) -> Option<Page> {
    if recent.epoch != *known.epoch {
        return None;
    }
    let (mut publications, mut bytes) = (Vec::new(), 0);
    for entry in recent.segments.iter().flat_map(|segment| &segment.entries) {
        let Entry::Stored(publication) = entry else { return None };
        // The first segment may begin earlier.
        if publication.offset <= request.from {
            continue;
        }
        let length = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        bytes += length(&publication.body) + length(&publication.meta);
        let is_too_much = bytes > request.bytes_limit || publications.len() == request.items_limit;
        if publication.offset > request.up_to || (is_too_much && !publications.is_empty()) {
            break;
        }
        publications.push(publication.clone());
    }
    let last = publications.last()?;
    // The memory may be a moment behind the database.
    let offset = recent.head.max(known.head);
    let head = Head { epoch: recent.epoch.clone(), offset, number: last.number };
    Some(Page { more: last.offset < offset.min(request.up_to), publications, head })
}

/// Whether a batch that has failed is old enough. That it was stored long ago is not enough: after a pause, or when the
/// receiver is back and overloaded, it may have been tried only once. `last_at`: when its last publication was stored.
fn may_be_given_up(now: UnixMillis, last_at: UnixMillis, begun_at: UnixMillis, limits: &Limits) -> bool {
    let age_limit = limits.webhook_age_limit_ms;
    now.saturating_sub(last_at) >= age_limit
        && now.saturating_sub(begun_at) >= age_limit.min(limits.webhook_pause_limit_ms)
}

fn headers(id: &str, timestamp: u64, signatures: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let all = [("webhook-id", id), ("webhook-timestamp", &timestamp.to_string()), ("webhook-signature", signatures)];
    for (name, value) in all {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    headers
}

fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let said = String::from_utf8_lossy(body);
    let said: String = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let said: String = said.escape_debug().take(SHOWN_LIMIT_CHARACTERS).collect();
    let hint = match status {
        status if status.is_redirection() => "; redirects are not followed, so configure the final URL",
        StatusCode::GONE => "; nothing more is sent until a server starts",
        _ => "",
    };
    let separator = if said.is_empty() { "" } else { ": " };
    let retry_after = headers.get(header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
    Failure {
        reason: format!("it answers {}{hint}{separator}{said}", status.as_u16()),
        retry_after,
        is_gone: status == StatusCode::GONE,
    }
}

/// Seconds, or a date. <https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3>
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    let pause = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    Some(pause.min(RETRY_AFTER_LIMIT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outgoing::Url;
    use crate::readers::run_writer;
    use tokio::sync::watch;
    use uproar_core::Segment;
    use uproar_model::{Item, Kind, User, UserId};
    use uproar_store::memory::SharedMemoryStore;
    use uproar_store::{NewRoom, RoomKind};

    fn item(room: RoomId, user: UserId, n: usize, kind: Kind) -> Item {
        let target = (kind == Kind::Edit).then_some(1);
        Item { room, user, id: n.to_string().into(), kind, target, body: Some("x".into()), meta: None }
    }

    /// A sender that stores 20 batches together, as where writes are rare, and a room with its owner.
    async fn sender() -> (Sender, RoomId, UserId) {
        let store: SharedStore = Arc::new(SharedMemoryStore::default());
        let owner = store.ensure_user("Ann", "ann").await.unwrap().id;
        let new = NewRoom { name: "r".into(), title: String::new(), kind: RoomKind::Public, size: 5, owner };
        let room = store.create_room(new).await.unwrap().id;
        let (writer, moves) = PositionWriter::new();
        let (_, stopped) = watch::channel(false);
        tokio::spawn(run_writer(moves, Arc::clone(&store), Duration::from_secs(1), stopped));
        while writer.steps() < 20 {
            tokio::task::yield_now().await;
        }
        let hook = Hook {
            name: "crm".into(),
            url: Url::parse("http://127.0.0.1:1/").unwrap(),
            secrets: Vec::new(),
            rooms: "*".into(),
            events: Events::parse("message").unwrap(),
        };
        let sender = Sender {
            hook,
            reader: "webhook:crm".into(),
            store,
            chat: None,
            client: Client::new(Vec::new()),
            writer,
            reads: Arc::new(Semaphore::new(1)),
            memory: Memory::new(1 << 20),
            skipped: Skipped::default(),
            is_pause_unrecorded: AtomicBool::new(false),
            limits: Limits::default(),
        };
        (sender, room, owner)
    }

    #[tokio::test]
    async fn a_receiver_that_is_gone_is_left_alone_even_if_another_node_has_moved_the_position() {
        let (sender, id, _) = sender().await;
        sender.store.register_reader(&sender.reader, "*").await.unwrap();
        for is_gone in [false, true] {
            // The position that is stored is 0.
            let position = Position { done: 3, batch: None };
            let room = Room { id, name: "r".into(), head: 9, position };
            let failure = Failure { reason: "no".into(), retry_after: None, is_gone };
            let attempt = Attempt { first_at: 1, last_at: u64::MAX, publications: 1, failure };
            let rest = Batch { to: 5, epoch: Epoch("e".into()), begun_at: 1, note: String::new() };
            let step = sender.refused(room, 4, rest, attempt).await;
            assert!(
                if is_gone { matches!(step, Step::Failed { .. }) } else { matches!(step, Step::Retry) },
                "{step:?}"
            );
            assert_eq!(sender.is_still_paused().await.unwrap(), is_gone);
        }
        sender.store.pause_reader(&sender.reader, 0).await.unwrap();
        assert!(!sender.is_still_paused().await.unwrap(), "a server has started");
    }

    #[tokio::test]
    async fn what_is_not_wanted_is_read_once_and_within_limits() {
        const PAGE: usize = BATCH_LIMIT_PUBLICATIONS;
        let (sender, room, owner) = sender().await;
        // Three messages, with 60 pages of edits after each.
        let pages = SKIPPED_PAGES_LIMIT * 6 / 10;
        let each = 1 + pages * PAGE;
        let items: Vec<_> = (0..3 * each)
            .map(|n| item(room, owner, n, if n % each == 0 { Kind::Message } else { Kind::Edit }))
            .collect();
        sender.store.append(&items).await.unwrap();
        let messages = [1, 1 + each as u64, 1 + 2 * each as u64];
        let known = Known { epoch: &Epoch("e".into()), head: 0 };
        let cut = async |done| match sender.cut(room, done, &known).await.unwrap() {
            Ok(cut) => (cut.batch.map(|batch| batch.to), cut.next, cut.done),
            Err(Gone) => panic!("there is a room"),
        };
        let skipped = || sender.skipped.0.lock().unwrap().get(&room).copied();

        let (first, next, _) = cut(0).await;
        // The batch includes what is not wanted on its page.
        let first = first.unwrap();
        assert!((messages[0]..messages[1]).contains(&first), "{first}");
        assert_eq!(next.len(), 1, "the third message is out of reach: {next:?}");
        let second = next[0];
        assert!((messages[1]..messages[2]).contains(&second), "{second}");
        let (after, to) = skipped().expect("what was read after the second is remembered");
        assert!(after == second && to > second && to < messages[2], "{after} {to}");

        // Nothing between is read again: the rest is within reach now.
        sender.skipped.note(room, second, messages[2] - 1);
        let (third, next, done) = cut(second).await;
        assert!(third.is_some_and(|to| to >= messages[2]) && next.is_empty(), "{third:?} {next:?}");
        assert_eq!(done, messages[2] - 1);
        let (after, to) = skipped().expect("what comes after it is remembered");
        assert_eq!((Some(after), to), (third, 3 * each as u64));
        assert_eq!(cut(after).await, (None, Vec::new(), 3 * each as u64));
    }

    #[test]
    fn memory_has_the_beginning_of_the_page_that_was_asked_for() {
        const ALL: Offset = Offset::MAX;
        let entry = |offset| {
            Entry::Stored(Publication {
                offset,
                number: offset,
                kind: Kind::Message,
                user: User { id: UserId(3), username: "ann".into() },
                id: "x".into(),
                time: 1700,
                target: None,
                body: Some("x".into()),
                edited: None,
                deleted: None,
                meta: Some("{}".into()),
            })
        };
        let segment = |first, last| Arc::new(Segment::new(first, (first..=last).map(entry).collect()));
        let recent = Recent { epoch: Epoch("e".into()), head: 9, segments: vec![segment(3, 5), segment(6, 8)] };
        let page = |epoch: &str, head, from, up_to, items_limit, bytes_limit| {
            let request = PageRequest { from, ascending: true, up_to, items_limit, bytes_limit };
            let page = page_of(&recent, request, &Known { epoch: &Epoch(epoch.into()), head })?;
            let offsets: Vec<_> = page.publications.iter().map(|publication| publication.offset).collect();
            Some((offsets, page.more, page.head.offset))
        };
        assert_eq!(page("e", 7, 4, ALL, 99, 99), Some((vec![5, 6, 7, 8], true, 9)), "the memory's head is known");
        assert_eq!(page("e", 12, 5, ALL, 99, 99), Some((vec![6, 7, 8], true, 12)), "the database has more");
        assert_eq!(page("e", 7, 4, 7, 99, 99), Some((vec![5, 6, 7], false, 9)));
        assert_eq!(page("e", 7, 4, 9, 99, 99), Some((vec![5, 6, 7, 8], true, 9)), "one is not in memory");
        assert_eq!(page("e", 7, 4, ALL, 2, 99), Some((vec![5, 6], true, 9)));
        assert_eq!(page("e", 7, 4, ALL, 99, 8), Some((vec![5, 6], true, 9)));
        assert_eq!(page("e", 7, 4, ALL, 99, 0), Some((vec![5], true, 9)), "one fits always");
        assert_eq!(page("e", 7, 8, ALL, 99, 99), None);
        assert_eq!(page("other", 7, 4, ALL, 99, 99), None, "it is another history");
    }

    #[test]
    fn a_receiver_says_when_it_can_be_asked_again() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("99999999"), Some(RETRY_AFTER_LIMIT));
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(retry_after(&later).is_some_and(|pause| (90..=100).contains(&pause.as_secs())));
        for value in ["", "soon", "-1"] {
            assert_eq!(retry_after(value), None, "{value}");
        }
    }

    #[test]
    fn what_is_old_is_tried_for_a_while_before_it_is_given_up() {
        const HOUR: u64 = 3_600_000;
        let (limits, now) = (Limits::default(), 1000 * HOUR);
        let after = |stored: u64, begun: u64| may_be_given_up(now, now - stored * HOUR, now - begun * HOUR, &limits);
        assert!(after(7 * 24, 1) && after(7 * 24, 7 * 24));
        assert!(!after(7 * 24, 0), "this was its first attempt");
        assert!(!after(7 * 24 - 1, 7 * 24 - 1));
    }

    #[test]
    fn what_a_receiver_answers_is_shown_in_one_short_line() {
        let answer = |status: u16, body: &str| {
            refusal(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
        };
        assert_eq!(answer(500, "").reason, "it answers 500");
        assert_eq!(answer(500, "no\n\u{1b}[31m").reason, "it answers 500: no \\u{1b}[31m");
        assert!(answer(400, &"x".repeat(9999)).reason.len() < 300);
        assert!(answer(302, "").reason.contains("redirects are not followed"));
        let gone = answer(410, "");
        assert!(gone.is_gone && gone.reason.contains("nothing more is sent"));
    }

    #[test]
    fn the_headers_are_those_of_standard_webhooks() {
        let headers = headers("crm.1.ab.1.1.2", 1700, "v1,abc");
        assert_eq!(headers["webhook-id"], "crm.1.ab.1.1.2");
        assert_eq!(headers["webhook-timestamp"], "1700");
        assert_eq!(headers["webhook-signature"], "v1,abc");
        assert_eq!(headers["content-type"], "application/json");
    }
}
