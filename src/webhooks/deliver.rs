//! One step of a webhook in one room: at most one POST.
//!
//! The order of events makes it safe to be killed at any moment. The range of a batch is stored before its first POST,
//! so that each attempt to deliver it has the same id and the same publications. The position moves after the receiver
//! has accepted it.

use super::body::{self, ENVELOPE_BYTES};
use super::secret::signatures;
use super::settings::{Hook, matches_pattern};
use crate::outgoing::{Bounds, Client};
use crate::readers::{PositionWriter, Seen};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;
use uproar_core::limits::Limits;
use uproar_model::{Epoch, Offset, Page, PageRequest, Publication, RoomId, UnixMillis};
use uproar_store::{Batch, Move, Position, Progress, SharedStore, StoreError};

/// Publications in one batch, and about how long its body may be. (An edit can make it longer later. A single message
/// always fits into a batch.)
const BATCH_LIMIT_PUBLICATIONS: usize = 100;
const BATCH_LIMIT_BYTES: usize = 256 * 1024;
/// Pages of publications that the receiver does not want, which one step skips.
const SKIPPED_PAGES_LIMIT: usize = 100;
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
    pub client: Client,
    pub writer: PositionWriter,
    /// Reads of all webhooks that may be under way: they come in the store's turn of the server itself.
    pub reads: Arc<Semaphore>,
    pub limits: Limits,
}

/// What a step has done.
#[derive(Debug)]
pub enum Step {
    /// The hook has everything of this room, or the room is gone.
    Finished { delivered: u64, posted: bool },
    /// There is more to do.
    Continue { delivered: u64, posted: bool, seen: Seen },
    /// The room is not one of the hook's.
    NotMine,
    /// The receiver did not take the batch. It will be sent again.
    Failed { seen: Seen, room: String, failure: Failure },
    /// The receiver did not take the batch for so long that it will not be sent again.
    GivenUp { seen: Seen, room: String, failure: Failure, from: Offset, to: Offset, publications: u64 },
    /// The store has failed, or another node has moved the position.
    Retry,
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
    head: Offset,
    epoch: Epoch,
}

struct Prepared {
    to: Offset,
    publications: Vec<Box<RawValue>>,
    first_at: UnixMillis,
    last_at: UnixMillis,
}

/// The room is gone.
struct Gone;

impl Sender {
    /// Delivers the next batch of a room, if there is one.
    pub async fn step(&self, room: RoomId) -> Step {
        match self.try_step(room).await {
            Ok(step) => step,
            Err(error) => {
                error.log("a webhook can't read what it has to send; will retry");
                Step::Retry
            }
        }
    }

    async fn try_step(&self, room: RoomId) -> Result<Step, StoreError> {
        let finished = Step::Finished { delivered: 0, posted: false };
        let Some(progress) = self.progress(room).await? else { return Ok(finished) };
        if !matches_pattern(&self.hook.rooms, &progress.name) {
            return Ok(Step::NotMine);
        }
        let Progress { name, epoch, head, mut position } = progress;
        if position.done > head {
            // Only somebody who has changed the database can have done that.
            tracing::warn!(webhook = self.hook.name, room = name, "continues at the room's head, which has gone back");
            let is_moved = self.go(room, &position, Position { done: head, batch: None }).await;
            return Ok(if is_moved { finished } else { Step::Retry });
        }
        let stored = position.batch.clone().filter(|batch| batch.epoch == epoch && batch.to <= head);
        let prepared = match &stored {
            Some(batch) => self.read(room, position.done, batch.to).await?,
            None => None,
        };
        let (batch, prepared) = match (stored, prepared) {
            (Some(batch), Some(prepared)) => (batch, prepared),
            // Nothing of it is wanted any more: the hook was configured differently.
            (Some(batch), None) => {
                let done = Position { done: batch.to, batch: None };
                let seen = Seen { done: batch.to, head, since: 0 };
                let is_moved = self.go(room, &position, done).await;
                return Ok(if is_moved { Step::Continue { delivered: 0, posted: false, seen } } else { Step::Retry });
            }
            (None, _) => {
                let Ok(cut) = self.cut(room, position.done).await? else { return Ok(finished) };
                let next = self.position_of(&cut);
                if next != position && !self.go(room, &position, next.clone()).await {
                    return Ok(Step::Retry);
                }
                let seen = Seen { done: cut.done, head: cut.head, since: 0 };
                let (Some(batch), Some(prepared)) = (next.batch.clone(), cut.batch) else {
                    let is_finished = cut.done >= cut.head;
                    return Ok(if is_finished {
                        finished
                    } else {
                        Step::Continue { delivered: 0, posted: false, seen }
                    });
                };
                position = next;
                (batch, prepared)
            }
        };
        let posted = self.post(room, &name, position.done, &batch, &prepared.publications).await;
        let publications = prepared.publications.len() as u64;
        match posted {
            Ok(()) => self.accepted(room, &position, batch.to, publications).await,
            Err(failure) => Ok(self.refused(room, name, position, batch.to, head, &prepared, failure).await),
        }
    }

