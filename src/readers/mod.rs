//! What readers of the log share. A reader, such as a webhook, has a position in each room, in the database: everything
//! up to it is done. So it can lose nothing, whatever happens to it, and needs no queue. It is woken by commits
//! ([`uproar_store::Commits`]), and looks at all rooms when it starts, and from time to time.
//!
//! | file | holds |
//! | --- | --- |
//! | `backlog.rs` | the rooms in which a reader has something to do, in turn |
//! | `writer.rs` | the task that writes positions, many at a time |

mod backlog;
mod writer;

pub use backlog::{Backlog, Lag, Seen};
pub use writer::{PositionWriter, run_writer};

use uproar_model::{RoomId, UnixMillis};
use uproar_store::{Store, StoreError};

/// Rooms that are prepared in one transaction.
const CHUNK_ROOMS: usize = 500;

/// Registers a reader of the rooms that match `filter`, and makes it start at the heads of those rooms that it did not
/// read before. Rooms that are created later are read from their start. It can be repeated after an error, and
/// continues where it was. Returns since when the reader is paused, or 0.
///
/// # Errors
/// If the store fails.
pub async fn prepare(
    store: &dyn Store,
    reader: &str,
    filter: &str,
    matches: impl Fn(&str, &str) -> bool,
) -> Result<UnixMillis, StoreError> {
    loop {
        let registration = store.register_reader(reader, filter).await?;
        if registration.is_prepared && registration.filter == filter {
            return Ok(registration.paused_at);
        }
        let (after, until) = (registration.prepared_to, registration.prepare_until);
        let rooms = store.room_heads(after, until, CHUNK_ROOMS).await?;
        let prepared_to = match rooms.last() {
            Some((room, ..)) if rooms.len() >= CHUNK_ROOMS => *room,
            _ => until,
        };
        let former = registration.former_filter.as_deref();
        let is_new =
            |name: &str| matches(&registration.filter, name) && !former.is_some_and(|former| matches(former, name));
        let heads: Vec<(RoomId, u64)> =
            rooms.iter().filter(|(_, name, _)| is_new(name)).map(|(room, _, head)| (*room, *head)).collect();
        store.prepare_positions(reader, prepared_to, &heads).await?;
    }
}
