//! How much memory responses may take that clients have not read yet.
//!
//! A holder may take up to half of what the others leave free. With each further holder the shares become smaller, but
//! there is always room for somebody who holds nothing.

use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use uproar_model::UserId;
use uproar_model::fairness::Prefix;

/// Bodies that are not longer are not counted. The number of connections bounds them.
const SMALL_BYTES: usize = 4 * 1024;

/// For whom a response waits: a user, or an address if the request was not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    User(UserId),
    Address(Prefix),
}

/// The user of a request, once it is authenticated. An extension of the request.
#[derive(Clone, Default)]
pub(crate) struct AuthenticatedUser(Arc<OnceLock<UserId>>);

impl AuthenticatedUser {
    pub(crate) fn set(&self, user: UserId) {
        self.0.get_or_init(|| user);
    }

    pub(crate) fn get(&self) -> Option<UserId> {
        self.0.get().copied()
    }
}

/// The bodies that wait to be read.
pub(crate) struct Bodies {
    limit_bytes: u64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    total_bytes: u64,
    by_holder: HashMap<Holder, u64>,
}

impl Bodies {
    pub(crate) fn new(limit_bytes: u64) -> Arc<Bodies> {
        Arc::new(Bodies { limit_bytes, waiting: Mutex::default() })
    }

    /// Counts a body until it is dropped. `None`: the holder has too much already, and this may be refused.
    pub(crate) fn hold(self: &Arc<Bodies>, body: Bytes, holder: Holder, may_refuse: bool) -> Option<Bytes> {
        // Nothing is freed with a body that is shared, such as a file of the page.
        if body.len() <= SMALL_BYTES || !body.is_unique() {
            return Some(body);
        }
        let bytes = body.len() as u64;
        let mut waiting = self.lock();
        let held = waiting.by_holder.get(&holder).copied().unwrap_or(0);
        if may_refuse && held + bytes > self.limit_bytes.saturating_sub(waiting.total_bytes) {
            return None;
        }
        waiting.total_bytes += bytes;
        waiting.by_holder.insert(holder, held + bytes);
        drop(waiting);
        Some(Bytes::from_owner(Held { body, holder, bodies: Arc::clone(self) }))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that is counted.
struct Held {
    body: Bytes,
    holder: Holder,
    bodies: Arc<Bodies>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.body.len() as u64;
        let mut waiting = self.bodies.lock();
        waiting.total_bytes -= bytes;
        if let Some(held) = waiting.by_holder.get_mut(&self.holder) {
            *held -= bytes;
            if *held == 0 {
                waiting.by_holder.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Holder = Holder::User(UserId(1));
    const BEN: Holder = Holder::User(UserId(2));
    const KIB: usize = 1024;

    fn body() -> Bytes {
        Bytes::from(vec![0; 10 * KIB])
    }

    #[test]
    fn there_is_room_for_somebody_who_holds_nothing() {
        let bodies = Bodies::new(100 * KIB as u64);
        let held: Vec<_> = std::iter::from_fn(|| bodies.hold(body(), ANN, true)).collect();
        assert_eq!(held.len(), 5, "half of all");
        let others: Vec<_> = std::iter::from_fn(|| bodies.hold(body(), BEN, true)).collect();
        assert_eq!(others.len(), 3);
        assert!(bodies.hold(body(), Holder::User(UserId(3)), true).is_some());
        drop(held);
        assert!(bodies.hold(body(), BEN, true).is_some(), "what was read is free again");
        drop(others);
        let waiting = bodies.lock();
        assert_eq!((waiting.total_bytes, waiting.by_holder.len()), (0, 0));
    }

    #[test]
    fn what_takes_no_memory_or_must_be_said_is_not_refused() {
        let bodies = Bodies::new(1);
        assert!(bodies.hold(body(), ANN, true).is_none());
        assert!(bodies.hold(body(), ANN, false).is_some());
        assert!(bodies.hold(Bytes::from(vec![0; SMALL_BYTES]), ANN, true).is_some());
        let shared = body();
        assert!(bodies.hold(shared.clone(), ANN, true).is_some());
        assert!(bodies.hold(Bytes::from_static(&[0; 10 * KIB]), ANN, true).is_some());
    }
}
