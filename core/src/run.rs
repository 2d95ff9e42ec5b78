//! Runs: what a room showed in one turn, encoded once per wire format and shared by all who receive it.

use crate::protocol::{Entry, Format, Frames};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::{Arc, OnceLock};
use uproar_model::{Kind, Offset, Publication};

use super::figures::Meter;
use super::mutation::{self, Mutation};
use super::outbound::{Buffer, Slice};

impl Entry {
    fn cost_bytes(&self) -> usize {
        128 + match self {
            Entry::Stored(p) => p.id.len() + p.body.as_ref().map_or(0, |b| b.len()),
            Entry::Live(l) => l.data.len(),
        }
    }
}

/// What an edit or a deletion makes of what was shown before it: whoever comes later is shown the content that there is
/// now, as by the store.
struct Change {
    target: Offset,
    /// None: it is deleted.
    text: Option<Arc<str>>,
    /// Of the edit, or the deletion.
    offset: Offset,
}

impl Entry {
    fn change(&self) -> Option<Change> {
        let Entry::Stored(p) = self else { return None };
        let text = match p.kind {
            // Read from the store, an edit has the text that there is now, none where there is none any more.
            Kind::Edit => p.body.clone(),
            Kind::Delete => None,
            _ => return None,
        };
        Some(Change { target: p.target?, text, offset: p.deleted.unwrap_or(p.offset) })
    }
}

impl Change {
    /// Whether it makes something else of this: of the message, or of an earlier edit of it.
    fn changes(&self, p: &Publication) -> bool {
        // What is deleted stays so, and what has a newer text.
        p.deleted.is_none() && p.edited.is_none_or(|edited| edited < self.offset) && p.offset < self.offset
    }

    fn apply(&self, p: &mut Publication) {
        p.body = self.text.clone();
        match self.text {
            None => p.deleted = Some(self.offset),
            Some(_) if p.kind == Kind::Message => p.edited = Some(self.offset),
            Some(_) => {}
        }
    }
}

/// The latest change of each message, by its offset.
#[derive(Default)]
struct Changes(BTreeMap<Offset, Change>);

impl Changes {
    /// Those that some publications make of what was shown before them.
    fn of(entries: &[Entry]) -> Changes {
        let mut changes = Changes::default();
        entries.iter().rev().for_each(|entry| changes.add(entry));
        changes
    }

    /// Adds that of a publication which comes before those that are there.
    fn add(&mut self, entry: &Entry) {
        if let Some(change) = entry.change() {
            self.0.entry(change.target).or_insert(change);
        }
    }

    /// What changes this, if anything does.
    fn change_of(&self, entry: &Entry) -> Option<&Change> {
        let Entry::Stored(p) = entry else { return None };
        let change = match p.kind {
            Kind::Message => self.0.get(&p.offset),
            Kind::Edit => self.0.get(&p.target?),
            _ => None,
        };
        change.filter(|change| change.changes(p))
    }

    fn apply(&self, entry: &mut Entry) {
        if let Some(change) = self.change_of(entry)
            && let Entry::Stored(p) = entry
        {
            change.apply(p);
        }
    }
}

/// Gives messages that are edited or deleted further on in the list the content that they have then.
pub fn apply_changes(entries: &mut [Entry]) {
    let mut changes = Changes::default();
    for entry in entries.iter_mut().rev() {
        changes.apply(entry);
        changes.add(entry);
    }
}

/// The largest run, about, in bytes of content.
pub const RUN_LIMIT_BYTES: usize = 64 * 1024;

/// Consecutive publications of one channel: offsets `first`, `first + 1`, … (`live:` channels count their messages
/// from when their home was made; those numbers are never shown).
#[derive(Debug)]
pub struct Run {
    pub first: Offset,
    pub entries: Vec<Entry>,
    cost_bytes: usize,
    encoded: [OnceLock<Frames>; Format::COUNT],
}

impl Run {
    /// A run of at least one entry, with the content that its messages have at its end.
    pub fn new(first: Offset, entries: Vec<Entry>) -> Run {
        debug_assert!(!entries.is_empty());
        let cost_bytes = entries.iter().map(Entry::cost_bytes).sum();
        Run { first, entries, cost_bytes, encoded: Default::default() }
    }

    /// How many of these entries, at least one, make a run of at most so many bytes.
    pub fn fitting(entries: &[Entry], bytes_limit: usize) -> usize {
        let mut bytes = 0;
        let fitting = entries.iter().take_while(|entry| {
            bytes += entry.cost_bytes();
            bytes <= bytes_limit
        });
        fitting.count().max(1)
    }

    pub fn last(&self) -> Offset {
        self.first + self.entries.len() as Offset - 1
    }

