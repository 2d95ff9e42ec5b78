//! The database's clock, by which tokens and their revocations are dated, whichever process issues or checks them.

use crate::UnixMillis;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The database's clock. Clones share what is known about it.
///
/// If the database may be on another machine, its time is estimated: that of `CLOCK_BOOTTIME`, which nobody can set,
/// plus a difference that is measured regularly. So a change of this machine's own time changes nothing.
#[derive(Clone, Debug)]
pub struct Clock {
    /// By how much the database's Unix time exceeds `CLOCK_BOOTTIME`, in milliseconds. `None`: the database uses the
    /// clock of this machine.
    difference_ms: Option<Arc<AtomicI64>>,
}

/// What a database answered when it was asked for its time.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// When it was asked, and when the answer had arrived, by [`boottime_ms`].
    pub asked_ms: u64,
    pub answered_ms: u64,
    /// The answer.
    pub unix_ms: UnixMillis,
}

impl Clock {
    /// The clock of this machine, for a database that uses it too.
    pub fn of_machine() -> Clock {
        Clock { difference_ms: None }
    }

    /// The clock of a database from which this is the first reading.
    pub fn of_database(first: Reading) -> Clock {
        let (lowest, highest) = first.bounds();
        Clock { difference_ms: Some(Arc::new(AtomicI64::new(lowest.midpoint(highest)))) }
    }

    /// The time now.
    pub fn unix_ms(&self) -> UnixMillis {
        self.at(boottime_ms())
    }

    /// The time now, in Unix seconds, as tokens use it.
    pub fn unix_s(&self) -> u64 {
        self.unix_ms() / 1000
    }

    /// The time now, for a caller who has just read `boottime_ms`.
    pub fn at(&self, boottime_ms: u64) -> UnixMillis {
        match &self.difference_ms {
            Some(difference_ms) => boottime_ms.saturating_add_signed(difference_ms.load(Ordering::Relaxed)),
            None => machine_ms(),
        }
    }

    /// Corrects the estimate, if this reading contradicts it.
    ///
    /// The estimate moves no further than to the nearest value that the reading allows. So it never goes back merely
    /// because one answer took longer than another; but it follows a database whose clock was set, or that another
    /// server has taken over, because all nodes must agree on which tokens have expired.
    pub fn correct(&self, reading: Reading) {
        let Some(difference_ms) = &self.difference_ms else { return };
        let (lowest, highest) = reading.bounds();
        difference_ms.store(difference_ms.load(Ordering::Relaxed).clamp(lowest, highest), Ordering::Relaxed);
    }

    /// By how many milliseconds the database is ahead of this machine's clock.
    pub fn ahead_ms(&self) -> i64 {
        match self.difference_ms {
            Some(_) => self.unix_ms().cast_signed().saturating_sub(machine_ms().cast_signed()),
            None => 0,
        }
    }
}

impl Reading {
    /// The least and the greatest difference that it allows: the database read its clock at some time while it was
    /// being asked. All three times are rounded down, which can make a difference of one millisecond.
    fn bounds(&self) -> (i64, i64) {
        let unix_ms = self.unix_ms.cast_signed();
        let lowest = unix_ms.saturating_sub(self.answered_ms.cast_signed()).saturating_sub(1);
        let highest = unix_ms.saturating_sub(self.asked_ms.cast_signed()).saturating_add(1);
        (lowest, highest.max(lowest))
    }
}

/// How long ago this machine started, the time that it was suspended included: a clock that nobody can set.
pub fn boottime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The same in milliseconds.
pub fn boottime_ms() -> u64 {
    u64::try_from(boottime().as_millis()).unwrap_or(u64::MAX)
}

/// Unix milliseconds by this machine's clock.
fn machine_ms() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(asked_ms: u64, answered_ms: u64, unix_ms: u64) -> Reading {
        Reading { asked_ms, answered_ms, unix_ms }
    }

    #[test]
    fn the_first_estimate_is_half_a_round_trip_old() {
        let clock = Clock::of_database(reading(1_000, 1_100, 5_000));
        assert_eq!(clock.at(1_050), 5_000);
        assert_eq!(clock.clone().at(2_050), 6_000);
    }

    #[test]
    fn a_slow_answer_does_not_move_the_estimate() {
        let clock = Clock::of_database(reading(1_000, 1_000, 5_000));
        // The database answered at once in the first case, and at the last moment in the second.
        clock.correct(reading(2_000, 2_900, 6_000));
        assert_eq!(clock.at(3_000), 7_000);
        clock.correct(reading(4_000, 4_900, 8_900));
        assert_eq!(clock.at(5_000), 9_000);
        // One of the three times was rounded down further than the others.
        clock.correct(reading(6_000, 6_000, 9_999));
        clock.correct(reading(7_000, 7_000, 11_001));
        assert_eq!(clock.at(8_000), 12_000);
    }

    #[test]
    fn a_fast_answer_corrects_an_estimate_from_a_slow_one() {
        let clock = Clock::of_database(reading(1_000, 3_000, 5_000));
        assert_eq!(clock.at(3_000), 6_000);
        clock.correct(reading(4_000, 4_010, 6_005));
        assert_eq!(clock.at(4_010), 6_016, "no further than the answer demands");
    }

    #[test]
    fn the_estimate_follows_a_database_whose_clock_was_set() {
        let clock = Clock::of_database(reading(1_000, 1_000, 50_000));
        clock.correct(reading(2_000, 2_000, 9_000));
        assert_eq!(clock.at(2_000), 9_001);
        clock.correct(reading(3_000, 3_000, 90_000));
        assert_eq!(clock.at(3_000), 89_999);
    }

    #[test]
    fn this_machines_clock_needs_no_estimate() {
        let clock = Clock::of_machine();
        clock.correct(reading(0, 0, 0));
        let before = machine_ms();
        assert!((before..=machine_ms()).contains(&clock.unix_ms()));
        assert_eq!(clock.ahead_ms(), 0);
    }

    #[test]
    fn it_is_known_by_how_much_the_database_is_ahead() {
        let (boottime_ms, hour_ms) = (boottime_ms(), 3_600_000);
        let clock = Clock::of_database(reading(boottime_ms, boottime_ms, machine_ms() - hour_ms));
        assert!((clock.ahead_ms() + hour_ms as i64).abs() < 60_000, "{}", clock.ahead_ms());
    }
}
