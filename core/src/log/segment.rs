//! Segments: the publications that a channel showed in one turn, encoded once per format and shared by all shards and
//! subscribers.

use super::edits::Edits;
use crate::protocol::{Entry, Format, Frames};
use std::sync::{Arc, OnceLock};
use uproar_model::Offset;

/// The approximate size of the largest segment, in bytes of content.
pub const SEGMENT_LIMIT_BYTES: usize = 64 * 1024;

/// Consecutive publications of one channel, with the offsets `first`, `first + 1`, … (`live:` channels count their
/// messages from the creation of their home; clients never see those numbers).
#[derive(Debug)]
pub struct Segment {
    pub first: Offset,
    pub entries: Vec<Entry>,
    pub(super) cost_bytes: usize,
    encoded: [OnceLock<Frames>; Format::COUNT],
}

impl Segment {
    /// A segment of at least one entry. Edits within it must have been applied already.
    pub fn new(first: Offset, entries: Vec<Entry>) -> Segment {
        debug_assert!(!entries.is_empty());
        let cost_bytes = entries.iter().map(cost_bytes).sum();
        Segment { first, entries, cost_bytes, encoded: Default::default() }
    }

    /// How many of these entries, at least one, fit into a segment of this many bytes.
    pub fn fitting(entries: &[Entry], limit_bytes: usize) -> usize {
        let mut bytes = 0;
        let fitting = entries.iter().take_while(|entry| {
            bytes += cost_bytes(entry);
            bytes <= limit_bytes
        });
        fitting.count().max(1)
    }

    pub fn last(&self) -> Offset {
        self.first + self.entries.len() as Offset - 1
    }

    /// A copy with these edits applied, or `None` if they change nothing in it.
    pub(super) fn edited(&self, edits: &Edits) -> Option<Segment> {
        if !self.entries.iter().any(|entry| edits.concern(entry)) {
            return None;
        }
        let mut entries = self.entries.clone();
        entries.iter_mut().for_each(|entry| edits.apply(entry));
        Some(Segment::new(self.first, entries))
    }

    /// The frames in this format, encoded by the first shard that needs them. Two shards that need them at the same
    /// time may both encode; neither waits for the other. `channel` is the name that clients use, always the same for a
    /// segment.
    pub fn frames(&self, format: Format, channel: &str) -> &Frames {
        let cell = &self.encoded[format as usize];
        if cell.get().is_none() {
            let _ = cell.set(Frames::encode(&self.entries, format, channel));
        }
        cell.get_or_init(|| Frames::encode(&self.entries, format, channel))
    }
}

/// The memory that an entry takes, roughly: its strings and a fixed overhead.
fn cost_bytes(entry: &Entry) -> usize {
    128 + match entry {
        Entry::Stored(p) => {
            let length = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
            p.id.len() + length(&p.body) + length(&p.meta)
        }
        Entry::Live(l) => l.data.len(),
    }
}
