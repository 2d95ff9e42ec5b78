//! Coordinates the threads of a run: counts joined connections and tells all threads when to measure.

use crate::client::{Clock, SECOND, thread_cpu};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long before the load starts its times are announced. Every thread checks once per turn, at least every 10 ms.
const START_DELAY: Duration = Duration::from_millis(30);

/// The phases of a run, in nanoseconds of its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases {
    /// The load and the warm-up begin.
    pub load_start: u64,
    /// The warm-up ends and the measurement begins.
    pub measure_start: u64,
    /// The measurement and the load end. Messages in flight still arrive and are checked.
    pub end: u64,
}

impl Phases {
    /// Whether the measurement includes this time.
    #[inline]
    pub fn measures(&self, time: u64) -> bool {
        (self.measure_start..self.end).contains(&time)
    }

    /// The length of the measurement.
    pub fn seconds(&self) -> f64 {
        (self.end - self.measure_start) as f64 / SECOND as f64
    }
}

/// Shared by all threads of a run.
#[derive(Debug)]
pub struct Coordinator {
    pub clock: Clock,
    joined: AtomicUsize,
    phases: OnceLock<Phases>,
    incident: OnceLock<u64>,
}

impl Coordinator {
    pub fn new(clock: Clock) -> Coordinator {
        Coordinator { clock, joined: AtomicUsize::new(0), phases: OnceLock::new(), incident: OnceLock::new() }
    }

    /// Counts another connection that has joined its room.
    pub fn add_joined(&self) {
        self.joined.fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections have joined their rooms.
    pub fn joined(&self) -> usize {
        self.joined.load(Ordering::Relaxed)
    }

    /// Schedules the load to start as soon as all threads know about it.
    pub fn start(&self, warm_up: Duration, measured: Duration) -> Phases {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 8);
        let load_start = self.clock.now() + nanos(START_DELAY);
        let measure_start = load_start + nanos(warm_up);
        *self.phases.get_or_init(|| Phases { load_start, measure_start, end: measure_start + nanos(measured) })
    }

    /// `None` until the load is scheduled.
    pub fn phases(&self) -> Option<Phases> {
        self.phases.get().copied()
    }

    /// To be called right before a node is killed. Returns the time.
    pub fn begin_incident(&self) -> u64 {
        *self.incident.get_or_init(|| self.clock.now())
    }

    /// When a node was killed.
    pub fn incident(&self) -> Option<u64> {
        self.incident.get().copied()
    }
}

/// Measures the share of its core that a thread uses during the measurement.
#[derive(Debug, Default)]
pub struct CpuMeter {
    /// Time and CPU time of the thread when the measurement began.
    start: Option<(u64, u64)>,
    share: Option<f64>,
}

impl CpuMeter {
    /// To be called once per turn.
    pub fn on_turn(&mut self, phases: Phases, now: u64) {
        if now >= phases.measure_start && self.start.is_none() {
            self.start = Some((now, thread_cpu()));
        }
        if now >= phases.end && self.share.is_none() {
            let (time, cpu) = self.start.unwrap_or((now, thread_cpu()));
            self.share = Some((thread_cpu() - cpu) as f64 / (now - time).max(1) as f64);
        }
    }

    /// The share, 0 to 1.
    pub fn share(&self) -> f64 {
        self.share.unwrap_or_default()
    }
}
