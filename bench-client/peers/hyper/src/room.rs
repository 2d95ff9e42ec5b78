//! Rooms: who is in them, and the channels to their members.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastwebsockets::OpCode;
use hyper::body::Bytes;
use tokio::sync::mpsc::error::{SendError, TrySendError};
use tokio::sync::mpsc::{self, Receiver, Sender};

/// Messages that may wait for a member before it is given up; none costs memory before it waits.
const MAX_WAITING: usize = 16 * 1024;

/// What becomes a frame; its bytes are shared by all members.
pub type Outgoing = (OpCode, Bytes);

/// Rooms stay when their last member has gone.
#[derive(Clone, Default)]
pub struct Rooms(Arc<Mutex<HashMap<String, Arc<Room>>>>);

#[derive(Default)]
struct Room(Mutex<Vec<Sender<Outgoing>>>);

/// A place in a room, which is left when this is dropped.
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
    /// Where what is said in the room arrives. Panics the second time.
    pub fn take_receiver(&mut self) -> Receiver<Outgoing> {
        self.receiver.take().expect("a member has one receiver")
    }

    /// Says something to all in the room, this member too.
    pub fn say(&self, message: Outgoing) {
        self.room.members().retain(|member| match member.try_send(message.clone()) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(_)) => {
                eprintln!("hyper: a client has {MAX_WAITING} messages waiting and is given up");
                false
            }
        });
    }

    /// Says something to this member alone.
    pub fn tell(&self, message: Outgoing) -> Result<(), SendError<()>> {
        self.sender.try_send(message).map_err(|_| SendError(()))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.room.members().retain(|member| !member.same_channel(&self.sender));
    }
}
