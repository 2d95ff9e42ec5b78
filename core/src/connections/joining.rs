//! The state of a client on its way into a channel.

use crate::ids::Serial;
use crate::message::{Channel, Interest};
use std::sync::Arc;
use uproar_model::{Admission, Epoch, Offset};

/// A client on its way into a channel.
#[derive(Debug)]
pub(crate) struct Joining {
    /// The channel as clients name it: `room:<key>` or `live:<name>`.
    pub name: Arc<str>,
    pub since: Option<Since>,
    pub admission: Option<Admission>,
    /// The room's head as its home read it, if `since` was above this shard's position.
    pub head: Option<(Epoch, Offset)>,
    /// The serial of the question under way.
    pub serial: Serial,
    /// In the reader's answer to it.
    pub interest: Option<Interest>,
}

/// The position from which a client resumes.
#[derive(Clone, Debug)]
pub(crate) struct Since {
    pub offset: Offset,
    pub epoch: Option<String>,
}

impl Joining {
    pub fn new(name: Arc<str>, since: Option<Since>) -> Joining {
        Joining { name, since, admission: None, head: None, serial: Serial(0), interest: None }
    }

    /// The room's key; `None` for a `live:` channel.
    pub fn room_key(&self) -> Option<&str> {
        self.name.strip_prefix("room:")
    }

    /// The channel, once it is known.
    pub fn channel(&self) -> Option<Channel> {
        match (&self.admission, self.name.strip_prefix("live:")) {
            (_, Some(name)) => Some(Channel::Live(name.into())),
            (Some(admission), None) => Some(Channel::Room(admission.room)),
            (None, None) => None,
        }
    }
}
