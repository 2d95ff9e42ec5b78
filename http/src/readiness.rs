//! Whether the database responds.

use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use uproar_store::SharedStore;

/// How old an answer may be.
const AGE_LIMIT: Duration = Duration::from_secs(1);

/// Asks the database at most once per second, however many strangers ask the server.
#[derive(Default)]
pub(crate) struct Readiness {
    /// The latest answer and when it came. The lock is held while the database is asked, so that others wait for the
    /// same answer.
    latest: Mutex<Option<(Instant, Result<(), &'static str>)>>,
}

impl Readiness {
    /// An answer that is at most a second old. The error is the reason in words for clients.
    pub(crate) async fn of_database(&self, store: &SharedStore, timeout: Duration) -> Result<(), &'static str> {
        let mut latest = self.latest.lock().await;
        if let Some((at, answer)) = *latest
            && at.elapsed() < AGE_LIMIT
        {
            return answer;
        }
        let answer = match tokio::time::timeout(timeout, store.ping()).await {
            Ok(Ok(())) => Ok(()),
            // Only the log has the details, which can name hosts and users.
            Ok(Err(error)) => {
                tracing::warn!(%error, "not ready");
                Err("the database returned an error")
            }
            Err(_) => Err("the database does not respond in time"),
        };
        *latest = Some((Instant::now(), answer));
        answer
    }
}
