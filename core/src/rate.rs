//! Token buckets: a steady rate with bursts.

/// A bucket of tokens that refills at a steady rate. The rate and the burst (the bucket's capacity) are the caller's to
/// keep, so that a bucket is 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Thousandths of a token, so that a single millisecond adds to a low rate.
    thousandths: u64,
    filled_ms: u64,
}

impl Bucket {
    pub fn full(burst: u64, now_ms: u64) -> Bucket {
        Bucket { thousandths: burst.saturating_mul(1000), filled_ms: now_ms }
    }

    /// Takes one token; false if there is none. `rate` is in tokens per second.
    pub fn take(&mut self, rate: u64, burst: u64, now_ms: u64) -> bool {
        self.fill(rate, burst, now_ms);
        if self.thousandths < 1000 {
            return false;
        }
        self.thousandths -= 1000;
        true
    }

    /// Whether the bucket is full, so that dropping it changes nothing.
    pub fn is_full(&mut self, rate: u64, burst: u64, now_ms: u64) -> bool {
        self.fill(rate, burst, now_ms);
        self.thousandths == burst.saturating_mul(1000)
    }

    fn fill(&mut self, rate: u64, burst: u64, now_ms: u64) {
        let gained = rate.saturating_mul(now_ms.saturating_sub(self.filled_ms));
        self.thousandths = self.thousandths.saturating_add(gained).min(burst.saturating_mul(1000));
        self.filled_ms = self.filled_ms.max(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_allows_a_burst_and_then_the_rate() {
        let mut bucket = Bucket::full(3, 0);
        assert_eq!((0..5).filter(|_| bucket.take(10, 3, 0)).count(), 3);
        assert!(!bucket.take(10, 3, 99));
        assert!(bucket.take(10, 3, 100));
        assert!(!bucket.take(10, 3, 100));
        assert!(!bucket.is_full(10, 3, 399));
        assert!(bucket.is_full(10, 3, 400));
    }
}
