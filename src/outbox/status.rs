//! What operators see of the outbox.

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use uproar_model::Clock;
use uproar_store::OutboxState;

#[derive(Debug)]
pub struct Status {
    clock: Clock,
    /// Rows that were done, and deleted.
    pub done: AtomicU64,
    /// Rows that were set aside.
    pub failed: AtomicU64,
    /// Attempts that are to be repeated.
    pub retries: AtomicU64,
    /// `None`: another node empties the outbox, or this one does not know yet how full it is.
    state: Mutex<Option<OutboxState>>,
}

impl Status {
    pub fn new(clock: Clock) -> Status {
        let zero = || AtomicU64::new(0);
        Status { clock, done: zero(), failed: zero(), retries: zero(), state: Mutex::default() }
    }

    pub fn set(&self, state: Option<OutboxState>) {
        *self.lock() = state;
    }

    pub fn state(&self) -> Option<OutboxState> {
        *self.lock()
    }

    /// Seconds since the first row that waits was written.
    pub fn age_seconds(&self, state: &OutboxState) -> f64 {
        state.since.map_or(0.0, |since| self.clock.unix_ms().saturating_sub(since) as f64 / 1000.0)
    }

    fn lock(&self) -> MutexGuard<'_, Option<OutboxState>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
