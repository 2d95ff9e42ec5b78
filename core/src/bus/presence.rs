//! What nodes tell each other about who is in a channel. Each speaks only of its own clients.

use crate::message::Channel;
use crate::protocol::centrifuge::ClientInfo;

/// What a node says about its own clients in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePresence {
    pub channel: Channel,
    /// The shard that is the channel's home on that node.
    pub shard: u16,
    /// Which home: one that is made again has another number.
    pub home: u64,
    /// Rises with everything that the shard says about presence.
    pub version: u64,
    pub news: PresenceNews,
}

/// See [`NodePresence`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresenceNews {
    /// All clients, in parts whose versions follow each other. `is_new`: the home knows nothing of the other nodes'
    /// clients, and wants to be told.
    All { clients: Vec<ClientInfo>, part: u32, parts: u32, is_new: bool },
    /// How many clients and users there are, where they are too many to name.
    Counted { clients: u64, users: u64, is_new: bool },
    /// Who came and went after the version `after`.
    Changed { after: u64, joined: Vec<ClientInfo>, left: Vec<String> },
}
