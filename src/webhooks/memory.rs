//! The memory of a webhook for the bodies of its POSTs. Most are small, so many can be under way; of large ones, only
//! as many as fit.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const KIB: usize = 1024;

pub struct Memory {
    free_kib: Arc<Semaphore>,
    limit_kib: u32,
}

/// A part of it, until this is dropped.
pub struct Reserved(Option<OwnedSemaphorePermit>);

impl Memory {
    pub fn new(limit_bytes: usize) -> Memory {
        let limit_kib = (limit_bytes / KIB).clamp(1, u32::MAX as usize >> 4) as u32;
        Memory { free_kib: Arc::new(Semaphore::new(limit_kib as usize)), limit_kib }
    }

    /// Waits until this much is free. A request for more than there is gets all of it.
    pub async fn reserve(&self, bytes: usize) -> Reserved {
        let kib = kib(bytes).min(self.limit_kib);
        // It is never closed.
        Reserved(Arc::clone(&self.free_kib).acquire_many_owned(kib).await.ok())
    }

    /// Whether this is as much as can be reserved.
    pub fn is_all(&self, bytes: usize) -> bool {
        kib(bytes) >= self.limit_kib
    }
}

impl Reserved {
    /// Less is needed than was thought.
    pub fn shrink(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.0 {
            let surplus = permit.num_permits().saturating_sub(kib(bytes) as usize);
            drop(permit.split(surplus));
        }
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(KIB)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn only_so_much_is_reserved_at_the_same_time() {
        let memory = Memory::new(100 * KIB);
        let mut one = memory.reserve(60 * KIB).await;
        assert!(memory.reserve(41 * KIB).now_or_never().is_none());
        one.shrink(59 * KIB);
        let other = memory.reserve(41 * KIB).now_or_never().expect("enough is free");
        one.shrink(80 * KIB);
        assert!(memory.reserve(1).now_or_never().is_none());
        drop((one, other));
        assert!(memory.is_all(100 * KIB) && !memory.is_all(99 * KIB));
        let all = memory.reserve(usize::MAX).now_or_never().expect("everything is free");
        assert!(memory.reserve(1).now_or_never().is_none());
        drop(all);
        assert!(memory.reserve(100 * KIB).now_or_never().is_some());
    }
}
