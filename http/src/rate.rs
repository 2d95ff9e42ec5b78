//! How many messages each user may send by HTTP.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use uproar_core::rate::Bucket;
use uproar_model::UserId;

/// Fewer buckets than this are never swept.
const SWEEP_AT_LEAST: usize = 1024;

/// One token bucket for each user who sent recently.
pub(crate) struct RateLimiter {
    /// Tokens per second; 0 for no limit.
    rate: u64,
    burst: u64,
    /// Buckets count milliseconds from here.
    start: Instant,
    buckets: Mutex<Buckets>,
}

struct Buckets {
    by_user: HashMap<UserId, Bucket>,
    /// At this many buckets, the full ones are dropped. It doubles with what is left, so that the cost of a sweep is
    /// spread over the insertions since the last one.
    sweep_at: usize,
}

impl RateLimiter {
    pub(crate) fn new(rate_per_second: u64, burst: u64) -> RateLimiter {
        let buckets = Buckets { by_user: HashMap::new(), sweep_at: SWEEP_AT_LEAST };
        RateLimiter { rate: rate_per_second, burst, start: Instant::now(), buckets: Mutex::new(buckets) }
    }

    /// Takes one token of the user's; false if there is none.
    pub(crate) fn take(&self, user: UserId, now: Instant) -> bool {
        if self.rate == 0 {
            return true;
        }
        let now_ms = now.saturating_duration_since(self.start).as_millis() as u64;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.by_user.len() >= buckets.sweep_at {
            // A full bucket is no different from a missing one.
            buckets.by_user.retain(|_, bucket| !bucket.is_full(self.rate, self.burst, now_ms));
            buckets.sweep_at = (buckets.by_user.len() * 2).max(SWEEP_AT_LEAST);
        }
        let bucket = buckets.by_user.entry(user).or_insert_with(|| Bucket::full(self.burst, now_ms));
        bucket.take(self.rate, self.burst, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_user_may_send_a_burst_and_then_at_the_rate() {
        let limiter = RateLimiter::new(2, 3);
        let start = limiter.start;
        let taken = |at: Duration| (0..10).filter(|_| limiter.take(UserId(1), start + at)).count();
        assert_eq!(taken(Duration::ZERO), 3);
        assert_eq!(taken(Duration::from_millis(499)), 0);
        assert_eq!(taken(Duration::from_secs(1)), 2);
        assert_eq!(taken(Duration::from_secs(60)), 3);
        assert!(limiter.take(UserId(2), start), "another user has another bucket");
    }

    #[test]
    fn a_rate_of_zero_means_no_limit() {
        let limiter = RateLimiter::new(0, 1);
        let now = Instant::now();
        assert!((0..1000).all(|_| limiter.take(UserId(1), now)));
    }

    #[test]
    fn users_who_stopped_sending_are_forgotten() {
        let limiter = RateLimiter::new(1, 2);
        let start = limiter.start;
        for user in 0..SWEEP_AT_LEAST as i64 {
            assert!(limiter.take(UserId(user), start));
        }
        assert!(limiter.take(UserId(-1), start + Duration::from_secs(1)));
        assert_eq!(limiter.buckets.lock().unwrap().by_user.len(), 1);
    }
}
