//! What the handlers of commands share.

use crate::connections::Arrival;
use crate::ids::{CommandId, Slot};
use crate::protocol::{self, ProtocolError};

pub(super) const NOT_SUBSCRIBED: &str = "this connection is not subscribed to the channel";

/// The result of a command. An error becomes its reply.
pub(super) type Answered = Result<(), ProtocolError>;

/// A command that is to be answered: the connection it came from, its id, and when it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct CommandContext {
    pub slot: Slot,
    pub id: CommandId,
    pub arrival: Arrival,
}

pub(super) fn bad_request(text: &str) -> ProtocolError {
    ProtocolError::new(protocol::BAD_REQUEST, text)
}
