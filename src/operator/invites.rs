//! How operators invite people.

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use uproar_http::invites::{INVITE_LIFETIME_LIMIT_S, INVITE_USES_LIMIT, new_code};
use uproar_model::fold_name;
use uproar_store::{NewInvite, Store};

/// The most invites of operators for one room, and without a room.
const INVITES_LIMIT: u64 = 10_000;

/// An invite to create.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// `None`: it only lets people sign up.
    pub room: Option<String>,
    /// `None`: there is no limit.
    pub uses: Option<u32>,
    pub lifetime_s: u64,
}

/// Creates an invite, and returns its code.
///
/// # Errors
/// If there is no such room, a number is out of its range, or the database fails.
pub async fn invite(store: &dyn Store, request: &InviteRequest) -> Result<String> {
    let InviteRequest { room, uses, lifetime_s } = request;
    let room = room.as_deref().map(check_room).transpose()?;
    if uses.is_some_and(|uses| !(1..=INVITE_USES_LIMIT).contains(&uses)) {
        bail!("--uses: it must be from 1 to {INVITE_USES_LIMIT}");
    }
    if !(1..=INVITE_LIFETIME_LIMIT_S).contains(lifetime_s) {
        bail!("--lifetime: it must be from 1 to {INVITE_LIFETIME_LIMIT_S} seconds");
    }
    let new = NewInvite {
        code: new_code().context("the system can't provide random numbers")?,
        room,
        creator: None,
        lifetime_ms: 1000 * lifetime_s,
        uses_limit: *uses,
        limit: INVITES_LIMIT,
    };
    Ok(store.create_invite(new).await?.code)
}

/// Checks a room's name and returns its key.
pub fn check_room(room: &str) -> Result<String> {
    fold_name(room).map_err(|error| anyhow!("--room: '{}' is not a valid room name: it {error}", room.escape_debug()))
}
