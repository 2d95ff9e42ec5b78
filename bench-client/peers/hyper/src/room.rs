//! Rooms, and the channels to their members.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastwebsockets::OpCode;
use hyper::body::Bytes;
use tokio::sync::mpsc::error::{SendError, TrySendError};
use tokio::sync::mpsc::{self, Receiver, Sender};

/// How many messages may wait for a slow member before it is removed. They take memory only while they wait.
const MAX_WAITING: usize = 16 * 1024;

/// The content of a frame. All members share its bytes.
pub type Outgoing = (OpCode, Bytes);

/// Rooms are kept after their last member has left.
#[derive(Clone, Default)]
pub struct Rooms(Arc<Mutex<HashMap<String, Arc<Room>>>>);

#[derive(Default)]
struct Room(Mutex<Vec<Sender<Outgoing>>>);

/// A member of a room, which it leaves on drop.
pub struct Member {
    room: Arc<Room>,
    sender: Sender<Outgoing>,
    receiver: Option<Receiver<Outgoing>>,
}

impl Rooms {
    pub fn join(&self, name: String) -> Member {
        let room = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().clone();
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        room.members().push(sender.clone());
        Member { room, sender, receiver: Some(receiver) }
    }
}

impl Room {
    fn members(&self) -> MutexGuard<'_, Vec<Sender<Outgoing>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Takes the receiver of the room's messages. Panics at the second call.
    pub fn take_receiver(&mut self) -> Receiver<Outgoing> {
        self.receiver.take().expect("a member has one receiver")
    }

    /// Sends a message to all members of the room, including this one.
    pub fn broadcast(&self, message: Outgoing) {
        self.room.members().retain(|member| match member.try_send(message.clone()) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => {
                peers::note(format_args!("hyper: a client has {MAX_WAITING} unsent messages and is removed"));
                false
            }
        });
    }

    /// Sends a message to this member only.
    pub fn send(&self, message: Outgoing) -> Result<(), SendError<()>> {
        self.sender.try_send(message).map_err(|_| SendError(()))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.room.members().retain(|member| !member.same_channel(&self.sender));
    }
}
