//! What other nodes announce. An announcement may come late, twice, or not at all, so it only counts where it continues
//! what the home has shown. Otherwise it is a reason to read the head.

use super::Homes;
use crate::context::Context;
use crate::host::Host;
use crate::message::Channel;
use crate::mutation::{self, Mutation};
use uproar_model::{DatabaseGeneration, Publication, RoomId};

impl Homes {
    /// Another node has committed something in this room. `None`: only the head tells what.
    pub fn on_announced(
        &mut self,
        cx: &mut Context,
        room: RoomId,
        generation: Option<DatabaseGeneration>,
        publication: Option<Publication>,
        host: &mut impl Host,
    ) {
        let channel = Channel::Room(room);
        let Some(home) = self.homes.get_mut(&channel) else { return };
        // While the head is being read, it may be older than what is announced: it is read again.
        let publication = publication.filter(|_| home.is_loaded && home.is_of(generation));
        let next = home.learned + 1;
        let held_limit = cx.limits().held_limit_publications;
        match publication {
            Some(publication) if publication.offset < next => {}
            Some(publication) if publication.offset == next => {
                self.learn(cx, room, generation, next, Some(publication), host);
            }
            Some(publication) if mutation::active(Mutation::AnnouncementCountsAsShown) => {
                home.learned = publication.offset;
            }
            Some(publication) if publication.offset - next < held_limit => {
                home.hold(publication, held_limit as usize);
                self.doubt_later(cx, room);
            }
            _ => {
                home.is_in_doubt = true;
                self.read_missing(cx, &channel, host);
            }
        }
    }

    /// Something is known that comes after a gap. Two nodes that write to one room are the normal case: what is missing
    /// is probably on its way.
    pub(super) fn doubt_later(&mut self, cx: &Context, room: RoomId) {
        let Some(home) = self.homes.get_mut(&Channel::Room(room)) else { return };
        if !std::mem::replace(&mut home.has_doubt, true) {
            self.doubts.push_back((cx.now.ms + cx.limits().bus_gap_wait_ms, room));
        }
    }

    /// Reads the heads of the rooms in which something that was announced still waits for what is before it.
    pub fn settle_doubts(&mut self, cx: &mut Context, host: &mut impl Host) {
        while let Some((due_ms, room)) = self.doubts.front().copied()
            && due_ms <= cx.now.ms
        {
            self.doubts.pop_front();
            let channel = Channel::Room(room);
            let Some(home) = self.homes.get_mut(&channel) else { continue };
            home.has_doubt = false;
            if home.holds_more() {
                home.is_in_doubt = true;
                self.read_missing(cx, &channel, host);
            }
        }
    }

    /// When the next doubt is due.
    pub(super) fn doubts_deadline_ms(&self) -> Option<u64> {
        self.doubts.front().map(|(due_ms, _)| *due_ms)
    }
}
