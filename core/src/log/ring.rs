//! The latest segments of a channel: for clients that resume, and for subscribers that the fan-out has not reached yet.

use super::edits::Edits;
use super::segment::Segment;
use crate::buffer::{Buffer, Slice};
use crate::metrics::Meter;
use crate::mutation::{self, Mutation};
use crate::protocol::{Entry, Format};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use uproar_model::Offset;

/// The latest segments of a channel.
#[derive(Debug, Default)]
pub struct Ring {
    segments: VecDeque<RingSegment>,
    entries: usize,
    cost_bytes: usize,
}

/// A segment, and its buffers on this shard as long as an outbound queue holds them.
#[derive(Debug)]
pub struct RingSegment {
    pub segment: Arc<Segment>,
    shown_ms: u64,
    buffers: [Weak<Buffer>; Format::COUNT],
    /// Keeps the buffers alive while a fan-out is under way, between one queue that has been written and the next.
    held: [Option<Rc<Buffer>>; Format::COUNT],
}

impl RingSegment {
    /// The frames in this format from the entry with this index on. All queues of the shard share one buffer.
    /// `keeps_buffer`: the buffer is kept until [`Ring::release_buffers`].
    pub fn slice(
        &mut self,
        format: Format,
        channel: &str,
        index: usize,
        meter: &Rc<Meter>,
        keeps_buffer: bool,
    ) -> Slice {
        let frames = self.segment.frames(format, channel);
        let cell = &mut self.buffers[format as usize];
        let buffer = cell.upgrade().unwrap_or_else(|| {
            let buffer = Buffer::shared(meter, frames.bytes().clone(), self.shown_ms);
            *cell = Rc::downgrade(&buffer);
            buffer
        });
        if keeps_buffer {
            self.held[format as usize].get_or_insert_with(|| Rc::clone(&buffer));
        }
        Slice::from(buffer, frames.begin(index))
    }
}

impl Ring {
    /// Adds the next segment and drops the oldest ones beyond the limits. The newest always stays.
    pub fn push(&mut self, segment: Arc<Segment>, shown_ms: u64, entries_limit: usize, bytes_limit: usize) {
        debug_assert!(self.segments.back().is_none_or(|last| last.segment.last() + 1 == segment.first));
        self.entries += segment.entries.len();
        self.cost_bytes += segment.cost_bytes;
        self.segments.push_back(RingSegment {
            segment,
            shown_ms,
            buffers: Default::default(),
            held: Default::default(),
        });
        while self.segments.len() > 1 && (self.entries > entries_limit || self.cost_bytes > bytes_limit) {
            if let Some(oldest) = self.segments.pop_front() {
                self.entries -= oldest.segment.entries.len();
                self.cost_bytes -= oldest.segment.cost_bytes;
            }
        }
    }

    /// Replaces the segments that are changed by edits and deletions in the next one, before that is added. Queues that
    /// hold the old ones keep them. A segment that grows too large for a queue is dropped together with all before it;
    /// the store has them.
    pub fn apply_edits_of(&mut self, next: &Segment, segment_limit_bytes: usize) {
        let edits = Edits::of(&next.entries);
        let Some(first) = edits.first_target() else { return };
        if mutation::active(Mutation::RingKeepsOldText) {
            return;
        }
        let from = self.segments.partition_point(|r| r.segment.last() < first);
        let mut too_large = 0;
        for (index, ring_segment) in self.segments.iter_mut().enumerate().skip(from) {
            let Some(segment) = ring_segment.segment.edited(&edits) else { continue };
            self.cost_bytes = self.cost_bytes - ring_segment.segment.cost_bytes + segment.cost_bytes;
            if segment.entries.len() > 1 && segment.cost_bytes > segment_limit_bytes {
                too_large = index + 1;
            }
            let (shown_ms, held) = (ring_segment.shown_ms, std::mem::take(&mut ring_segment.held));
            *ring_segment = RingSegment { segment: Arc::new(segment), shown_ms, buffers: Default::default(), held };
        }
        for gone in self.segments.drain(..too_large) {
            self.entries -= gone.segment.entries.len();
            self.cost_bytes -= gone.segment.cost_bytes;
        }
    }

