//! The commit path: each batch is one call of the SQL function `append`, in one round trip. The function, which decides
//! about each item, is in `migrations/postgres`.

use super::guard::{Guard, State};
use super::setup::prepare;
use crate::check;
use crate::connection::offset_arg;
use crate::error::{AppendError, one_line};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use uproar_model::{Item, Outcome, Refusal, Stored};

const APPEND: &str = "SELECT item, outcome, at_offset, at_number, at_ms FROM append($1, $2, $3, $4, $5, $6)";

/// The connections that commit batches. A connection that failed, or whose batch was abandoned, is never used again,
/// because its state is unknown.
pub(super) struct Lanes {
    options: PgConnectOptions,
    count: usize,
    acquire_timeout: Duration,
    permits: Semaphore,
    free: Mutex<Vec<PgConnection>>,
}

impl Lanes {
    pub fn new(options: PgConnectOptions, count: usize, acquire_timeout: Duration) -> Lanes {
        Lanes { options, count, acquire_timeout, permits: Semaphore::new(count), free: Mutex::new(Vec::new()) }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub async fn close(&self) {
        self.permits.close();
        let connections = std::mem::take(&mut *self.free());
        for connection in connections {
            // After an error it is closed as well.
            let _ = connection.close().await;
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<PgConnection>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(&self) -> Result<PgConnection, sqlx::Error> {
        if let Some(connection) = self.free().pop() {
            return Ok(connection);
        }
        let mut connection = self.options.connect().await?;
        prepare(&mut connection).await?;
        Ok(connection)
    }

    pub async fn append(&self, guard: &Guard, batch: &[Item]) -> Result<Vec<Outcome>, AppendError> {
        let unknown = |text: &str| AppendError::OutcomeUnknown(text.to_owned());
        match timeout(self.acquire_timeout, guard.settled()).await {
            Ok(State::Held) => {}
            Ok(State::TakenOver) => {
                return Err(AppendError::Fatal("another uproar has taken over the database".to_owned()));
            }
            Ok(State::Lost) | Err(_) => return Err(unknown("the guard connection is lost")),
        }
        let _permit = match timeout(self.acquire_timeout, self.permits.acquire()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(unknown("the store is closed")),
            Err(_) => return Err(unknown("all lanes are busy")),
        };
        let outcomes = match self.connection().await {
            Ok(mut connection) => {
                let outcomes = append(&mut connection, batch).await;
                // The batch is one statement without BEGIN, so an error that the database reports leaves nothing
                // behind, unless it ended the session.
                if outcomes.is_ok() || outcomes.as_ref().is_err_and(is_answer) {
                    self.free().push(connection);
                }
                outcomes
            }
            Err(error) => Err(error),
        };
        outcomes.map_err(|error| {
            if !is_answer(&error) {
                // The other connections are probably lost too.
                self.free().clear();
                guard.doubt();
            }
            failure(&error)
        })
    }
}

/// Whether the database answered, with an error, and the session lives on. Errors of class 57 mean that an operator
/// intervened, such as a shutdown; those of class 08, that the connection failed. 57014 only cancels a statement.
fn is_answer(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "57014" || !(code.starts_with("57") || code.starts_with("08")))
}

/// What an error means for the batch. <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn failure(error: &sqlx::Error) -> AppendError {
    let text = one_line(error);
    let code = error.as_database_error().and_then(|error| error.code());
    match code.as_deref().and_then(|code| code.get(..2)) {
        Some("22" | "23" | "54") => AppendError::DataRejected(text),
        _ => AppendError::OutcomeUnknown(text),
    }
}

/// The item's position in the batch, from 1; its outcome; the offset, number and time at which it is stored.
type AnswerRow = (i64, String, Option<i64>, Option<i64>, Option<i64>);

async fn append(connection: &mut PgConnection, batch: &[Item]) -> Result<Vec<Outcome>, sqlx::Error> {
    let mut outcomes: Vec<_> = batch.iter().map(|item| check::refusal(item).map(Outcome::Refused)).collect();
    let sent: Vec<_> = (0..batch.len()).filter(|&index| outcomes[index].is_none()).collect();
    let items = || sent.iter().map(|&index| &batch[index]);
    let rows = sqlx::query_as::<_, AnswerRow>(APPEND)
        .bind(items().map(|item| item.room.0).collect::<Vec<_>>())
        .bind(items().map(|item| item.user.0).collect::<Vec<_>>())
        .bind(items().map(|item| &*item.id).collect::<Vec<_>>())
        .bind(items().map(|item| item.kind as i16).collect::<Vec<_>>())
        .bind(items().map(|item| item.target.map(offset_arg)).collect::<Vec<_>>())
        .bind(items().map(|item| item.body.as_deref()).collect::<Vec<_>>())
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
            "id_reused" => Outcome::Refused(Refusal::IdReused),
            _ => return Err(unexpected()),
        };
        outcomes[*index] = Some(outcome);
    }
    outcomes.into_iter().map(|outcome| outcome.ok_or_else(unexpected)).collect()
}
