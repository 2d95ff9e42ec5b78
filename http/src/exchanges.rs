//! The sign-ins with an identity provider that wait for its answers: how many there may be.

use crate::rate::RateLimiter;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{Semaphore, SemaphorePermit};
use uproar_model::fairness::{LogLimit, Prefix, Rate};

/// How many may wait at the same time.
const PLACES: usize = 32;
/// How many an address may have: offices have many people behind one.
const ADDRESS_RATE: Rate = Rate::per_second(1, 30);
/// How many failures are logged. Anybody can cause some.
const LOG_RATE: Rate = Rate::per_second(1, 20);

pub(crate) struct Exchanges {
    /// The log counts milliseconds from here.
    start: Instant,
    places: Semaphore,
    rate: RateLimiter<Prefix>,
    log: Mutex<LogLimit>,
}

impl Default for Exchanges {
    fn default() -> Exchanges {
        let rate = RateLimiter::new(Some(ADDRESS_RATE));
        Exchanges {
            start: Instant::now(),
            places: Semaphore::new(PLACES),
            rate,
            log: Mutex::new(LogLimit::new(LOG_RATE)),
        }
    }
}

impl Exchanges {
    /// A place for a sign-in, until it is dropped.
    ///
    /// # Errors
    /// Why there is none, in words for the log.
    pub(crate) fn enter(&self, client: Prefix, now: Instant) -> Result<SemaphorePermit<'_>, &'static str> {
        self.rate.take(client, now).map_err(|_| "there are too many of one address")?;
        self.places.try_acquire().map_err(|_| "there are too many at once")
    }

    /// Logs why a sign-in came to nothing, unless there were too many.
    pub(crate) fn log_failure(&self, issuer: &str, failed: &'static str, why: &str) {
        let now_ms = self.start.elapsed().as_millis() as u64;
        let admitted = self.log.lock().unwrap_or_else(PoisonError::into_inner).admit(now_ms);
        if let Some(unlogged) = admitted {
            let why = why.escape_debug();
            tracing::warn!(issuer, unlogged, failed, "a sign-in with the identity provider failed: {why}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    #[test]
    fn places_are_shared_and_each_address_has_a_rate() {
        let exchanges = Exchanges::default();
        let client = |last| Prefix::of(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
        let now = Instant::now();
        let held: Vec<_> = (0..PLACES as u8).map(|last| exchanges.enter(client(last), now).unwrap()).collect();
        assert!(exchanges.enter(client(99), now).is_err());
        drop(held);
        let entered = (0..100).filter(|_| exchanges.enter(client(100), now).is_ok()).count();
        assert_eq!(entered as u64, ADDRESS_RATE.burst);
        assert!(exchanges.enter(client(101), now).is_ok());
    }
}
