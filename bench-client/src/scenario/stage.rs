//! What the threads of a run agree on: who is in, and when it is measured.

use crate::client::{Clock, SECOND, thread_cpu};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Every thread looks at the stage once in a turn, which takes 10 ms at most.
const NOTICE: Duration = Duration::from_millis(30);

/// Times of a run, in nanoseconds of its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The load begins.
    pub go: u64,
    /// Warm-up ends, measuring begins.
    pub begin: u64,
    /// The load ends. What is under way still arrives, and is checked.
    pub end: u64,
}

impl Window {
    #[inline]
    pub fn has(&self, time: u64) -> bool {
        (self.begin..self.end).contains(&time)
    }

    /// In seconds.
    pub fn seconds(&self) -> f64 {
        (self.end - self.begin) as f64 / SECOND as f64
    }
}

#[derive(Debug)]
pub struct Stage {
    pub clock: Clock,
    ready: AtomicUsize,
    window: OnceLock<Window>,
}

impl Stage {
    pub fn new(clock: Clock) -> Stage {
        Stage { clock, ready: AtomicUsize::new(0), window: OnceLock::new() }
    }

    /// One more connection is in.
    pub fn is_in(&self) {
        self.ready.fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections are in.
    pub fn ready(&self) -> usize {
        self.ready.load(Ordering::Relaxed)
    }

    /// The load begins, as soon as all threads can know.
    pub fn begin(&self, warm_up: Duration, window: Duration) -> Window {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 8);
        let go = self.clock.now() + nanos(NOTICE);
        let begin = go + nanos(warm_up);
        *self.window.get_or_init(|| Window { go, begin, end: begin + nanos(window) })
    }

    /// `None`: not all are in yet.
    pub fn window(&self) -> Option<Window> {
        self.window.get().copied()
    }
}

/// What share of its core a thread needs within the window.
#[derive(Debug, Default)]
pub struct OwnShare {
    begun: Option<(u64, u64)>,
    share: Option<f64>,
}

impl OwnShare {
    /// Called once a turn.
    pub fn look(&mut self, window: Window, now: u64) {
        if now >= window.begin && self.begun.is_none() {
            self.begun = Some((now, thread_cpu()));
        }
        if now >= window.end && self.share.is_none() {
            let (time, cpu) = self.begun.unwrap_or((now, thread_cpu()));
            self.share = Some((thread_cpu() - cpu) as f64 / (now - time).max(1) as f64);
        }
    }

    /// 0 to 1.
    pub fn share(&self) -> f64 {
        self.share.unwrap_or_default()
    }
}
