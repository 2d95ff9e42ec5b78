//! Token buckets: a steady rate with bursts.

use super::Prefix;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

/// Fewer buckets than this are never swept.
const SWEEP_AT_LEAST: usize = 1024;

/// How often something may happen: `burst` times at once, and then `tokens` times in `per_ms` milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub tokens: u64,
    pub per_ms: u64,
    pub burst: u64,
}

impl Rate {
    pub const fn per_second(tokens: u64, burst: u64) -> Rate {
        Rate { tokens, per_ms: 1_000, burst }
    }

    pub const fn per_minute(tokens: u64, burst: u64) -> Rate {
        Rate { tokens, per_ms: 60_000, burst }
    }

    pub const fn per_hour(tokens: u64, burst: u64) -> Rate {
        Rate { tokens, per_ms: 3_600_000, burst }
    }

    /// The same, `factor` times as often.
    fn times(self, factor: u64) -> Rate {
        Rate {
            tokens: self.tokens.saturating_mul(factor),
            burst: self.burst.saturating_mul(factor),
            per_ms: self.per_ms,
        }
    }

    const fn capacity(self) -> u64 {
        self.burst.saturating_mul(self.per_ms)
    }
}

/// A bucket of tokens that refills at a steady rate. The rate is the caller's to keep, so that a bucket is 16 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// What it holds, in tokens times [`Rate::per_ms`], so that a single millisecond adds to any rate.
    level: u64,
    filled_ms: u64,
}

impl Bucket {
    pub const fn full(rate: Rate, now_ms: u64) -> Bucket {
        Bucket { level: rate.capacity(), filled_ms: now_ms }
    }

    /// Takes one token; false if there is none.
    pub fn take(&mut self, rate: Rate, now_ms: u64) -> bool {
        self.fill(rate, now_ms);
        if self.level < rate.per_ms {
            return false;
        }
        self.level -= rate.per_ms;
        true
    }

    /// Puts a token back that was taken for something that turned out not to count.
    pub fn give_back(&mut self, rate: Rate) {
        self.level = self.level.saturating_add(rate.per_ms).min(rate.capacity());
    }

    /// How long until there is a token; 0 if there is one.
    pub fn wait_ms(&mut self, rate: Rate, now_ms: u64) -> u64 {
        self.fill(rate, now_ms);
        let missing = rate.per_ms.saturating_sub(self.level);
        if missing == 0 { 0 } else { missing.div_ceil(rate.tokens.max(1)) }
    }

    /// Whether the bucket is full, so that dropping it changes nothing.
    pub fn is_full(&mut self, rate: Rate, now_ms: u64) -> bool {
        self.fill(rate, now_ms);
        self.level == rate.capacity()
    }

    fn fill(&mut self, rate: Rate, now_ms: u64) {
        let gained = rate.tokens.saturating_mul(now_ms.saturating_sub(self.filled_ms));
        self.level = self.level.saturating_add(gained).min(rate.capacity());
        self.filled_ms = self.filled_ms.max(now_ms);
    }
}

/// Bounds how often something is logged, so that nobody can fill the log with it.
#[derive(Debug)]
pub struct LogLimit {
    rate: Rate,
    bucket: Bucket,
    unlogged: u64,
}

impl LogLimit {
    pub const fn new(rate: Rate) -> LogLimit {
        LogLimit { rate, bucket: Bucket::full(rate, 0), unlogged: 0 }
    }

    /// How many events were left out since the last one that was logged. `None`: this one is left out too.
    pub fn admit(&mut self, now_ms: u64) -> Option<u64> {
        if !self.bucket.take(self.rate, now_ms) {
            self.leave_out();
            return None;
        }
        Some(std::mem::take(&mut self.unlogged))
    }

    /// Counts an event that is left out for another reason.
    pub fn leave_out(&mut self) {
        self.unlogged += 1;
    }
}

/// One bucket per key, all with the same rate. A key without an entry has a full bucket.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    limit: usize,
    by_key: HashMap<K, Bucket>,
    /// At this many buckets, the full ones are dropped. It doubles with what is left, so that the cost of a sweep is
    /// spread over the insertions since the last one.
    sweep_at: usize,
}

