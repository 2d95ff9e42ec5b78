//! Compares this machine's clock with the database's: at the start, and every few minutes.
//!
//! Nothing depends on their difference: messages, tokens and revocations are dated by the database's clock. But an
//! operator should know of it, because the log, traces and certificates go by this machine's.

use std::time::Duration;
use uproar_model::Clock;

/// A larger difference is logged.
const TOLERANCE_MS: u64 = 2_000;
const INTERVAL: Duration = Duration::from_secs(300);

/// Runs until it is dropped.
pub(super) async fn watch(clock: Clock) {
    loop {
        let ahead_ms = clock.ahead_ms();
        if ahead_ms.unsigned_abs() > TOLERANCE_MS {
            tracing::warn!(
                database_ahead_ms = ahead_ms,
                "the clocks of this machine and of the database differ; synchronise both, for example with chrony"
            );
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
