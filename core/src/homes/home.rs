//! One home. Publications may become known out of order; they are shown strictly in order. Exactly the next offset is
//! taken, a higher one waits until the gap is filled, and a lower one is known already.

use super::presence::Presence;
use crate::log::{Ring, removal};
use crate::message::{AskingHome, AttachOutcome};
use crate::mutation::{self, Mutation};
use crate::protocol::Entry;
use std::collections::BTreeMap;
use uproar_model::{DatabaseGeneration, Epoch, Offset, Publication, RoomId, UserId};

#[derive(Debug)]
pub(super) struct Home {
    /// Counts the homes that the shard has had.
    pub number: u64,
    /// `None` while the head is being read, and for `live:` channels.
    pub epoch: Option<Epoch>,
    /// The one that the epoch belongs to. While the head is being read: the one in which `held` is stored.
    pub generation: Option<DatabaseGeneration>,
    /// Something was announced that is stored in another generation: the head must be read.
    pub is_in_doubt: bool,
    /// Whether it was in doubt when it asked the store last.
    pub asked_in_doubt: bool,
    /// Whether it is in `Homes::doubts`.
    pub has_doubt: bool,
    pub is_loaded: bool,
    /// The last offset learned without a gap.
    pub learned: Offset,
    /// Learned, and to be shown at the end of the turn. The last entry has the offset `learned`.
    pub fresh: Vec<Entry>,
    /// The last offset shown, which is the home's position.
    pub shown: Offset,
    pub ring: Ring,
    pub fed_shards: Vec<FedShard>,
    /// Shards whose attach waits for the head.
    pub waiting: Vec<u16>,
    /// Learned, but after a gap.
    held: BTreeMap<Offset, Publication>,
    /// The highest offset heard of.
    pub known: Offset,
    /// Since when there is a gap.
    pub gap_since_ms: Option<u64>,
    pub is_reading: bool,
    /// The store is not asked again before this time.
    pub read_after_ms: u64,
    pub is_to_show: bool,
    pub is_stalled: bool,
    pub presence: Presence,
}

/// A shard that is fed.
#[derive(Debug)]
pub(super) struct FedShard {
    pub shard: u16,
    /// The last offset sent to it.
    pub sent: Offset,
    /// Up to which offset `removed` is known.
    noted: Offset,
    /// While its queue is full: the users who were removed by publications that it has not been sent, with the offset
    /// of the last removal. The ring may lose those publications.
    removed: BTreeMap<UserId, Offset>,
}

impl FedShard {
    /// Its queue is full: notes whom the publications remove that it has not been sent.
    pub fn note_removals(&mut self, ring: &Ring, shown: Offset) {
        for entry in ring.entries_after(self.noted.max(self.sent)) {
            self.removed.extend(removal(entry));
        }
        self.noted = shown;
    }

    /// It skips what it has not been sent up to this offset. Returns whom the skipped publications remove, and where.
    pub fn skip_to(&mut self, shown: Offset) -> Vec<(UserId, Offset)> {
        let removed = std::mem::take(&mut self.removed).into_iter().filter(|(_, offset)| *offset > self.sent).collect();
        self.sent = shown;
        removed
    }

    /// It has been sent everything.
    pub fn forget_removals(&mut self) {
        if !self.removed.is_empty() {
            self.removed = BTreeMap::new();
        }
    }
}

impl Home {
    /// `is_live`: the home of a `live:` channel, which has nothing to load.
    pub fn new(number: u64, is_live: bool) -> Home {
        Home {
            number,
            epoch: None,
            generation: None,
            is_in_doubt: false,
            asked_in_doubt: false,
            has_doubt: false,
            is_loaded: is_live,
            learned: 0,
            fresh: Vec::new(),
            shown: 0,
            ring: Ring::default(),
            fed_shards: Vec::new(),
            waiting: Vec::new(),
            held: BTreeMap::new(),
            known: 0,
            gap_since_ms: None,
            is_reading: false,
            read_after_ms: 0,
            is_to_show: false,
            is_stalled: false,
            presence: Presence::default(),
        }
    }

    /// This home, as it asks the store.
    pub fn asking(&self, room: RoomId) -> AskingHome {
        AskingHome { room, number: self.number, learned: self.learned }
    }

    pub fn is_fed(&self, shard: u16) -> bool {
        self.fed_shards.iter().any(|fed| fed.shard == shard)
    }

    /// Feeds a shard with everything that is shown from now on.
    pub fn feed(&mut self, shard: u16) -> AttachOutcome {
        self.stop_feeding(shard);
        self.fed_shards.push(FedShard { shard, sent: self.shown, noted: self.shown, removed: BTreeMap::new() });
        AttachOutcome::Attached { epoch: self.epoch.clone(), position: self.shown }
    }

    pub fn stop_feeding(&mut self, shard: u16) {
        self.fed_shards.retain(|fed| fed.shard != shard);
        self.presence.forget_shard(shard);
    }

    /// The head was read.
    pub fn load(&mut self, epoch: Epoch, offset: Offset) {
        let generation = epoch.generation();
        if self.generation != generation && !mutation::active(Mutation::HomeIgnoresEpoch) {
            self.is_in_doubt |= self.known > 0;
            self.known = 0;
            self.held.clear();
        }
        self.generation = generation;
        self.epoch = Some(epoch);
        self.is_loaded = true;
        self.learned = offset;
        self.shown = offset;
    }

    /// Whether something that was stored in this generation belongs to the history that is shown here. While the head
    /// is being read, nobody knows which one that will be: then it is the one of what was announced first.
    pub fn is_of(&mut self, generation: Option<DatabaseGeneration>) -> bool {
        if !self.is_loaded && self.known == 0 {
            self.generation = generation;
        }
        generation.is_some() && self.generation == generation || mutation::active(Mutation::HomeIgnoresEpoch)
    }

    pub fn has_gap(&self) -> bool {
        self.is_loaded && self.learned < self.known
    }

    /// The last offset that must be read to close the gap. What is held need not be read.
    pub fn gap_end(&self) -> Offset {
        self.held.first_key_value().map_or(self.known, |(first, _)| self.known.min(*first))
    }

    /// Learns one publication, or only that its offset exists. Returns whether there is something new to show.
    pub fn learn(&mut self, offset: Offset, publication: Option<Publication>, held_limit: usize) -> bool {
        if self.is_loaded && offset <= self.learned {
            return false;
        }
        self.known = self.known.max(offset);
        if let Some(publication) = publication
            // A publication that is not held is read from the store later.
            && (self.held.len() < held_limit || self.is_loaded && offset == self.learned + 1)
        {
            self.held.insert(offset, publication);
        }
        self.take_next()
    }

    /// Keeps a publication that was announced until it is the next. This does not make it known: an announcement may be
    /// wrong.
    pub fn hold(&mut self, publication: Publication, held_limit: usize) {
        if self.held.len() < held_limit {
            self.held.insert(publication.offset, publication);
        }
    }

    /// Whether it holds publications that are not the next.
    pub fn holds_more(&self) -> bool {
        !self.held.is_empty()
    }

    /// Moves the publications that follow without a gap from `held` to `fresh`. Returns whether there are any.
    pub fn take_next(&mut self) -> bool {
        if !self.is_loaded {
            return false;
        }
        let before = self.learned;
        while let Some(entry) = self.held.first_entry() {
            if *entry.key() > self.learned + 1 {
                break;
            }
            let publication = entry.remove();
            if publication.offset == self.learned + 1 {
                self.learned += 1;
                self.fresh.push(Entry::Stored(publication));
            }
        }
        self.known = self.known.max(self.learned);
        self.learned > before
    }
}