    /// The same run with these changes; none where they concern nothing in it.
    fn changed(&self, changes: &Changes) -> Option<Run> {
        if !self.entries.iter().any(|entry| changes.change_of(entry).is_some()) {
            return None;
        }
        let mut entries = self.entries.clone();
        entries.iter_mut().for_each(|entry| changes.apply(entry));
        Some(Run::new(self.first, entries))
    }

    /// The frames in this format, encoded by whichever shard needs them first. Two that need them at once may both
    /// encode; none waits for the other. `channel` is the name that clients know, of which a run has only one.
    pub fn frames(&self, format: Format, channel: &str) -> &Frames {
        let cell = &self.encoded[format as usize];
        if cell.get().is_none() {
            let _ = cell.set(Frames::encode(&self.entries, format, channel));
        }
        cell.get_or_init(|| Frames::encode(&self.entries, format, channel))
    }
}

/// The latest runs of a channel, for those who resume and for those to whom a fan-out has not come yet.
#[derive(Debug, Default)]
pub struct Ring {
    runs: VecDeque<RingRun>,
    entries: usize,
    cost_bytes: usize,
}

/// A run, and its buffers on this shard while somebody's queue holds them.
#[derive(Debug)]
pub struct RingRun {
    pub run: Arc<Run>,
    shown_ms: u64,
    buffers: [Weak<Buffer>; Format::COUNT],
    /// Those of the fan-out under way: the last socket is not the last as long as more are to come.
    held: [Option<Rc<Buffer>>; Format::COUNT],
}

impl RingRun {
    /// The frames in this format from the entry with this index on, in a buffer that is one for all queues of the shard.
    /// `fans_out`: it is kept until the fan-out is over.
    pub fn slice(&mut self, format: Format, channel: &str, index: usize, meter: &Rc<Meter>, fans_out: bool) -> Slice {
        let frames = self.run.frames(format, channel);
        let cell = &mut self.buffers[format as usize];
        let buffer = cell.upgrade().unwrap_or_else(|| {
            let buffer = Buffer::shared(meter, frames.bytes().clone(), self.shown_ms);
            *cell = Rc::downgrade(&buffer);
            buffer
        });
        if fans_out {
            self.held[format as usize].get_or_insert_with(|| Rc::clone(&buffer));
        }
        Slice::from(buffer, frames.begin(index))
    }
}

impl Ring {
    /// Adds the next run and lets go of the oldest beyond the limits; the newest always stays.
    pub fn push(&mut self, run: Arc<Run>, shown_ms: u64, entries_limit: usize, bytes_limit: usize) {
        debug_assert!(self.runs.back().is_none_or(|last| last.run.last() + 1 == run.first));
        self.entries += run.entries.len();
        self.cost_bytes += run.cost_bytes;
        self.runs.push_back(RingRun { run, shown_ms, buffers: Default::default(), held: Default::default() });
        while self.runs.len() > 1 && (self.entries > entries_limit || self.cost_bytes > bytes_limit) {
            if let Some(oldest) = self.runs.pop_front() {
                self.entries -= oldest.run.entries.len();
                self.cost_bytes -= oldest.run.cost_bytes;
            }
        }
    }

    /// Before the next run is added: replaces the runs that edits and deletions in it concern. Who has been given the
    /// old ones keeps them. A run that becomes too large for a queue goes, with what is before it: the store has them.
    pub fn apply(&mut self, next: &Run, run_limit_bytes: usize) {
        let changes = Changes::of(&next.entries);
        let Some((&first, _)) = changes.0.first_key_value() else { return };
        if mutation::active(Mutation::RingKeepsOldText) {
            return;
        }
        let from = self.runs.partition_point(|r| r.run.last() < first);
        let mut too_large = 0;
        for (index, ring_run) in self.runs.iter_mut().enumerate().skip(from) {
            let Some(run) = ring_run.run.changed(&changes) else { continue };
            self.cost_bytes = self.cost_bytes - ring_run.run.cost_bytes + run.cost_bytes;
            if run.entries.len() > 1 && run.cost_bytes > run_limit_bytes {
                too_large = index + 1;
            }
            let (shown_ms, held) = (ring_run.shown_ms, std::mem::take(&mut ring_run.held));
            *ring_run = RingRun { run: Arc::new(run), shown_ms, buffers: Default::default(), held };
        }
        for gone in self.runs.drain(..too_large) {
            self.entries -= gone.run.entries.len();
            self.cost_bytes -= gone.run.cost_bytes;
        }
    }

    /// Whether the next run would push out one that goes beyond `served`.
    pub fn would_lose(&self, next: &Run, served: Offset, entries_limit: usize, bytes_limit: usize) -> bool {
        let mut entries = self.entries + next.entries.len();
        let mut cost_bytes = self.cost_bytes + next.cost_bytes;
        for RingRun { run, .. } in &self.runs {
            if entries <= entries_limit && cost_bytes <= bytes_limit {
                return false;
            }
            if run.last() > served {
                return true;
            }
            entries -= run.entries.len();
            cost_bytes -= run.cost_bytes;
        }
        false
    }