    /// Whether adding the next segment would drop one that reaches beyond `served`.
    pub fn would_lose(&self, next: &Segment, served: Offset, entries_limit: usize, bytes_limit: usize) -> bool {
        let mut entries = self.entries + next.entries.len();
        let mut cost_bytes = self.cost_bytes + next.cost_bytes;
        for RingSegment { segment, .. } in &self.segments {
            if entries <= entries_limit && cost_bytes <= bytes_limit {
                return false;
            }
            if segment.last() > served {
                return true;
            }
            entries -= segment.entries.len();
            cost_bytes -= segment.cost_bytes;
        }
        false
    }

    /// Drops everything. A `live:` channel keeps nothing once all its subscribers have it.
    pub fn clear(&mut self) {
        self.segments.clear();
        (self.entries, self.cost_bytes) = (0, 0);
    }

    /// Ends a fan-out: from now on only outbound queues hold the buffers of the latest segments.
    pub fn release_buffers(&mut self) {
        for ring_segment in self.segments.iter_mut().rev() {
            if ring_segment.held.iter().all(Option::is_none) {
                break;
            }
            ring_segment.held = Default::default();
        }
    }

    /// The segment that holds this offset.
    pub fn segment_at(&mut self, offset: Offset) -> Option<&mut RingSegment> {
        if self.segments.back().is_some_and(|r| r.segment.first <= offset && offset <= r.segment.last()) {
            return self.segments.back_mut();
        }
        let after = self.segments.partition_point(|r| r.segment.first <= offset);
        self.segments.get_mut(after.checked_sub(1)?).filter(|r| offset <= r.segment.last())
    }

    /// The offset of the oldest publication kept.
    pub fn first(&self) -> Option<Offset> {
        self.segments.front().map(|r| r.segment.first)
    }

    /// The segments that hold the entries after this offset, oldest first, until there are `limit` of these. `None`:
    /// there are none, or older ones are missing.
    pub fn segments_after(&self, offset: Offset, limit: usize) -> Option<Vec<Arc<Segment>>> {
        self.first().filter(|first| *first <= offset + 1)?;
        let from = self.segments.partition_point(|r| r.segment.last() <= offset);
        let enough = offset.saturating_add(limit as Offset);
        let to = self.segments.partition_point(|r| r.segment.first <= enough);
        let segments: Vec<_> = self.segments.range(from..to).map(|r| Arc::clone(&r.segment)).collect();
        (!segments.is_empty()).then_some(segments)
    }

    /// Entries with offsets above this one, oldest first.
    pub fn entries_after(&self, offset: Offset) -> impl Iterator<Item = &Entry> {
        let from = self.segments.partition_point(|r| r.segment.last() <= offset);
        self.segments.range(from..).flat_map(move |r| {
            let skip = (offset + 1).saturating_sub(r.segment.first) as usize;
            r.segment.entries.iter().skip(skip)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{SEGMENT_LIMIT_BYTES, apply_edits};
    use uproar_model::{Kind, Publication, User, UserId};

    fn entry(offset: Offset, kind: Kind, target: Option<Offset>, body: Option<&str>) -> Entry {
        Entry::Stored(Publication {
            offset,
            number: offset,
            kind,
            user: User { id: UserId(3), username: "ann".into() },
            id: "x".into(),
            time: 1700,
            target,
            body: body.map(Into::into),
            edited: None,
            deleted: None,
            meta: None,
        })
    }

    /// Adds entries in the way that homes and feeds do.
    fn add(ring: &mut Ring, first: Offset, mut entries: Vec<Entry>) {
        apply_edits(&mut entries);
        let segment = Segment::new(first, entries);
        ring.apply_edits_of(&segment, SEGMENT_LIMIT_BYTES);
        ring.push(Arc::new(segment), 0, 512, 1 << 20);
    }

    /// Offset, text, edited, deleted.
    type Shown<'a> = (Offset, Option<&'a str>, Option<Offset>, Option<Offset>);

    /// What a client that resumes now receives.
    fn shown(ring: &Ring) -> Vec<Shown<'_>> {
        fn of(entry: &Entry) -> Shown<'_> {
            let Entry::Stored(p) = entry else { panic!("every entry here is stored") };
            (p.offset, p.body.as_deref(), p.edited, p.deleted)
        }
        ring.entries_after(0).map(of).collect()
    }