    /// The receiver has the batch that ends here.
    async fn accepted(
        &self,
        room: RoomId,
        position: &Position,
        to: Offset,
        delivered: u64,
    ) -> Result<Step, StoreError> {
        // The next batch is stored together with the end of this one, unless it can't be read now.
        let cut = match self.cut(room, to).await {
            Ok(Ok(cut)) => cut,
            Ok(Err(Gone)) => return Ok(Step::Finished { delivered, posted: true }),
            Err(error) => {
                error.log("a webhook can't read what it has to send next; will retry");
                let seen = Seen { done: to, head: to + 1, since: 0 };
                self.go(room, position, Position { done: to, batch: None }).await;
                return Ok(Step::Continue { delivered, posted: true, seen });
            }
        };
        // If another node has moved the position, it has delivered the batch, too.
        self.go(room, position, self.position_of(&cut)).await;
        if cut.done >= cut.head {
            return Ok(Step::Finished { delivered, posted: true });
        }
        let since = cut.batch.map_or(0, |batch| batch.first_at);
        Ok(Step::Continue { delivered, posted: true, seen: Seen { done: cut.done, head: cut.head, since } })
    }

    #[expect(clippy::too_many_arguments, reason = "everything that is known about one attempt")]
    async fn refused(
        &self,
        room: RoomId,
        name: String,
        position: Position,
        to: Offset,
        head: Offset,
        prepared: &Prepared,
        failure: Failure,
    ) -> Step {
        let begun_at = position.batch.as_ref().map_or(0, |batch| batch.begun_at);
        let seen = Seen { done: position.done, head, since: prepared.first_at };
        let now = self.store.clock().unix_ms();
        if failure.is_gone || !may_be_given_up(now, prepared.last_at, begun_at, &self.limits) {
            return Step::Failed { seen, room: name, failure };
        }
        let from = position.done + 1;
        if !self.go(room, &position, Position { done: to, batch: None }).await {
            return Step::Retry;
        }
        let publications = prepared.publications.len() as u64;
        let seen = Seen { done: to, head, since: 0 };
        Step::GivenUp { seen, room: name, failure, from, to, publications }
    }

    async fn progress(&self, room: RoomId) -> Result<Option<Progress>, StoreError> {
        let _place = self.reads.acquire().await;
        self.store.progress(&self.reader, room).await
    }

    async fn read_log(&self, room: RoomId, request: PageRequest) -> Result<Option<Page>, StoreError> {
        let _place = self.reads.acquire().await;
        self.store.read_log(room, request).await
    }

    async fn go(&self, room: RoomId, from: &Position, to: Position) -> bool {
        self.writer.write(Move { reader: Arc::clone(&self.reader), room, from: from.clone(), to }).await
    }

