//! Which node works as a reader of the log, and which one empties the outbox: the one that has a session lock.

use super::sessions::{Lent, Sessions};
use sqlx::{Connection, Row};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// What only one node does at a time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Reading,
    Outbox,
}

impl Work {
    /// The key of the lock.
    fn key(self) -> i64 {
        match self {
            // "uproal" in ASCII.
            Work::Reading => 0x7570_726f_616c,
            // "uproao" in ASCII.
            Work::Outbox => 0x7570_726f_616f,
        }
    }
}

/// How often the session is tested, and how long that may take.
const INTERVAL: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// This process is the one that works as a reader of the log, or the one that empties the outbox, until this is
/// dropped. A process that was stopped for a while may learn only later that another one has taken over: positions are
/// moved only from where they are, so then its own moves fail. Rows of the outbox may then be tried twice.
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
    pub(super) async fn take(sessions: &Arc<Sessions>, work: Work) -> Result<Option<Lead>, sqlx::Error> {
        let mut session = sessions.acquire().await?;
        // The lock ends with it.
        session.close_on_drop();
        let row = sqlx::query("SELECT pg_try_advisory_lock($1)").bind(work.key()).fetch_one(&mut *session).await?;
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
