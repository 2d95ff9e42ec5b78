//! What subscribers see: the rows of a room's log, with the content they have now.

use crate::{Epoch, Kind, Number, Offset, UnixMillis, User};
use std::sync::Arc;

/// One event of a room, as it is shown: live, in history and after a resume alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    pub offset: Offset,
    /// Messages in the room up to and including this one.
    pub number: Number,
    pub kind: Kind,
    pub user: User,
    /// The sender's id as stored; one that begins with `~` was made by the server and is not shown.
    pub id: Arc<str>,
    pub time: UnixMillis,
    /// `Message`: the offset replied to. `Edit` … `Unreact`: the message meant.
    pub target: Option<Offset>,
    /// `Message`: its text now, none when deleted. `React`, `Unreact`: the emoji. `Removed`: the user's id.
    /// `Edit`: the text that the message has *now* (its row holds it, the edit's does not), none when deleted.
    pub body: Option<Arc<str>>,
    /// `Message`: the offset of its last edit.
    pub edited: Option<Offset>,
    /// `Message`: the offset of its deletion. `Edit`: that of the message it edited.
    pub deleted: Option<Offset>,
}

/// The last committed offset and number of a room, and the epoch in which they mean something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub epoch: Epoch,
    pub offset: Offset,
    pub number: Number,
}

/// Some publications of a room, and the head at the moment they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub publications: Vec<Publication>,
    pub head: Head,
    /// Whether there were more in the direction asked for.
    pub more: bool,
}
