//! How many commands each key has under way that concern all nodes. The chat takes a limited number of them, and one
//! key must not take all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) struct Shares {
    limit: usize,
    /// By what the audit log calls the key.
    under_way: Mutex<HashMap<Arc<str>, usize>>,
}

/// A place for one command, which is free again when this is dropped.
pub(crate) struct Share<'a> {
    shares: &'a Shares,
    actor: Arc<str>,
}

impl Shares {
    /// Of this many places, one key gets at most half.
    pub(crate) fn new(places: u64) -> Shares {
        Shares { limit: (places as usize).div_ceil(2), under_way: Mutex::default() }
    }

    /// `None`: the key has too many commands under way.
    pub(crate) fn take(&self, actor: &Arc<str>) -> Option<Share<'_>> {
        let mut under_way = self.lock();
        let count = under_way.entry(Arc::clone(actor)).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Share { shares: self, actor: Arc::clone(actor) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut under_way = self.shares.lock();
        if let Some(count) = under_way.get_mut(&self.actor) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.actor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gets_at_most_half_of_the_places() {
        let shares = Shares::new(4);
        let (a, b): (Arc<str>, Arc<str>) = ("key a".into(), "key b".into());
        let (first, second) = (shares.take(&a), shares.take(&a));
        assert!(first.is_some() && second.is_some() && shares.take(&a).is_none() && shares.take(&b).is_some());
        drop(first);
        assert!(shares.take(&a).is_some());
        drop(second);
        assert!(shares.lock().is_empty(), "keys without commands take no memory");
        assert!(Shares::new(1).take(&a).is_some());
    }
}
