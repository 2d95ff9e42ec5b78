//! Learns which tokens other nodes have revoked, and renews this node's lease.

use crate::chat::Chat;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use uproar_model::{Lease, UnixMillis, boottime_ms};
use uproar_store::SharedStore;

/// How long the database may take to answer. The session that does not answer is then replaced.
const POLL_TIMEOUT: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// From the beginning of one question to the next, however many tokens are revoked meanwhile.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(20);

/// What a node polls.
pub(super) struct Poll {
    pub(super) store: SharedStore,
    pub(super) chat: Arc<Chat>,
    pub(super) lease: Lease,
    pub(super) interval: Duration,
    /// Told by the bus when there is something to learn.
    pub(super) revoked: Arc<Notify>,
    /// The revocations up to this time are known, by the database's clock.
    pub(super) known_until: UnixMillis,
}

impl Poll {
    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut is_reported = false;
        // Whether the shards may lack some of what this task knows.
        let mut are_shards_behind = false;
        loop {
            let begun = Instant::now();
            match self.poll(&mut are_shards_behind).await {
                Ok(()) => {
                    if std::mem::take(&mut is_reported) {
                        tracing::info!("it is known again which tokens other nodes have revoked");
                    }
                    let _ = timeout_at(begun + self.interval, self.revoked.notified()).await;
                    sleep_until(begun + SHORTEST_INTERVAL).await;
                }
                Err(reason) => {
                    if !is_reported && !self.lease.is_valid(boottime_ms()) {
                        is_reported = true;
                        tracing::warn!(
                            "it is not known which tokens other nodes have revoked ({reason}); clients wait until it is"
                        );
                    }
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Renews the lease, or fails with the reason.
    async fn poll(&mut self, are_shards_behind: &mut bool) -> Result<(), String> {
        let answer = timeout(POLL_TIMEOUT, self.store.recent_revocations(self.known_until)).await;
        let answer = answer.map_err(|_| format!("no answer within {} ms", POLL_TIMEOUT.as_millis()))?;
        let (time, revocations) = answer.map_err(|error| error.to_string())?;
        *are_shards_behind |= self.chat.follow(&revocations).await;
        // The lease is for what the shards know.
        if *are_shards_behind && !self.chat.has_reached_shards().await {
            return Err("the shards do not answer".to_owned());
        }
        *are_shards_behind = false;
        self.lease.renew(time.asked_ms);
        self.known_until = time.unix_ms;
        Ok(())
    }
}