    #[test]
    fn a_segment_that_edits_make_too_large_is_left_to_the_store() {
        let mut ring = Ring::default();
        add(&mut ring, 1, vec![entry(1, Kind::Message, None, Some("old"))]);
        add(&mut ring, 2, (2..102).map(|offset| entry(offset, Kind::Edit, Some(1), Some("x"))).collect());
        add(&mut ring, 102, vec![entry(102, Kind::Message, None, Some("other"))]);
        add(&mut ring, 103, vec![entry(103, Kind::Edit, Some(1), Some(&"y".repeat(16 * 1024)))]);
        assert_eq!(ring.first(), Some(102));
        assert_eq!((ring.entries, ring.cost_bytes), (2, ring.segments.iter().map(|r| r.segment.cost_bytes).sum()));
    }

    #[test]
    fn a_later_reader_gets_the_current_content_of_edited_messages() {
        let mut ring = Ring::default();
        let mut push = |first, entries| add(&mut ring, first, entries);
        push(1, vec![entry(1, Kind::Message, None, Some("one")), entry(2, Kind::Message, Some(1), Some("two"))]);
        let before = ring.segment_at(1).unwrap().segment.frames(Format::Json, "room:a").bytes().clone();
        let mut push = |first, entries| add(&mut ring, first, entries);
        // The edit is in the same segment as its target.
        push(3, vec![entry(3, Kind::Message, None, Some("three")), entry(4, Kind::Edit, Some(3), Some("3"))]);
        push(5, vec![entry(5, Kind::Edit, Some(1), Some("1")), entry(6, Kind::React, Some(2), Some("+"))]);
        push(7, vec![entry(7, Kind::Edit, Some(1), Some("1!"))]);
        assert_eq!(
            shown(&ring),
            [
                (1, Some("1!"), Some(7), None),
                (2, Some("two"), None, None),
                (3, Some("3"), Some(4), None),
                (4, Some("3"), None, None),
                (5, Some("1!"), None, None),
                (6, Some("+"), None, None),
                (7, Some("1!"), None, None),
            ]
        );
        let after = ring.segment_at(1).unwrap().segment.frames(Format::Json, "room:a").bytes().clone();
        assert_ne!(before, after);

        // A deleted text is gone and stays gone.
        let mut push = |first, entries| add(&mut ring, first, entries);
        push(8, vec![entry(8, Kind::Delete, Some(1), None), entry(9, Kind::Delete, Some(3), None)]);
        push(10, vec![entry(10, Kind::Edit, Some(1), Some("back"))]);
        let gone: Vec<_> = shown(&ring).into_iter().filter(|(.., deleted)| deleted.is_some()).collect();
        assert_eq!(
            gone,
            [
                (1, None, Some(7), Some(8)),
                (3, None, Some(4), Some(9)),
                (4, None, None, Some(9)),
                (5, None, None, Some(8)),
                (7, None, None, Some(8)),
            ]
        );
        // The later of two edits wins.
        let mut ring = Ring::default();
        add(&mut ring, 1, vec![entry(1, Kind::Message, None, Some("1")), entry(2, Kind::Edit, Some(1), Some("2"))]);
        add(&mut ring, 3, vec![entry(3, Kind::Edit, Some(1), Some("3"))]);
        assert_eq!(shown(&ring)[0], (1, Some("3"), Some(3), None));
        let cost: usize = ring.segments.iter().map(|ring_segment| ring_segment.segment.cost_bytes).sum();
        assert_eq!(ring.cost_bytes, cost);
        assert!(!format!("{ring:?}").contains("1!"), "the old text is not in memory");
    }

    #[test]
    fn segments_are_handed_out_without_a_gap() {
        let mut ring = Ring::default();
        for first in [11, 14, 17] {
            let entries = (first..first + 3).map(|offset| entry(offset, Kind::Message, None, Some("x"))).collect();
            add(&mut ring, first, entries);
        }
        let after = |offset, limit| {
            let segments = ring.segments_after(offset, limit)?;
            Some(segments.iter().map(|segment| segment.first).collect::<Vec<_>>())
        };
        assert_eq!(after(9, 100), None, "offset 10 is missing");
        assert_eq!(after(10, 100), Some(vec![11, 14, 17]));
        assert_eq!(after(12, 1), Some(vec![11]), "it has offset 13");
        assert_eq!(after(13, 1), Some(vec![14]));
        assert_eq!(after(13, 4), Some(vec![14, 17]));
        assert_eq!(after(18, 4), Some(vec![17]));
        assert_eq!(after(19, 4), None, "there is nothing more");
        assert!(Ring::default().segments_after(0, 4).is_none());
    }
}
