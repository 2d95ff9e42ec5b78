//! Compares this machine's clock with the database's: at the start, and every few minutes.
//!
//! Nothing depends on their difference: tokens and their revocations are dated by this machine's clock, messages and
//! members by the database's. But an operator should know of it, because people see both, and because on several
//! machines a token's age is judged by the clock of whichever one it reaches.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;
use uproar_store::SharedStore;

/// A larger difference is logged.
const TOLERANCE_MS: i64 = 2_000;
const INTERVAL: Duration = Duration::from_secs(300);

/// Runs until it is dropped.
pub(super) async fn watch(store: SharedStore) {
    loop {
        let (begun, before_ms) = (Instant::now(), unix_ms());
        if let Ok(database_ms) = store.now().await {
            let asking_ms = begun.elapsed().as_millis() as i64;
            if let Some(ahead_ms) = difference(before_ms, asking_ms, database_ms as i64) {
                tracing::warn!(
                    database_ahead_ms = ahead_ms,
                    "the clocks of this machine and of the database differ; synchronise both, for example with chrony"
                );
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// By how much the database's clock is ahead, if that is too much. The database read it at some time while it was being
/// asked.
fn difference(before_ms: i64, asking_ms: i64, database_ms: i64) -> Option<i64> {
    let ahead_ms = database_ms - (before_ms + asking_ms / 2);
    (ahead_ms.abs() > TOLERANCE_MS + asking_ms.div_euclid(2)).then_some(ahead_ms)
}

fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_difference_that_asking_cannot_explain_is_reported() {
        assert_eq!(difference(10_000, 0, 12_000), None);
        assert_eq!(difference(10_000, 0, 12_001), Some(2_001));
        assert_eq!(difference(10_000, 0, 7_999), Some(-2_001));
        assert_eq!(difference(10_000, 4_000, 16_000), None, "the answer may have been on its way for 4 s");
        assert_eq!(difference(10_000, 4_000, 16_001), Some(4_001));
    }
}
