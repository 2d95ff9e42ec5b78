//! How a running server notices that the database has lost something: after each new connection of the guard it looks
//! for what it knows to be committed. A standby that has taken over has all commits up to some moment and none after
//! it, so the last ones bear witness for all.

use super::guard::Mode;
use crate::connection::offset_arg;
use crate::error::StoreError;
use crate::generation::random_word;
use sqlx::postgres::PgConnection;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use uproar_model::{Item, Offset, Outcome, RoomId, UnixMillis};

pub(super) struct Witnesses {
    /// A random word that this start has written into the database.
    mark: String,
    /// Commits that happen at the same time are not acknowledged in the order in which they happened, so there is one
    /// witness for each of them.
    count: usize,
    /// Where and when a publication was stored.
    last: Mutex<VecDeque<(RoomId, Offset, UnixMillis)>>,
}

impl Witnesses {
    /// `count`: how many commits can happen at the same time.
    pub fn new(count: usize) -> Result<Witnesses, StoreError> {
        Ok(Witnesses { mark: random_word()?, count, last: Mutex::default() })
    }

    /// The name by which the sessions of this process are recognized.
    pub fn application(&self) -> String {
        format!("uproar {}", self.mark)
    }

    /// Writes the mark.
    pub async fn mark(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO meta (name, value) VALUES ('mark', $1)
            ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        sqlx::query(sql).bind(&self.mark).execute(connection).await?;
        Ok(())
    }

    /// A batch was committed.
    pub fn add_batch(&self, batch: &[Item], outcomes: &[Outcome]) {
        let stored = batch.iter().zip(outcomes).rev().find_map(|(item, outcome)| match outcome {
            Outcome::New(stored) => Some((item.room, stored.offset, stored.time)),
            Outcome::Duplicate(_) | Outcome::Refused(_) => None,
        });
        if let Some((room, offset, time)) = stored {
            self.add(room, offset, time);
        }
    }

    /// A publication was committed.
    pub fn add(&self, room: RoomId, offset: Offset, time: UnixMillis) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.push_back((room, offset, time));
        if last.len() > self.count {
            last.pop_front();
        }
    }

    /// The history that they are from is given up.
    pub fn forget(&self) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether all witnesses are in the database, and the mark, which only a process that is alone writes.
    pub async fn are_present(&self, connection: &mut PgConnection, mode: Mode) -> Result<bool, sqlx::Error> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // A room without a head was deleted.
        let sql = "SELECT ($5 OR coalesce((SELECT value = $1 FROM meta WHERE name = 'mark'), false)) AND NOT EXISTS
            (SELECT 1 FROM unnest($2, $3, $4) AS w(room_id, room_offset, created_at) JOIN heads h USING (room_id)
              WHERE h.last_offset < w.room_offset OR EXISTS
                (SELECT 1 FROM messages m WHERE m.room_id = w.room_id AND m.room_offset = w.room_offset
                  AND m.created_at <> w.created_at))";
        sqlx::query_scalar(sql)
            .bind(&self.mark)
            .bind(last.iter().map(|(room, _, _)| room.0).collect::<Vec<_>>())
            .bind(last.iter().map(|(_, offset, _)| offset_arg(*offset)).collect::<Vec<_>>())
            .bind(last.iter().map(|(_, _, time)| offset_arg(*time)).collect::<Vec<_>>())
            .bind(mode == Mode::Node)
            .fetch_one(connection)
            .await
    }
}
