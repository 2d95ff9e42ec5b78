//! How long a node may rely on what it knows about rights.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Permission to act on rights that another node may have taken away. Clones are the same lease.
///
/// A node renews it by checks of the database: which tokens were revoked? So a process that was stopped and continued,
/// or that can't reach the database, finds that it has expired, and serves nothing until a check succeeds.
#[derive(Clone, Debug)]
pub struct Lease {
    /// `None`: there are no other nodes, so it never expires.
    limited: Option<Arc<Limited>>,
}

#[derive(Debug)]
struct Limited {
    lease_ms: u64,
    /// It has expired at this time, by [`crate::boottime_ms`].
    expires_ms: AtomicU64,
}

impl Lease {
    /// The lease of the only process on a database, which is always valid.
    pub fn unlimited() -> Lease {
        Lease { limited: None }
    }

    /// A lease that is valid for `lease_ms` after each check, and not before the first one.
    pub fn new(lease_ms: u64) -> Lease {
        Lease { limited: Some(Arc::new(Limited { lease_ms, expires_ms: AtomicU64::new(0) })) }
    }

    /// A check has succeeded that was *sent* at `sent_ms`, by [`crate::boottime_ms`]: what was taken away after that
    /// may be missing from its answer.
    pub fn renew(&self, sent_ms: u64) {
        if let Some(limited) = &self.limited {
            limited.expires_ms.fetch_max(sent_ms.saturating_add(limited.lease_ms), Ordering::Release);
        }
    }

    /// Whether it is valid at `now_ms`, by [`crate::boottime_ms`].
    pub fn is_valid(&self, now_ms: u64) -> bool {
        self.limited.as_ref().is_none_or(|limited| now_ms < limited.expires_ms.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_valid_for_a_while_after_a_check_was_sent() {
        let lease = Lease::new(1_000);
        assert!(!lease.is_valid(1), "nothing was checked yet");
        lease.renew(5_000);
        let clone = lease.clone();
        assert!(clone.is_valid(5_999) && !clone.is_valid(6_000));
        // An answer that comes late.
        lease.renew(4_000);
        assert!(clone.is_valid(5_999) && !clone.is_valid(6_000));
        clone.renew(5_500);
        assert!(lease.is_valid(6_499) && !lease.is_valid(6_500));
    }

    #[test]
    fn the_lease_of_a_lone_process_never_expires() {
        let lease = Lease::unlimited();
        assert!(lease.is_valid(0) && lease.is_valid(u64::MAX));
    }
}
