//! The client's monotonic clock, in nanoseconds since it was started.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

pub const SECOND: u64 = 1_000_000_000;

/// The kernel's monotonic clock, counted from its own start so that times are small numbers. Copies share that start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: u64,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { zero: read(ClockId::Monotonic) }
    }

    /// Nanoseconds since the start.
    #[inline]
    pub fn now(self) -> u64 {
        read(ClockId::Monotonic) - self.zero
    }

    /// Converts a time of this clock into the kernel's time, for timers.
    pub fn kernel_time(self, time: u64) -> rustix::time::Timespec {
        let time = self.zero + time;
        rustix::time::Timespec { tv_sec: (time / SECOND) as i64, tv_nsec: (time % SECOND) as _ }
    }

    pub fn sleep_until(self, time: u64) {
        std::thread::sleep(Duration::from_nanos(time.saturating_sub(self.now())));
    }
}

/// CPU time of the calling thread, in nanoseconds.
pub fn thread_cpu() -> u64 {
    read(ClockId::ThreadCPUTime)
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}
