//! Compares this machine's clock with the database's.
//!
//! No promise depends on their difference: messages, tokens and revocations are dated by the database's clock. But an
//! operator should know of it, because the log, traces and certificates go by this machine's. Among several nodes, a
//! clock that is entirely wrong shows a machine that is not looked after, so a load balancer should not use it.

use std::time::Duration;
use tokio::time::{Instant, sleep};
use uproar_model::Clock;

/// A larger difference is logged at the start, and every few minutes.
const TOLERANCE_MS: u64 = 2_000;
const REMINDER_INTERVAL: Duration = Duration::from_secs(300);
/// A node with a larger difference is not ready.
const NODE_TOLERANCE_MS: u64 = 60_000;
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs until it is dropped.
pub(super) async fn watch(clock: Clock, is_node: bool) {
    let mut reminded: Option<Instant> = None;
    let mut was_wrong = false;
    loop {
        let ahead_ms = clock.ahead_ms();
        let wrong = if is_node { unready_reason(ahead_ms) } else { None };
        match &wrong {
            Some(reason) if !was_wrong => tracing::error!("{reason}; until then this node is not ready"),
            None if was_wrong => tracing::info!("this machine's clock is right again"),
            _ => {}
        }
        was_wrong = wrong.is_some();
        if reminded.is_none_or(|at| at.elapsed() >= REMINDER_INTERVAL) {
            reminded = Some(Instant::now());
            if ahead_ms.unsigned_abs() > TOLERANCE_MS && !was_wrong {
                tracing::warn!(
                    database_ahead_ms = ahead_ms,
                    "the clocks of this machine and of the database differ; synchronise both, for example with chrony"
                );
            }
        }
        sleep(INTERVAL).await;
    }
}

/// Why a node is not ready while the database's clock is ahead by this much.
pub(crate) fn unready_reason(ahead_ms: i64) -> Option<String> {
    let seconds = ahead_ms.unsigned_abs() / 1000;
    let direction = if ahead_ms > 0 { "behind" } else { "ahead of" };
    (ahead_ms.unsigned_abs() > NODE_TOLERANCE_MS).then(|| {
        format!(
            "this machine's clock is {seconds} s {direction} the database's; synchronise both, for example with chrony"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_not_ready_when_its_clock_is_more_than_a_minute_off() {
        assert_eq!((unready_reason(60_000), unready_reason(-60_000), unready_reason(0)), (None, None, None));
        assert!(unready_reason(60_001).unwrap().contains("60 s behind the database's"));
        assert!(unready_reason(-3_600_000).unwrap().contains("3600 s ahead of the database's"));
        assert!(unready_reason(i64::MIN).is_some());
    }
}
