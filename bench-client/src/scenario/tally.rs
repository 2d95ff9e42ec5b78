//! What a load thread counts.

use crate::check;
use crate::result::{Faults, Latency};
use hdrhistogram::Histogram;

/// From a microsecond to a minute, in nanoseconds.
const LOWEST: u64 = 1000;
const HIGHEST: u64 = 60_000_000_000;
const DIGITS: u8 = 3;

/// The shares of a latency curve, in percent.
const CURVE: [f64; 15] = [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95, 99.99, 99.999];

/// Latencies. Those outside of the bounds are counted at the bounds.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

impl Times {
    pub fn new() -> Times {
        Times(Histogram::new_with_bounds(LOWEST, HIGHEST, DIGITS).expect("the bounds are good"))
    }

    /// Nanoseconds.
    #[inline]
    pub fn record(&mut self, time: u64) {
        self.0.saturating_record(time);
    }

    pub fn add(&mut self, other: &Times) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// `None` where there was nothing.
    pub fn latency(&self) -> Option<Latency> {
        let at = |share: f64| self.0.value_at_quantile(share / 100.0) as f64 / 1e3;
        (!self.0.is_empty()).then(|| Latency {
            count: self.0.len(),
            p50: at(50.0),
            p99: at(99.0),
            p999: at(99.9),
            max: self.0.max() as f64 / 1e3,
            curve: CURVE.map(|share| (share, at(share))).to_vec(),
        })
    }
}

impl Default for Times {
    fn default() -> Times {
        Times::new()
    }
}

#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// In the measured window, like the next three.
    pub sent: u64,
    pub acknowledged: u64,
    pub deliveries: u64,
    /// Payloads of the frames in which deliveries came.
    pub frame_bytes: u64,
    /// Of what was sent in the window, whenever it came.
    pub ack: Times,
    pub delivery: Times,
    pub last: Times,
    /// How long those who were away took to be back and have everything.
    pub recovery: Times,
    pub faults: Faults,
    /// What the first fault was, in the words of the server or the kernel.
    pub words: Option<String>,
    /// Of the thread's core, 0 to 1.
    pub share: f64,
}

impl Tally {
    /// Keeps the words of the first fault.
    pub fn say(&mut self, words: impl FnOnce() -> String) {
        self.words.get_or_insert_with(words);
    }

    /// Another thread's.
    pub fn add(&mut self, other: &Tally) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.deliveries += other.deliveries;
        self.frame_bytes += other.frame_bytes;
        self.ack.add(&other.ack);
        self.delivery.add(&other.delivery);
        self.last.add(&other.last);
        self.recovery.add(&other.recovery);
        check::add(&mut self.faults, &other.faults);
        self.words = self.words.take().or_else(|| other.words.clone());
        self.share = self.share.max(other.share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_told_in_microseconds() {
        let mut times = Times::new();
        assert!(times.latency().is_none());
        (1..=1000).for_each(|micros| times.record(micros * 1000));
        let latency = times.latency().unwrap();
        assert_eq!(latency.count, 1000);
        for (told, right) in [(latency.p50, 500.0), (latency.p99, 990.0), (latency.p999, 999.0), (latency.max, 1000.0)]
        {
            assert!((told / right - 1.0).abs() < 0.002, "{told} instead of {right}");
        }
        // Nothing is dropped for being too long.
        times.record(u64::MAX);
        assert_eq!(times.latency().unwrap().count, 1001);
    }
}
