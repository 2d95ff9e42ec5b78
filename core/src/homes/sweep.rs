//! The sweep regularly compares the heads of all homes with the store. It finds what no home was told of, such as a
//! commit that was given up and that no later one follows, or one of another node. Alone it is enough to be correct.

use super::{Homes, READ_RETRY_MS};
use crate::context::Context;
use crate::host::Host;
use crate::message::{Asker, AskingHome, Channel, Message, Requester, StoreReply, StoreRequest};
use uproar_model::RoomId;

/// The most rooms in one question. One question of a shard is under way at a time.
const ROOMS_LIMIT: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// When the last round began.
    begun_ms: u64,
    /// Rooms that this round still has to ask for, in descending order.
    left: Vec<RoomId>,
    /// The homes that are being asked about, sorted by room. Empty if no question is under way.
    asked: Vec<AskingHome>,
    /// Nothing is asked before this time, because the last question found no credit, or no answer.
    rests_until_ms: u64,
    /// A round must begin as soon as this one is over.
    is_urgent: bool,
    /// Whether there may be homes to ask for.
    is_armed: bool,
}

impl Sweep {
    /// A home has loaded its room.
    pub fn on_loaded(&mut self, now_ms: u64) {
        if !std::mem::replace(&mut self.is_armed, true) {
            self.begun_ms = now_ms;
        }
    }

    /// When the next question is due. `None`: there is nothing to ask.
    pub fn deadline_ms(&self, cx: &Context) -> Option<u64> {
        if !self.asked.is_empty() || !self.is_armed {
            return None;
        }
        let is_due = self.is_urgent || !self.left.is_empty();
        let at_ms = if is_due { cx.now.ms } else { self.begun_ms + cx.sweep_interval_ms() };
        Some(at_ms.max(self.rests_until_ms))
    }
}

impl Homes {
    /// The heads may have changed without a home knowing.
    pub fn sweep_now(&mut self) {
        self.sweep.is_urgent = true;
        // The sweep leaves out homes that are reading their heads, which may be older.
        for home in self.homes.values_mut().filter(|home| !home.is_loaded) {
            home.is_in_doubt = true;
        }
    }

    /// Asks the store for the rooms whose heads differ from what their homes know, if that is due.
    pub fn sweep(&mut self, cx: &mut Context, host: &mut impl Host) {
        if self.sweep.deadline_ms(cx).is_none_or(|at_ms| cx.now.ms < at_ms) {
            return;
        }
        if self.sweep.left.is_empty() {
            let rooms = self.homes.iter().filter(|(_, home)| home.is_loaded);
            let rooms = rooms.filter_map(|(channel, _)| match channel {
                Channel::Room(room) => Some(*room),
                Channel::Live(_) => None,
            });
            self.sweep.left = rooms.collect();
            self.sweep.left.sort_unstable_by(|a, b| b.cmp(a));
            self.sweep.begun_ms = cx.now.ms;
            self.sweep.is_urgent = false;
            self.sweep.is_armed = !self.sweep.left.is_empty();
        }
        let mut asked = Vec::new();
        while asked.len() < ROOMS_LIMIT
            && let Some(room) = self.sweep.left.pop()
        {
            let home = self.homes.get(&Channel::Room(room)).filter(|home| home.is_loaded);
            asked.extend(home.map(|home| home.asking(room)));
        }
        if asked.is_empty() {
            return;
        }
        let heads = asked.iter().map(|asking| (asking.room, asking.learned)).collect();
        let asker = Asker::shard(cx.messenger.id);
        if cx.messenger.read(Requester::Sweep, asker, StoreRequest::Sweep { heads }, host) {
            self.sweep.asked = asked;
        } else {
            self.repeat(cx, asked);
        }
    }

    fn repeat(&mut self, cx: &Context, asked: Vec<AskingHome>) {
        self.sweep.left.extend(asked.into_iter().rev().map(|asking| asking.room));
        self.sweep.rests_until_ms = cx.now.ms + READ_RETRY_MS;
    }

    /// The store has answered.
    pub fn on_swept(&mut self, cx: &mut Context, reply: StoreReply, host: &mut impl Host) {
        let asked = std::mem::take(&mut self.sweep.asked);
        let StoreReply::Swept(swept) = reply else { return self.repeat(cx, asked) };
        for (room, head) in &swept.heads {
            if let Ok(index) = asked.binary_search_by_key(room, |asking| asking.room) {
                self.on_store_head(cx, asked[index], head.as_ref(), host);
            }
        }
        for asking in asked {
            let home = self.home_that_asked(asking);
            if home.is_some_and(|home| !home.is_of(Some(swept.generation))) {
                let channel = Channel::Room(asking.room);
                self.abandon(cx, &channel, &Message::Lost { channel: channel.clone() }, host);
            }
        }
    }
}
