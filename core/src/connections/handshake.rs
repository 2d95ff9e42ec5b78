//! The state of a connection before it is open.

use super::joining::Joining;
use super::session::Arrival;
use crate::ids::{CommandId, Serial};
use crate::message::Interest;
use crate::protocol::centrifuge::Encoding;
use crate::protocol::{Format, plain};
use crate::websocket::UpgradeRequest;
use uproar_model::{Claims, User};

/// A plain connection that waits for the answer to its upgrade.
#[derive(Debug)]
pub(crate) struct Handshake {
    pub request: UpgradeRequest,
    pub parameters: UpgradeParameters,
    pub user: Option<User>,
    pub joining: Joining,
}

/// What an upgrade asks for, and its token.
#[derive(Debug)]
pub(crate) struct UpgradeParameters {
    /// The subprotocol to name in the answer.
    pub subprotocol: Option<String>,
    pub claims: Claims,
    pub format: Format,
    pub input: plain::InputFormat,
}

/// A connection of the Centrifugo protocol before its `connect` was answered.
#[derive(Debug)]
pub(crate) struct Connecting {
    pub encoding: Encoding,
    /// The client wants WebSocket pings instead of the protocol's.
    pub uses_frame_pings: bool,
    /// The `Authorization` headers of the upgrade.
    pub authorization: Vec<String>,
    /// The token in the upgrade's query, where that is allowed.
    pub query_token: Option<String>,
    /// The token's user is being looked up.
    pub authenticating: Option<Authenticating>,
}

/// A `connect` that waits for the store.
#[derive(Debug)]
pub(crate) struct Authenticating {
    pub command: CommandId,
    pub claims: Claims,
    pub serial: Serial,
    pub arrival: Arrival,
    pub deadline_ms: u64,
    /// In the answer of the store.
    pub _interest: Interest,
    /// The commands after `connect` in its frame.
    pub rest: Vec<u8>,
}
