//! How often somebody may do something by HTTP.

use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use uproar_model::fairness::{Buckets, Rate};

/// Keys with a bucket at a time.
const KEYS_LIMIT: usize = 1 << 17;

/// One token bucket for each key that was used recently.
pub(crate) struct RateLimiter<K> {
    /// Buckets count milliseconds from here.
    start: Instant,
    /// `None`: no limit.
    buckets: Option<Mutex<Buckets<K>>>,
}

impl<K: Eq + Hash> RateLimiter<K> {
    /// Without a rate, there is no limit.
    pub(crate) fn new(rate: Option<Rate>) -> RateLimiter<K> {
        let buckets = rate.map(|rate| Mutex::new(Buckets::new(rate, KEYS_LIMIT)));
        RateLimiter { start: Instant::now(), buckets }
    }

    /// Takes one token of the key's.
    ///
    /// # Errors
    /// In how many milliseconds there will be one, if there is none now.
    pub(crate) fn take(&self, key: K, now: Instant) -> Result<(), u64> {
        let Some(buckets) = &self.buckets else { return Ok(()) };
        let now_ms = now.saturating_duration_since(self.start).as_millis() as u64;
        buckets.lock().unwrap_or_else(PoisonError::into_inner).take(key, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_key_may_be_used_in_a_burst_and_then_at_the_rate() {
        let limiter = RateLimiter::new(Some(Rate::per_second(2, 3)));
        let start = limiter.start;
        let taken = |at: Duration| (0..10).filter(|_| limiter.take(1, start + at).is_ok()).count();
        assert_eq!(taken(Duration::ZERO), 3);
        assert_eq!(taken(Duration::from_millis(499)), 0);
        assert_eq!(taken(Duration::from_secs(1)), 2);
        assert_eq!(taken(Duration::from_secs(60)), 3);
        assert_eq!(limiter.take(2, start), Ok(()), "another key has another bucket");
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let limiter = RateLimiter::new(None);
        let now = Instant::now();
        assert!((0..1000).all(|_| limiter.take(1, now).is_ok()));
    }
}
