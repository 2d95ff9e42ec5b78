//! The state of a client on its way into a channel.

use crate::ids::Serial;
use crate::message::{Channel, Interest};
use crate::protocol::room_of_live;
use std::sync::Arc;
use uproar_model::{Admission, Epoch, Offset};

/// A client on its way into a channel.
#[derive(Debug)]
pub(crate) struct Joining {
    /// The channel as clients name it: `room:<key>` or `live:<name>`.
    pub name: Arc<str>,
    pub since: Option<Since>,
    pub admission: Option<Admission>,
    /// The client is a guest of the room to which the `live:` channel belongs, so that it learns when the user is
    /// removed from it.
    pub is_guest: bool,
    /// The room's head as its home read it, if `since` was above this shard's position.
    pub head: Option<(Epoch, Offset)>,
    /// The serial of the question under way.
    pub serial: Serial,
    /// In the reader's answer to it.
    pub interest: Option<Interest>,
    /// When the reader was asked for what is known of the user; 0 if it was not.
    pub asked_ms: u64,
}

/// The position from which a client resumes.
#[derive(Clone, Debug)]
pub(crate) struct Since {
    pub offset: Offset,
    pub epoch: Option<String>,
}

impl Joining {
    pub fn new(name: Arc<str>, since: Option<Since>) -> Joining {
        Joining {
            name,
            since,
            admission: None,
            is_guest: false,
            head: None,
            serial: Serial(0),
            interest: None,
            asked_ms: 0,
        }
    }

    /// The key of the room whose members may join; `None` for a `live:` channel that is open to everybody.
    pub fn room_key(&self) -> Option<&str> {
        self.name.strip_prefix("room:").or_else(|| room_of_live(self.live_name()?))
    }

    /// The name of a `live:` channel, without the prefix.
    pub fn live_name(&self) -> Option<&str> {
        self.name.strip_prefix("live:")
    }

    /// The channel whose feed the client waits for, once it is known, and its name: first the room of a `live:` channel
    /// that belongs to one, then the channel itself.
    pub fn next_feed(&self) -> Option<(Channel, Arc<str>)> {
        match (self.live_name(), &self.admission) {
            (Some(live), _) if self.is_guest || self.room_key().is_none() => {
                Some((Channel::Live(live.into()), Arc::clone(&self.name)))
            }
            (Some(_), Some(admission)) => {
                Some((Channel::Room(admission.room), format!("room:{}", self.room_key()?).into()))
            }
            (None, admission) => Some((Channel::Room(admission.as_ref()?.room), Arc::clone(&self.name))),
            (Some(_), None) => None,
        }
    }
}
