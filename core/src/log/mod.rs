//! What a channel has shown lately, in memory.
//!
//! | file | holds |
//! | --- | --- |
//! | `segment.rs` | consecutive publications of one turn, encoded once per format for all shards and subscribers |
//! | `ring.rs` | the latest segments of a channel |
//! | `edits.rs` | what a publication changes: earlier ones that are still in memory, and who is in the room |

mod edits;
mod ring;
mod segment;

pub use edits::apply_edits;
pub(crate) use edits::removal;
pub use ring::Ring;
pub use segment::{SEGMENT_LIMIT_BYTES, Segment};
