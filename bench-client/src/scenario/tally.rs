//! The counts of a load thread.

use crate::ledger;
use crate::result::{Faults, Latency};
use hdrhistogram::Histogram;

/// From a microsecond to a minute, in nanoseconds.
const LOWEST: u64 = 1000;
const HIGHEST: u64 = 60_000_000_000;
const DIGITS: u8 = 3;

/// The percentiles of a latency curve.
const CURVE: [f64; 15] = [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95, 99.99, 99.999];

/// A histogram of latencies. Values outside of the bounds count as the bounds.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(LOWEST, HIGHEST, DIGITS).expect("the bounds are valid"))
    }

    /// Records a latency in nanoseconds.
    #[inline]
    pub fn record(&mut self, time: u64) {
        self.0.saturating_record(time);
    }

    pub fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// `None` if nothing was recorded.
    pub fn summary(&self) -> Option<Latency> {
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

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies::new()
    }
}

/// One delivery of a message that was due during the measurement, in nanoseconds of the client's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When the message was due.
    pub intended: u64,
    pub latency: u64,
    /// Whether the receiver is on another node than the sender.
    pub is_elsewhere: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Messages that were due during the measurement.
    pub sent: u64,
    /// Acknowledgements that arrived during the measurement.
    pub acknowledged: u64,
    /// Messages that arrived during the measurement, summed over all receivers.
    pub deliveries: u64,
    /// Payload bytes of the frames that contained these deliveries.
    pub frame_bytes: u64,
    /// Latencies of messages that were due during the measurement, even if they arrived later.
    pub ack: Latencies,
    pub delivery: Latencies,
    pub last: Latencies,
    /// Empty unless the run keeps them.
    pub samples: Vec<Sample>,
    /// How long members that lost their connection took to return and catch up.
    pub recovery: Latencies,
    pub faults: Faults,
    /// Describes the first fault.
    pub first_fault: Option<String>,
    /// The share of its core that the thread used, 0 to 1.
    pub cpu_share: f64,
}

impl Tally {
    /// Keeps the description of the first fault.
    pub fn note_fault(&mut self, describe: impl FnOnce() -> String) {
        self.first_fault.get_or_insert_with(describe);
    }

    /// Adds the counts of another thread.
    pub fn add(&mut self, other: &Tally) {
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.deliveries += other.deliveries;
        self.frame_bytes += other.frame_bytes;
        self.ack.add(&other.ack);
        self.delivery.add(&other.delivery);
        self.last.add(&other.last);
        self.samples.extend_from_slice(&other.samples);
        self.recovery.add(&other.recovery);
        ledger::add(&mut self.faults, &other.faults);
        self.first_fault = self.first_fault.take().or_else(|| other.first_fault.clone());
        self.cpu_share = self.cpu_share.max(other.cpu_share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_reported_in_microseconds() {
        let mut times = Latencies::new();
        assert!(times.summary().is_none());
        (1..=1000).for_each(|micros| times.record(micros * 1000));
        let latency = times.summary().unwrap();
        assert_eq!(latency.count, 1000);
        for (actual, expected) in
            [(latency.p50, 500.0), (latency.p99, 990.0), (latency.p999, 999.0), (latency.max, 1000.0)]
        {
            assert!((actual / expected - 1.0).abs() < 0.002, "{actual} instead of {expected}");
        }
        // Latencies above the upper bound still count.
        times.record(u64::MAX);
        assert_eq!(times.summary().unwrap().count, 1001);
    }
}
