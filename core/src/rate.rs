//! Token buckets: a rate per second, and a burst.

/// A bucket that fills at a steady rate. It counts thousandths, so that a single millisecond adds something.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    thousandths: u64,
    filled_ms: u64,
}

impl Bucket {
    pub fn full(burst: u64, now_ms: u64) -> Bucket {
        Bucket { thousandths: burst.saturating_mul(1000), filled_ms: now_ms }
    }

    /// Takes one token. Returns false if there is none. `rate` is per second.
    pub fn take(&mut self, rate: u64, burst: u64, now_ms: u64) -> bool {
        self.fill(rate, burst, now_ms);
        if self.thousandths < 1000 {
            return false;
        }
        self.thousandths -= 1000;
        true
    }

    /// Whether the bucket is full, so that it can be forgotten.
    pub fn is_full(&mut self, rate: u64, burst: u64, now_ms: u64) -> bool {
        self.fill(rate, burst, now_ms);
        self.thousandths == burst.saturating_mul(1000)
    }

    fn fill(&mut self, rate: u64, burst: u64, now_ms: u64) {
        let gained = rate.saturating_mul(now_ms.saturating_sub(self.filled_ms));
        self.thousandths = self.thousandths.saturating_add(gained).min(burst.saturating_mul(1000));
        self.filled_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = Bucket::full(3, 0);
        assert_eq!((0..5).filter(|_| bucket.take(10, 3, 0)).count(), 3);
        assert!(!bucket.take(10, 3, 99));
        assert!(bucket.take(10, 3, 100));
        assert!(!bucket.take(10, 3, 100));
        assert!(!bucket.is_full(10, 3, 399));
        assert!(bucket.is_full(10, 3, 400));
    }
}
