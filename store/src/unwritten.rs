//! Read markers that are not in the database yet. They are written many at a time, but count from the moment when they
//! move.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uproar_model::{Marker, RoomId, UserId};

/// Markers that may be ahead of the database. The one who writes them puts them here and takes them out; the store
/// counts them wherever it says what a user has read.
#[derive(Clone, Debug, Default)]
pub struct UnwrittenMarkers(Arc<Mutex<BTreeMap<(UserId, RoomId), Marker>>>);

impl UnwrittenMarkers {
    /// A user comes first in the keys, so that all markers of one user are adjacent.
    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<(UserId, RoomId), Marker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before the database is asked, because markers that are written in the meantime are no longer here
    /// afterwards.
    pub(crate) fn of_user(&self, user: UserId) -> HashMap<RoomId, Marker> {
        let range = (user, RoomId(i64::MIN))..=(user, RoomId(i64::MAX));
        self.lock().range(range).map(|(&(_, room), &marker)| (room, marker)).collect()
    }
}