impl<K: Eq + Hash> Buckets<K> {
    /// Buckets for at most `limit` keys. If there are more, those that have taken the least are forgotten.
    pub fn new(rate: Rate, limit: usize) -> Buckets<K> {
        Buckets { rate, limit: limit.max(1), by_key: HashMap::new(), sweep_at: SWEEP_AT_LEAST.min(limit.max(1)) }
    }

    /// Takes one token of the key's.
    ///
    /// # Errors
    /// The time until there is one, in milliseconds.
    pub fn take(&mut self, key: K, now_ms: u64) -> Result<(), u64> {
        let rate = self.rate;
        if self.by_key.len() >= self.sweep_at && !self.by_key.contains_key(&key) {
            self.sweep(now_ms);
        }
        let bucket = self.by_key.entry(key).or_insert_with(|| Bucket::full(rate, now_ms));
        if bucket.take(rate, now_ms) { Ok(()) } else { Err(bucket.wait_ms(rate, now_ms)) }
    }

    /// Puts a token back that was taken for something that turned out not to count.
    pub fn give_back(&mut self, key: &K) {
        if let Some(bucket) = self.by_key.get_mut(key) {
            bucket.give_back(self.rate);
        }
    }

    /// How long until the key has a token; 0 if it has one.
    pub fn wait_ms(&mut self, key: &K, now_ms: u64) -> u64 {
        self.by_key.get_mut(key).map_or(0, |bucket| bucket.wait_ms(self.rate, now_ms))
    }

    fn sweep(&mut self, now_ms: u64) {
        let rate = self.rate;
        self.by_key.retain(|_, bucket| !bucket.is_full(rate, now_ms));
        if self.by_key.len() >= self.limit {
            // A stranger who fills the table has as many addresses or accounts as it has entries, and with those a
            // fresh bucket each gains little.
            let mut levels: Vec<u64> = self.by_key.values().map(|bucket| bucket.level).collect();
            let middle = levels.len() / 2;
            let (_, median, _) = levels.select_nth_unstable(middle);
            let median = *median;
            self.by_key.retain(|_, bucket| bucket.level < median);
        }
        self.sweep_at = (self.by_key.len() * 2).max(SWEEP_AT_LEAST).min(self.limit);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_key.len()
    }
}

/// Buckets of addresses, or of an address and something else (`W`), such as an account. A token of an IPv6 address is
/// one of its /64, of the /56 and of the /48 around it, whose rates are [`Prefix::weight`] times as high.
#[derive(Debug)]
pub struct AddressBuckets<W = ()> {
    by_weight: [(u64, Buckets<(Prefix, W)>); 3],
}

impl<W: Copy + Eq + Hash> AddressBuckets<W> {
    /// Buckets for at most `limit` blocks of each size.
    pub fn new(rate: Rate, limit: usize) -> AddressBuckets<W> {
        AddressBuckets { by_weight: [1, 2, 4].map(|weight| (weight, Buckets::new(rate.times(weight), limit))) }
    }

    /// Takes one token of the address's.
    ///
    /// # Errors
    /// The time until there is one, in milliseconds.
    pub fn take(&mut self, address: IpAddr, with: W, now_ms: u64) -> Result<(), u64> {
        // First all are asked, so that a refusal costs nothing.
        match self.wait_ms(address, with, now_ms) {
            0 => {}
            wait_ms => return Err(wait_ms),
        }
        for prefix in Prefix::all(address) {
            self.of(prefix).take((prefix, with), now_ms)?;
        }
        Ok(())
    }

    /// Puts a token back that was taken for something that turned out not to count.
    pub fn give_back(&mut self, address: IpAddr, with: W) {
        Prefix::all(address).for_each(|prefix| self.of(prefix).give_back(&(prefix, with)));
    }

    /// How long until the address has a token; 0 if it has one.
    pub fn wait_ms(&mut self, address: IpAddr, with: W, now_ms: u64) -> u64 {
        Prefix::all(address).map(|prefix| self.of(prefix).wait_ms(&(prefix, with), now_ms)).max().unwrap_or(0)
    }