    /// Everybody has been given everything, and nobody will come back for it: a `live:` channel keeps nothing longer.
    pub fn clear(&mut self) {
        self.runs.clear();
        (self.entries, self.cost_bytes) = (0, 0);
    }

    /// The fan-out is over: from now on only queues hold the buffers of the latest runs.
    pub fn release_buffers(&mut self) {
        for ring_run in self.runs.iter_mut().rev() {
            if ring_run.held.iter().all(Option::is_none) {
                break;
            }
            ring_run.held = Default::default();
        }
    }

    /// The run that holds this offset.
    pub fn run_with(&mut self, offset: Offset) -> Option<&mut RingRun> {
        if self.runs.back().is_some_and(|r| r.run.first <= offset && offset <= r.run.last()) {
            return self.runs.back_mut();
        }
        let after = self.runs.partition_point(|r| r.run.first <= offset);
        self.runs.get_mut(after.checked_sub(1)?).filter(|r| offset <= r.run.last())
    }

    /// The offset of the oldest publication kept.
    pub fn first(&self) -> Option<Offset> {
        self.runs.front().map(|r| r.run.first)
    }

    /// Entries with offsets above this one, newest run last.
    pub fn entries_after(&self, offset: Offset) -> impl Iterator<Item = &Entry> {
        let from = self.runs.partition_point(|r| r.run.last() <= offset);
        self.runs.range(from..).flat_map(move |r| {
            let skip = (offset + 1).saturating_sub(r.run.first) as usize;
            r.run.entries.iter().skip(skip)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uproar_model::{User, UserId};

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
        })
    }

    /// As a home and a feed do.
    fn add(ring: &mut Ring, first: Offset, mut entries: Vec<Entry>) {
        apply_changes(&mut entries);
        let run = Run::new(first, entries);
        ring.apply(&run, RUN_LIMIT_BYTES);
        ring.push(Arc::new(run), 0, 512, 1 << 20);
    }

    /// Offset, text, edited, deleted.
    type Shown<'a> = (Offset, Option<&'a str>, Option<Offset>, Option<Offset>);

    /// What somebody who comes now is shown.
    fn shown(ring: &Ring) -> Vec<Shown<'_>> {
        fn of(entry: &Entry) -> Shown<'_> {
            let Entry::Stored(p) = entry else { panic!("all are stored") };
            (p.offset, p.body.as_deref(), p.edited, p.deleted)
        }
        ring.entries_after(0).map(of).collect()
    }

    #[test]
    fn a_run_that_edits_make_too_large_is_left_to_the_store() {
        let mut ring = Ring::default();
        add(&mut ring, 1, vec![entry(1, Kind::Message, None, Some("old"))]);
        add(&mut ring, 2, (2..102).map(|offset| entry(offset, Kind::Edit, Some(1), Some("x"))).collect());
        add(&mut ring, 102, vec![entry(102, Kind::Message, None, Some("other"))]);
        add(&mut ring, 103, vec![entry(103, Kind::Edit, Some(1), Some(&"y".repeat(16 * 1024)))]);
        assert_eq!(ring.first(), Some(102));
        assert_eq!((ring.entries, ring.cost_bytes), (2, ring.runs.iter().map(|r| r.run.cost_bytes).sum()));
    }

    #[test]
    fn who_comes_later_is_shown_the_content_that_there_is_now() {
        let mut ring = Ring::default();
        let mut push = |first, entries| add(&mut ring, first, entries);
        push(1, vec![entry(1, Kind::Message, None, Some("one")), entry(2, Kind::Message, Some(1), Some("two"))]);
        let before = ring.run_with(1).unwrap().run.frames(Format::Json, "room:a").bytes().clone();
        let mut push = |first, entries| add(&mut ring, first, entries);
        // One of them in the very run that it changes.
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
        let after = ring.run_with(1).unwrap().run.frames(Format::Json, "room:a").bytes().clone();
        assert_ne!(before, after);

        // What is deleted is gone, and stays so.
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
        // Of one that is changed twice, the later counts: here as everywhere.
        let mut ring = Ring::default();
        add(&mut ring, 1, vec![entry(1, Kind::Message, None, Some("1")), entry(2, Kind::Edit, Some(1), Some("2"))]);
        add(&mut ring, 3, vec![entry(3, Kind::Edit, Some(1), Some("3"))]);
        assert_eq!(shown(&ring)[0], (1, Some("3"), Some(3), None));
        let cost: usize = ring.runs.iter().map(|ring_run| ring_run.run.cost_bytes).sum();
        assert_eq!(ring.cost_bytes, cost);
        assert!(!format!("{ring:?}").contains("1!"), "not in memory either");
    }
}
