//! How many messages a user may send by HTTP: one token bucket for each who sent lately.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use uproar_model::UserId;

/// Below this many buckets nothing is cleared away.
const KEEP: usize = 1024;

pub(crate) struct RateLimiter {
    /// Tokens a second; 0 for no limit.
    rate: u32,
    burst: u32,
    buckets: Mutex<Buckets>,
}

struct Buckets {
    by_user: HashMap<UserId, Bucket>,
    /// At this many, full buckets are cleared away: the work is shared by all the insertions since the last time.
    clear_at: usize,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl RateLimiter {
    pub(crate) fn new(rate_per_second: u32, burst: u32) -> RateLimiter {
        let buckets = Buckets { by_user: HashMap::new(), clear_at: KEEP };
        RateLimiter { rate: rate_per_second, burst: burst.max(1), buckets: Mutex::new(buckets) }
    }

    /// Takes one token; false when there is none.
    pub(crate) fn take(&self, user: UserId, now: Instant) -> bool {
        if self.rate == 0 {
            return true;
        }
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.by_user.len() >= buckets.clear_at {
            // A full bucket is no different from none.
            buckets.by_user.retain(|_, bucket| self.filled(*bucket, now).tokens < f64::from(self.burst));
            buckets.clear_at = (buckets.by_user.len() * 2).max(KEEP);
        }
        let bucket = buckets.by_user.entry(user).or_insert(Bucket { tokens: f64::from(self.burst), at: now });
        *bucket = self.filled(*bucket, now);
        let enough = bucket.tokens >= 1.0;
        if enough {
            bucket.tokens -= 1.0;
        }
        enough
    }

    fn filled(&self, bucket: Bucket, now: Instant) -> Bucket {
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        Bucket {
            tokens: (bucket.tokens + since * f64::from(self.rate)).min(f64::from(self.burst)),
            at: now.max(bucket.at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_and_then_the_rate() {
        let limiter = RateLimiter::new(2, 3);
        let start = Instant::now();
        let taken = |at: Duration| (0..10).filter(|_| limiter.take(UserId(1), start + at)).count();
        assert_eq!(taken(Duration::ZERO), 3);
        assert_eq!(taken(Duration::from_millis(499)), 0);
        assert_eq!(taken(Duration::from_secs(1)), 2);
        assert_eq!(taken(Duration::from_secs(60)), 3);
        assert!(limiter.take(UserId(2), start), "another user's bucket is another");
    }

    #[test]
    fn none_means_none() {
        let limiter = RateLimiter::new(0, 1);
        let now = Instant::now();
        assert!((0..1000).all(|_| limiter.take(UserId(1), now)));
    }

    #[test]
    fn who_stopped_sending_is_forgotten() {
        let limiter = RateLimiter::new(1, 2);
        let start = Instant::now();
        for user in 0..KEEP as i64 {
            assert!(limiter.take(UserId(user), start));
        }
        assert!(limiter.take(UserId(-1), start + Duration::from_secs(1)));
        assert_eq!(limiter.buckets.lock().unwrap().by_user.len(), 1);
    }
}
