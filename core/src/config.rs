//! What a shard is made with.

use crate::bus::BusState;
use crate::limits::Limits;
use std::sync::Arc;
use uproar_model::{Claims, Lease, Revocations, TokenError};

/// Checks a token's signature and time (Unix seconds). A pure function: no database, no clock.
pub type Verify = Arc<dyn Fn(&str, u64) -> Result<Claims, TokenError> + Send + Sync>;

/// Whether pages of an origin may connect, given the `Host` of the request.
pub type AllowOrigin = Arc<dyn Fn(&str, Option<&str>) -> bool + Send + Sync>;

/// What a shard is made with. Everything except `id` is the same for all shards of a node.
#[derive(Clone)]
pub struct ShardConfig {
    pub id: u16,
    pub shards: u16,
    pub lanes: u16,
    pub limits: Limits,
    pub verify: Verify,
    /// Serve `/echo`.
    pub echo: bool,
    /// Accept `?token=`.
    pub query_token: bool,
    pub allow_origin: AllowOrigin,
    /// Drawn at start. Places rooms on shards, and is part of the ids of messages without one.
    pub seed: u64,
    /// The revocations of tokens that may not have expired yet.
    pub revocations: Revocations,
    pub bus: Arc<BusState>,
    pub lease: Lease,
}
