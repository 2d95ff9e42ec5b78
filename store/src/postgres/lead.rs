//! Which node works as a reader of the log: the one that has a session lock.

use super::sessions::{Lent, Sessions};
use sqlx::{Connection, Row};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// "uproal" in ASCII.
const KEY: i64 = 0x7570_726f_616c;
/// How often the session is tested, and how long that may take.
const INTERVAL: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// This process is the one that works as a reader of the log, until this is dropped. A process that was stopped for a
/// while may learn only later that another one has taken over: positions are moved only from where they are, so then
/// its own moves fail.
pub struct Lead {
    /// `None`: there are no other nodes.
    session: Option<Lent>,
}

impl Lead {
    /// For a database that only one process uses.
    pub(crate) fn alone() -> Lead {
        Lead { session: None }
    }

    /// Tries to take the lock.
    pub(super) async fn take(sessions: &Arc<Sessions>) -> Result<Option<Lead>, sqlx::Error> {
        let mut session = sessions.acquire().await?;
        // The lock ends with it.
        session.close_on_drop();
        let row = sqlx::query("SELECT pg_try_advisory_lock($1)").bind(KEY).fetch_one(&mut *session).await?;
        if row.try_get::<bool, _>(0)? {
            return Ok(Some(Lead { session: Some(session) }));
        }
        // Nodes that wait ask every second, and a new session for each question would cost the server much.
        session.keep();
        Ok(None)
    }

    /// Returns when the lock is lost, or may be.
    pub async fn lost(&mut self) {
        let Some(session) = &mut self.session else { return std::future::pending().await };
        loop {
            sleep(INTERVAL).await;
            if !matches!(timeout(ANSWER_TIMEOUT, session.ping()).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}
