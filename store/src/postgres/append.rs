//! The commit path: each batch is one call of the SQL function `append`, in one round trip. The function, which decides
//! about each item, is in `migrations/postgres`.

use super::failures::{code, keeps_session, trouble};
use super::guard::{Guard, State};
use super::sessions::Sessions;
use crate::check;
use crate::connection::offset_arg;
use crate::error::{AppendError, one_line};
use sqlx::postgres::PgConnection;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use uproar_model::{Clock, Item, Outcome, Refusal, Stored, UnixMillis};

const APPEND: &str = "SELECT item, outcome, at_offset, at_number, at_ms FROM append($1, $2, $3, $4, $5, $6, $7, $8)";

/// How long after it was sent an attempt can still store something, by the database's clock. A client that gets no
/// answer from this process may ask another one, which must not be overtaken much later by what got stuck here.
const VALID_MS: u64 = 30_000;

/// The sessions that commit batches, while the guard holds its lock.
pub(super) struct Lanes {
    pub sessions: Arc<Sessions>,
    pub guard: Arc<Guard>,
    pub clock: Clock,
    /// How long a batch waits for the guard.
    pub acquire_timeout: Duration,
}

impl Lanes {
    pub async fn append(&self, batch: &[Item]) -> Result<Vec<Outcome>, AppendError> {
        match timeout(self.acquire_timeout, self.guard.settled()).await {
            Ok(State::Held) => {}
            Ok(State::Ended(reason)) => return Err(AppendError::Ended(reason.to_string())),
            Ok(State::Lost) | Err(_) => {
                return Err(AppendError::OutcomeUnknown("the lock on the database is not held".to_owned()));
            }
        }
        let committed = async {
            let mut session = self.sessions.acquire().await?;
            // Unless there is an answer: the statement may go on after it is given up.
            session.close_on_drop();
            let outcomes = append(&mut session, batch, self.clock.unix_ms() + VALID_MS).await;
            // The batch is one statement without BEGIN, so an error that the database reports leaves nothing behind.
            if outcomes.as_ref().map_or_else(keeps_session, |_| true) {
                session.keep();
            }
            outcomes
        };
        let outcomes = tokio::select! {
            outcomes = committed => outcomes,
            () = self.guard.silent() => Err(trouble("the database has fallen silent")),
        };
        match outcomes {
            Ok(outcomes) => {
                self.guard.witnesses.add_batch(batch, &outcomes);
                Ok(outcomes)
            }
            Err(error) => {
                if !keeps_session(&error) {
                    // The others have probably come to the same end.
                    self.sessions.close_free();
                    self.guard.doubt();
                }
                Err(failure(&error))
            }
        }
    }
}

/// What an error means for the batch. <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn failure(error: &sqlx::Error) -> AppendError {
    let text = one_line(error);
    match code(error).as_deref().and_then(|code| code.get(..2)) {
        Some("22" | "23" | "54") => AppendError::DataRejected(text),
        _ => AppendError::OutcomeUnknown(text),
    }
}

/// The item's position in the batch, from 1; its outcome; the offset, number and time at which it is stored. For
/// 'silenced' the time is that until which it lasts, and for 'slow_mode' the wait in milliseconds.
type AnswerRow = (i64, String, Option<i64>, Option<i64>, Option<i64>);

/// One attempt, which is void after the time `void_ms` of the database. Then it ends with SQLSTATE UP001.
async fn append(
    connection: &mut PgConnection,
    batch: &[Item],
    void_ms: UnixMillis,
) -> Result<Vec<Outcome>, sqlx::Error> {
    let mut outcomes: Vec<_> = batch.iter().map(|item| check::refusal(item).map(Outcome::Refused)).collect();
    let sent: Vec<_> = (0..batch.len()).filter(|&index| outcomes[index].is_none()).collect();
    let items = || sent.iter().map(|&index| &batch[index]);
    // Most batches have none, and then the function does without.
    let has_meta = items().any(|item| item.meta.is_some());
    let metas = has_meta.then(|| items().map(|item| item.meta.as_deref()).collect::<Vec<_>>());
    let rows = sqlx::query_as::<_, AnswerRow>(APPEND)
        .bind(items().map(|item| item.room.0).collect::<Vec<_>>())
        .bind(items().map(|item| item.user.0).collect::<Vec<_>>())
        .bind(items().map(|item| &*item.id).collect::<Vec<_>>())
        .bind(items().map(|item| item.kind as i16).collect::<Vec<_>>())
        .bind(items().map(|item| item.target.map(offset_arg)).collect::<Vec<_>>())
        .bind(items().map(|item| item.body.as_deref()).collect::<Vec<_>>())
        .bind(offset_arg(void_ms))
        .bind(metas)
        .fetch_all(connection)
        .await?;
    let unexpected = || sqlx::Error::Protocol("append() returned an unexpected row".to_owned());
    for (position, outcome, offset, number, at) in rows {
        let index = usize::try_from(position - 1).ok().and_then(|n| sent.get(n)).ok_or_else(unexpected)?;
        let stored = || {
            let (offset, number, time) = (offset?.unsigned_abs(), number?.unsigned_abs(), at?.unsigned_abs());
            Some(Stored { offset, number, time })
        };
        let outcome = match outcome.as_str() {
            "new" => Outcome::New(stored().ok_or_else(unexpected)?),
            "again" => Outcome::Duplicate(stored().ok_or_else(unexpected)?),
            "no_room" => Outcome::Refused(Refusal::NoRoom),
            "not_member" => Outcome::Refused(Refusal::NotMember),
            "not_yours" => Outcome::Refused(Refusal::NotYours),
            "no_target" => Outcome::Refused(Refusal::NoTarget),
            "silenced" => {
                let until = at.ok_or_else(unexpected)?.unsigned_abs();
                Outcome::Refused(Refusal::Silenced { until })
            }
            "moderators_only" => Outcome::Refused(Refusal::ModeratorsOnly),
            "nobody_posts" => Outcome::Refused(Refusal::NobodyPosts),
            "slow_mode" => {
                let wait_ms = at.ok_or_else(unexpected)?.unsigned_abs();
                Outcome::Refused(Refusal::SlowMode { wait_ms })
            }
            "too_many" => Outcome::Refused(Refusal::TooManyReactions),
            "id_reused" => Outcome::Refused(Refusal::IdReused),
            // The function in the database may be that of a newer release.
            _ => Outcome::Refused(Refusal::Unknown),
        };
        outcomes[*index] = Some(outcome);
    }
    outcomes.into_iter().map(|outcome| outcome.ok_or_else(unexpected)).collect()
}
