//! The operator's socket: how commands such as `uproar password` reach the server that uses the same data folder.
//!
//! It is a Unix socket in the data folder, which only the server's user and root can use. A command connects, sends one
//! line of JSON, a [`Request`], and gets one line of JSON, a [`Response`].

mod api_keys;
pub mod client;
mod invites;
pub mod server;

pub use api_keys::{KeyRequest, execute as manage_keys};
pub use invites::{InviteRequest, check_room, invite};

use anyhow::{Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use uproar_http::{Tokens, passwords};
use uproar_model::text::normalize_password;
use uproar_model::{Clock, Revocation, fold_name};
use uproar_store::Store;

/// The socket's name in the data folder.
pub const SOCKET_FILE: &str = "uproar.sock";
/// The longest request, in bytes.
const LINE_LIMIT_BYTES: u64 = 16 * 1024;
/// The longest answer, in bytes.
const ANSWER_LIMIT_BYTES: u64 = 4 * 1024 * 1024;
/// The longest path of a socket, in bytes: `sun_path` with its final zero has 108.
const PATH_LIMIT_BYTES: usize = 107;

/// What a command asks of the server.
#[derive(Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// A new token for this user.
    Token { user: String, lifetime_s: u64 },
    /// A new password for this user.
    Password { user: String, password: String },
    /// Something about the keys of the server API.
    ApiKey(KeyRequest),
    /// The code of a new invite.
    Invite(InviteRequest),
}

/// What the server answers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// What the command has to print: a token, a key, a table, or nothing.
    Done(String),
    /// One line that says why nothing was done.
    Failed(String),
}

/// Mints a token. `user`: the user's name. `clock`: the database's, or this machine's where no server runs.
///
/// # Errors
/// If no user can have this name.
pub fn mint(tokens: &Tokens, clock: &Clock, user: &str, lifetime_s: u64) -> Result<String> {
    check_name(user)?;
    Ok(tokens.mint(user, clock.unix_s(), lifetime_s))
}

/// Sets a password, and ends the validity of the user's tokens. It takes a moment of computing.
///
/// # Errors
/// If the password is not acceptable, there is no such user, or the database fails.
pub async fn set_password(store: &dyn Store, user: &str, password: &str) -> Result<Revocation> {
    let key = check_name(user)?;
    let password = normalize_password(password);
    let hash = tokio::task::spawn_blocking(move || passwords::hash_new(&password)).await?;
    let hash = hash.map_err(anyhow::Error::msg)?;
    let Some(account) = store.account_named(&key).await? else { bail!("there is no user '{user}'") };
    let changed = store.set_password(account.id, None, &hash).await?;
    changed.ok_or_else(|| anyhow!("there is no user '{user}' any more"))
}

/// Checks a user's name and returns its key.
pub fn check_name(user: &str) -> Result<String> {
    fold_name(user).map_err(|error| anyhow!("--user: '{}' is not a valid user name: it {error}", user.escape_debug()))
}

/// Calls `with` with a path of the socket in this folder that is short enough for a socket's address.
fn with_socket_path<T>(folder: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = socket_path(folder);
    if path.as_os_str().len() <= PATH_LIMIT_BYTES {
        return with(&path);
    }
    // Linux finds the folder by the number of an open file as well.
    let folder = File::open(folder)?;
    with(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(SOCKET_FILE))
}

fn socket_path(folder: &Path) -> PathBuf {
    folder.join(SOCKET_FILE)
}
