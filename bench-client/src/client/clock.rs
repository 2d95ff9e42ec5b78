//! The client's monotonic clock, in nanoseconds since it was made. Copies tell the same time.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

pub const SECOND: u64 = 1_000_000_000;

/// The kernel's monotonic clock, from a zero of our own so that times are short numbers.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: u64,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { zero: read(ClockId::Monotonic) }
    }

    /// Nanoseconds.
    #[inline]
    pub fn now(self) -> u64 {
        read(ClockId::Monotonic) - self.zero
    }

    /// A time of this clock as the kernel says it, for its timers.
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
