//! Homes: the state of the channels that hash to this shard. A home learns what was committed, shows it in order, and
//! feeds the shards that have subscribers. Homes are reached by messages only.
//!
//! | file | holds |
//! | --- | --- |
//! | `home.rs` | one home: what it has learned, shown, and sent to which shard |
//! | `announced.rs` | what other nodes announce |
//! | `learning.rs` | appends on their way to a lane and back, gaps, heads |
//! | `sweep.rs` | comparing the heads of all homes with the store |
//! | `showing.rs` | attaching and feeding shards |
//! | `presence.rs` | who is in a channel, on all shards |
//! | `peers.rs` | who is in a channel on other nodes |

mod announced;
mod home;
mod learning;
mod peers;
mod presence;
mod showing;
mod sweep;

use crate::context::Context;
use crate::message::{Channel, Message};
use home::Home;
use peers::Telling;
use std::collections::{BTreeSet, HashMap, VecDeque};
use sweep::Sweep;
use uproar_model::RoomId;

/// How long after a failed read a home reads again.
const READ_RETRY_MS: u64 = 100;

pub(crate) struct Homes {
    homes: HashMap<Channel, Home, ahash::RandomState>,
    /// Homes that have something to show at the end of the turn.
    to_show: Vec<Channel>,
    /// Homes with something to retry: a segment whose queue was full, or a read that found no credit or failed.
    stalled: Vec<Channel>,
    sweep: Sweep,
    /// Rooms in which something is known that is not the next publication, and when their heads are read, earliest
    /// first.
    doubts: VecDeque<(u64, RoomId)>,
    /// How many homes there have been.
    count: u64,
    /// `Lost` and `Closed` messages whose queue was full, and the shards that they are for.
    endings: Vec<(u16, Message)>,
    /// Homes that have presence to report, by the time at which they may do so.
    online_due: BTreeSet<(u64, Channel)>,
    /// The same for presence that other nodes are to be told.
    peers_due: BTreeSet<(u64, Channel)>,
    /// Other nodes are being told who is in all channels.
    telling: Option<Telling>,
    /// The version of what other nodes were told last.
    presence_version: u64,
}

impl Homes {
    pub fn new(hasher: ahash::RandomState) -> Homes {
        Homes {
            homes: HashMap::with_hasher(hasher),
            to_show: Vec::new(),
            stalled: Vec::new(),
            sweep: Sweep::default(),
            doubts: VecDeque::new(),
            count: 0,
            endings: Vec::new(),
            online_due: BTreeSet::new(),
            peers_due: BTreeSet::new(),
            telling: None,
            presence_version: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.homes.len()
    }

    /// The shard has done nothing for this long.
    pub fn extend_deadlines(&mut self, pause_ms: u64) {
        for home in self.homes.values_mut() {
            home.gap_since_ms = home.gap_since_ms.map(|since_ms| since_ms + pause_ms);
        }
    }

    /// When a turn has something to do here at the latest.
    pub fn deadline_ms(&self, cx: &Context) -> Option<u64> {
        // Nothing tells when a full queue has places again, so the next turn comes soon.
        let is_waiting = !self.stalled.is_empty() || !self.endings.is_empty();
        let retry = is_waiting.then_some(cx.now.ms + 1);
        let online = self.online_due.first().map(|(due, _)| *due);
        let owners = [retry, online, self.tell_deadline_ms(), self.sweep.deadline_ms(cx), self.doubts_deadline_ms()];
        owners.into_iter().flatten().min()
    }

    fn mark_to_show(to_show: &mut Vec<Channel>, channel: &Channel, home: &mut Home) {
        if !std::mem::replace(&mut home.is_to_show, true) {
            to_show.push(channel.clone());
        }
    }

    fn mark_stalled(stalled: &mut Vec<Channel>, channel: &Channel, home: &mut Home) {
        if !std::mem::replace(&mut home.is_stalled, true) {
            stalled.push(channel.clone());
        }
    }
}
