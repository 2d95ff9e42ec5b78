//! The commit path: one call of the function `append`, one round trip. `migrations/postgres` has the judgement.

use super::guard::State;
use super::{Postgres, prepare};
use crate::AppendError;
use crate::check;
use crate::error::one_line;
use crate::history::offset_arg;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use uproar_model::{Item, Outcome, Refusal, Stored};

const APPEND: &str = "SELECT item, outcome, at_offset, at_number, at_ms FROM append($1, $2, $3, $4, $5, $6)";

/// The connections that commit batches. One that was given up on, or that failed, is never used again: what it is doing
/// is not known.
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
            // Whatever it says, it is closed.
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
}

impl Postgres {
    pub async fn append(&self, batch: &[Item]) -> Result<Vec<Outcome>, AppendError> {
        let unknown = |text: &str| AppendError::Unknown(text.to_owned());
        match timeout(self.lanes.acquire_timeout, self.guard.certain()).await {
            Ok(State::Held) => {}
            Ok(State::Taken) => {
                return Err(AppendError::Broken("another uproar has taken the database".to_owned()));
            }
            Ok(State::Lost) | Err(_) => return Err(unknown("the guard connection is lost")),
        }
        let permit = timeout(self.lanes.acquire_timeout, self.lanes.permits.acquire()).await;
        let _permit = match permit {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(unknown("the store is closed")),
            Err(_) => return Err(unknown("all lanes are busy")),
        };
        let outcomes = match self.lanes.connection().await {
            Ok(mut connection) => {
                let outcomes = append(&mut connection, batch).await;
                // Outside of BEGIN an error that the database reports leaves nothing behind, unless it ended the session.
                if outcomes.is_ok() || outcomes.as_ref().is_err_and(is_answer) {
                    self.lanes.free().push(connection);
                }
                outcomes
            }
            Err(error) => Err(error),
        };
        outcomes.map_err(|error| {
            if !is_answer(&error) {
                // The others are likely to be gone as well.
                self.lanes.free().clear();
                self.guard.doubt();
            }
            failure(&error)
        })
    }
}

/// Whether the database answered, if with an error, and goes on with this session. Class 57: it shuts down, or someone
/// intervened; class 08: the connection.
fn is_answer(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "57014" || !(code.starts_with("57") || code.starts_with("08")))
}

/// What an error means for the batch. <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn failure(error: &sqlx::Error) -> AppendError {
    let text = one_line(error);
    let code = error.as_database_error().and_then(|error| error.code());
    match code.as_deref().and_then(|code| code.get(..2)) {
        Some("22" | "23" | "54") => AppendError::Data(text),
        _ => AppendError::Unknown(text),
    }
}

/// The item's number from 1, its outcome, and where it is: offset, number, time.
type AnswerRow = (i64, String, Option<i64>, Option<i64>, Option<i64>);

async fn append(connection: &mut PgConnection, batch: &[Item]) -> Result<Vec<Outcome>, sqlx::Error> {
    let mut outcomes: Vec<_> = batch.iter().map(|item| check::refusal(item).map(Outcome::Refused)).collect();
    let asked: Vec<_> = (0..batch.len()).filter(|&index| outcomes[index].is_none()).collect();
    let items = || asked.iter().map(|&index| &batch[index]);
    let rows = sqlx::query_as::<_, AnswerRow>(APPEND)
        .bind(items().map(|item| item.room.0).collect::<Vec<_>>())
        .bind(items().map(|item| item.user.0).collect::<Vec<_>>())
        .bind(items().map(|item| &*item.id).collect::<Vec<_>>())
        .bind(items().map(|item| item.kind as i16).collect::<Vec<_>>())
        .bind(items().map(|item| item.target.map(offset_arg)).collect::<Vec<_>>())
        .bind(items().map(|item| item.body.as_deref()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let strange = || sqlx::Error::Protocol("append() answered what was not asked".to_owned());
    for (item, outcome, offset, number, at) in rows {
        // Counted from 1, as SQL does.
        let index = usize::try_from(item - 1).ok().and_then(|n| asked.get(n)).ok_or_else(strange)?;
        let stored = || {
            let (offset, number, time) = (offset?.unsigned_abs(), number?.unsigned_abs(), at?.unsigned_abs());
            Some(Stored { offset, number, time })
        };
        let outcome = match outcome.as_str() {
            "new" => Outcome::New(stored().ok_or_else(strange)?),
            "again" => Outcome::Duplicate(stored().ok_or_else(strange)?),
            "no_room" => Outcome::Refused(Refusal::NoRoom),
            "not_member" => Outcome::Refused(Refusal::NotMember),
            "not_yours" => Outcome::Refused(Refusal::NotYours),
            "no_target" => Outcome::Refused(Refusal::NoTarget),
            "id_reused" => Outcome::Refused(Refusal::IdReused),
            _ => return Err(strange()),
        };
        outcomes[*index] = Some(outcome);
    }
    outcomes.into_iter().map(|outcome| outcome.ok_or_else(strange)).collect()
}