    fn position_of(&self, cut: &Cut) -> Position {
        let begun_at = self.store.clock().unix_ms();
        let batch = |prepared: &Prepared| Batch { to: prepared.to, epoch: cut.epoch.clone(), begun_at };
        Position { done: cut.done, batch: cut.batch.as_ref().map(batch) }
    }

    /// The publications of a batch that was begun earlier. `None`: the hook wants none of them.
    async fn read(&self, room: RoomId, done: Offset, to: Offset) -> Result<Option<Prepared>, StoreError> {
        let mut wanted: Vec<Publication> = Vec::new();
        let mut from = done;
        // Usually one page. A batch that an earlier release has begun might be larger.
        while from < to {
            let request = PageRequest {
                from,
                ascending: true,
                up_to: to,
                items_limit: BATCH_LIMIT_PUBLICATIONS,
                bytes_limit: usize::MAX,
            };
            let page = self.read_log(room, request).await?;
            let Some(last) = page.as_ref().and_then(|page| page.publications.last()) else { break };
            from = last.offset;
            let publications = page.into_iter().flat_map(|page| page.publications);
            wanted.extend(publications.filter(|publication| self.hook.events.contain(publication)));
        }
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { return Ok(None) };
        let (first_at, last_at) = (first.time, last.time);
        let publications = wanted.into_iter().filter_map(body::publication).collect();
        Ok(Some(Prepared { to, publications, first_at, last_at }))
    }

    /// Makes a batch of what comes after `done`.
    async fn cut(&self, room: RoomId, mut done: Offset) -> Result<Result<Cut, Gone>, StoreError> {
        let mut skipped_pages = 0;
        loop {
            let request = PageRequest {
                from: done,
                ascending: true,
                up_to: Offset::MAX,
                items_limit: BATCH_LIMIT_PUBLICATIONS,
                bytes_limit: BATCH_LIMIT_BYTES,
            };
            let Some(page) = self.read_log(room, request).await? else { return Ok(Err(Gone)) };
            let (head, epoch) = (page.head.offset, page.head.epoch.clone());
            let last = page.publications.last().map(|publication| publication.offset);
            let (batch, before) = self.prepare(page.publications);
            if batch.is_some() {
                return Ok(Ok(Cut { done: before.max(done), batch, head, epoch }));
            }
            done = last.unwrap_or(done);
            skipped_pages += 1;
            if !page.more || last.is_none() || skipped_pages == SKIPPED_PAGES_LIMIT {
                return Ok(Ok(Cut { done, batch: None, head, epoch }));
            }
        }
    }

    /// Takes as many wanted publications as fit into a batch. Returns also the offset before the first one.
    fn prepare(&self, publications: Vec<Publication>) -> (Option<Prepared>, Offset) {
        let (mut batch, mut before, mut bytes): (Option<Prepared>, Offset, usize) = (None, 0, ENVELOPE_BYTES);
        for publication in publications {
            let (offset, time) = (publication.offset, publication.time);
            if !self.hook.events.contain(&publication) {
                if let Some(batch) = &mut batch {
                    batch.to = offset;
                }
                continue;
            }
            let Some(json) = body::publication(publication) else { continue };
            bytes += json.get().len() + 1;
            match &mut batch {
                None => {
                    before = offset - 1;
                    batch = Some(Prepared { to: offset, publications: vec![json], first_at: time, last_at: time });
                }
                Some(_) if bytes > BATCH_LIMIT_BYTES => break,
                Some(batch) => {
                    batch.publications.push(json);
                    (batch.to, batch.last_at) = (offset, time);
                }
            }
        }
        (batch, before)
    }

    async fn post(
        &self,
        room: RoomId,
        name: &str,
        done: Offset,
        batch: &Batch,
        publications: &[Box<RawValue>],
    ) -> Result<(), Failure> {
        let from = done + 1;
        let id = body::id(&self.hook.name, room, &batch.epoch, from, batch.to);
        let body = body::encode(name, &batch.epoch, from, batch.to, batch.begun_at, publications);
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
        StatusCode::GONE => "; nothing more is sent until the server is started again",
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