    fn of(&mut self, prefix: Prefix) -> &mut Buckets<(Prefix, W)> {
        let weight = prefix.weight();
        let index = self.by_weight.iter().position(|(of, _)| *of == weight).unwrap_or(0);
        &mut self.by_weight[index].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_allows_a_burst_and_then_the_rate() {
        let rate = Rate::per_second(10, 3);
        let mut bucket = Bucket::full(rate, 0);
        assert_eq!((0..5).filter(|_| bucket.take(rate, 0)).count(), 3);
        assert_eq!(bucket.wait_ms(rate, 0), 100);
        assert!(!bucket.take(rate, 99));
        assert!(bucket.take(rate, 100));
        assert!(!bucket.take(rate, 100));
        assert!(!bucket.is_full(rate, 399));
        assert!(bucket.is_full(rate, 400));
    }

    #[test]
    fn a_log_says_how_many_lines_were_left_out() {
        let mut limit = LogLimit::new(Rate::per_second(1, 2));
        assert_eq!([(); 4].map(|()| limit.admit(0)), [Some(0), Some(0), None, None]);
        limit.leave_out();
        assert_eq!([(); 2].map(|()| limit.admit(1000)), [Some(3), None]);
    }

    #[test]
    fn a_low_rate_loses_nothing_by_being_asked_often() {
        let rate = Rate::per_minute(1, 1);
        let mut bucket = Bucket::full(rate, 0);
        assert!(bucket.take(rate, 0));
        assert!((0..60_000).all(|ms| !bucket.take(rate, ms)));
        assert!(bucket.take(rate, 60_000));
    }

    #[test]
    fn a_token_that_is_given_back_can_be_taken_again() {
        let rate = Rate::per_hour(1, 2);
        let mut buckets = Buckets::new(rate, 10);
        assert_eq!(buckets.take("ann", 0), Ok(()));
        buckets.give_back(&"ann");
        buckets.give_back(&"ann");
        assert_eq!(buckets.take("ann", 0), Ok(()));
        assert_eq!(buckets.take("ann", 0), Ok(()));
        assert_eq!(buckets.take("ann", 0), Err(3_600_000));
        assert_eq!(buckets.wait_ms(&"ben", 0), 0, "others have their own bucket");
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let mut buckets = Buckets::new(Rate::per_second(1, 2), usize::MAX);
        for key in 0..SWEEP_AT_LEAST {
            assert_eq!(buckets.take(key, 0), Ok(()));
        }
        assert_eq!(buckets.take(usize::MAX, 1000), Ok(()));
        assert_eq!(buckets.len(), 1);
    }

    #[test]
    fn the_number_of_buckets_is_bounded_and_those_used_most_are_kept() {
        let mut buckets = Buckets::new(Rate::per_hour(1, 100), 8);
        for _ in 0..100 {
            assert_eq!(buckets.take(0, 0), Ok(()));
        }
        for key in 1..1000 {
            assert_eq!(buckets.take(key, 0), Ok(()));
            assert!(buckets.len() <= 8);
        }
        assert!(buckets.take(0, 0).is_err(), "the bucket that is empty was not forgotten");
    }

    #[test]
    fn many_networks_of_one_customer_share_a_larger_bucket() {
        let mut buckets = AddressBuckets::new(Rate::per_hour(1, 10), 1000);
        let address = |network: u16| format!("2001:db8:1:{network:x}::1").parse().unwrap();
        let taken = |buckets: &mut AddressBuckets, network| {
            (0..100).filter(|_| buckets.take(address(network), (), 0).is_ok()).count()
        };
        assert_eq!(taken(&mut buckets, 0), 10, "of a /64");
        assert_eq!((1..100).map(|network| taken(&mut buckets, network)).sum::<usize>(), 10, "the rest of the /56");
        assert_eq!((256..2000).map(|network| taken(&mut buckets, network)).sum::<usize>(), 20, "the rest of the /48");
        assert_eq!(buckets.take("2001:db8:2::1".parse().unwrap(), (), 0), Ok(()));
        assert_eq!(buckets.take("192.0.2.1".parse().unwrap(), (), 0), Ok(()));
        // A refusal took nothing: what is given back can be taken from there again.
        buckets.give_back(address(0), ());
        assert_eq!(taken(&mut buckets, 0), 1);
    }
}
