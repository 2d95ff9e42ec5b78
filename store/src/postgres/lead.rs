//! Which node works as a reader of the log, and which one empties the outbox: the one that has a session lock.

use super::sessions::{Lent, Sessions};
use sqlx::Row;
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

    /// What that node does, for the log.
    fn name(self) -> &'static str {
        match self {
            Work::Reading => "sends to webhooks",
            Work::Outbox => "empties the outbox",
        }
    }
}

/// How often the session is tested, and how long that may take.
const INTERVAL: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Another node ends the session when it was silent for so long. The kernel of a machine whose process was stopped
/// still answers for it, so PostgreSQL itself would keep the session for ever.
const SILENCE: Duration = Duration::from_secs(15);

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
        // A node may end the sessions of its own role. If the nodes have roles of their own, it does not see how long
        // the session was silent, and waits for it to end.
        let sql = "SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
            WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database
              WHERE datname = current_database()) AND l.classid = CAST($1 >> 32 AS oid)
              AND l.objid = CAST($1 & 4294967295 AS oid) AND l.objsubid = 1 AND a.usename = current_user
              AND a.state = 'idle' AND a.state_change < clock_timestamp() - $2 * interval '1 second'";
        let ended = sqlx::query(sql).bind(work.key()).bind(SILENCE.as_secs_f64()).fetch_all(&mut *session).await?;
        if !ended.is_empty() {
            let seconds = SILENCE.as_secs();
            let work = work.name();
            tracing::warn!("the node that {work} has been silent for {seconds} s; another takes over");
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
            // A query, not a ping of the protocol: others see that the session is in use.
            let asked = sqlx::query("SELECT 1").execute(&mut **session);
            if !matches!(timeout(ANSWER_TIMEOUT, asked).await, Ok(Ok(_))) {
                return;
            }
        }
    }
}
