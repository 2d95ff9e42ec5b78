//! The effect of edits and deletions on earlier publications. Anyone who reads a message after an edit must get its
//! current content, from memory as from the database.

use crate::protocol::Entry;
use std::collections::BTreeMap;
use std::sync::Arc;
use uproar_model::{Kind, Offset, Publication, UserId};

/// The change that one edit or deletion makes to its target.
pub(super) struct Edit {
    target: Offset,
    /// `None`: the message is deleted.
    text: Option<Arc<str>>,
    /// The offset of the edit or deletion.
    offset: Offset,
}

impl Edit {
    fn of(entry: &Entry) -> Option<Edit> {
        let Entry::Stored(p) = entry else { return None };
        let text = match p.kind {
            // An edit that was read from the store carries the message's current text, or none if it was deleted since.
            Kind::Edit => p.body.clone(),
            Kind::Delete => None,
            _ => return None,
        };
        Some(Edit { target: p.target?, text, offset: p.deleted.unwrap_or(p.offset) })
    }

    /// Whether this edit changes a publication: the message itself, or an earlier edit of it.
    fn concerns(&self, p: &Publication) -> bool {
        // A deletion is final, and an older edit does not undo a newer one.
        p.deleted.is_none() && p.edited.is_none_or(|edited| edited < self.offset) && p.offset < self.offset
    }

    fn apply(&self, p: &mut Publication) {
        p.body = self.text.clone();
        match self.text {
            None => {
                p.deleted = Some(self.offset);
                p.meta = None;
            }
            Some(_) if p.kind == Kind::Message => p.edited = Some(self.offset),
            Some(_) => {}
        }
    }
}

/// The latest edit of each message, by the message's offset.
#[derive(Default)]
pub(super) struct Edits(BTreeMap<Offset, Edit>);

impl Edits {
    /// The edits that these entries make to earlier ones.
    pub fn of(entries: &[Entry]) -> Edits {
        let mut edits = Edits::default();
        entries.iter().rev().for_each(|entry| edits.add_earlier(entry));
        edits
    }

    /// The lowest offset that an edit changes.
    pub fn first_target(&self) -> Option<Offset> {
        self.0.first_key_value().map(|(target, _)| *target)
    }

    pub fn concern(&self, entry: &Entry) -> bool {
        self.edit_of(entry).is_some()
    }

    pub fn apply(&self, entry: &mut Entry) {
        if let Some(edit) = self.edit_of(entry)
            && let Entry::Stored(p) = entry
        {
            edit.apply(p);
        }
    }

    /// Adds the edit of an entry that comes before all those added so far.
    fn add_earlier(&mut self, entry: &Entry) {
        if let Some(edit) = Edit::of(entry) {
            self.0.entry(edit.target).or_insert(edit);
        }
    }

    fn edit_of(&self, entry: &Entry) -> Option<&Edit> {
        let Entry::Stored(p) = entry else { return None };
        let edit = match p.kind {
            Kind::Message => self.0.get(&p.offset),
            Kind::Edit => self.0.get(&p.target?),
            _ => None,
        };
        edit.filter(|edit| edit.concerns(p))
    }
}

/// Gives each message the content that later entries of the same list edit it to.
pub fn apply_edits(entries: &mut [Entry]) {
    let mut edits = Edits::default();
    for entry in entries.iter_mut().rev() {
        edits.apply(entry);
        edits.add_earlier(entry);
    }
}

/// The user whose removal from the room this entry is, and the offset of it.
pub(crate) fn removal(entry: &Entry) -> Option<(UserId, Offset)> {
    match entry {
        Entry::Stored(p) if p.kind == Kind::Removed => Some((UserId(p.member()?.id.parse().ok()?), p.offset)),
        _ => None,
    }
}
