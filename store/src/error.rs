//! What can go wrong: one variant for each case that callers handle differently.

use crate::allowance::UsedUp;
use sqlx::postgres::PgDatabaseError;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;
use uproar_model::fairness::{LogLimit, Rate};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database failed, or its answer made no sense. The text is for the log and never holds a secret.
    #[error("{0}")]
    Failed(String),
    /// Too many calls of this user, or of all, wait for the database. Nothing was done.
    #[error("too many calls wait for the database")]
    Overloaded,
}

const OWN_BLOCK: &str = "you have blocked one of these people; unblock them first";
const OTHERS_BLOCK: &str = "you can't start a direct room with these people";

/// How often failures are logged. Clients can cause some of them, and must not fill the log that way.
const LOG_RATE: Rate = Rate::per_second(1, 20);

impl StoreError {
    /// Logs a failure of the database, unless there were too many. `what` was not done because of it.
    pub fn log(&self, what: &'static str) {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        static LIMIT: Mutex<LogLimit> = Mutex::new(LogLimit::new(LOG_RATE));
        if matches!(self, StoreError::Overloaded) {
            tracing::debug!(error = %self, "{what}");
            return;
        }
        let now_ms = START.elapsed().as_millis() as u64;
        let admitted = LIMIT.lock().unwrap_or_else(PoisonError::into_inner).admit(now_ms);
        if let Some(unlogged) = admitted {
            tracing::warn!(error = %self, unlogged, "{what}");
        }
    }
}

/// Why a batch as a whole has no outcomes.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The batch may or may not have been committed. Send the same batch again, unchanged, until there is an answer.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// Nothing was committed: the database rejects the data of some item (PostgreSQL classes 22, 23 and 54). Send each
    /// half of the batch by itself, and so on down to the item at fault.
    #[error("data rejected: {0}")]
    DataRejected(String),
    /// Nothing can be committed any more. After an I/O error during a commit or fsync (SQLite), this process no longer
    /// knows what is on disk: do not report anything as refused, but exit, and restart from what is on disk.
    #[error("the database can't be trusted any more: {0}")]
    Fatal(String),
    /// Nothing can be committed any more, because another process has taken over the database, or the database has gone
    /// back (PostgreSQL). The text is the same as that of `Store::ended`: do not report anything as refused, but exit.
    #[error("{0}")]
    Ended(String),
}

#[derive(Debug, thiserror::Error)]
pub enum CreateUserError {
    #[error("this username is taken")]
    UsernameTaken,
    #[error("this e-mail address is taken")]
    EmailTaken,
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum RenameError {
    #[error("there is no such user")]
    NoUser,
    #[error("this username is taken")]
    UsernameTaken,
    /// The user has as many former names as are kept.
    #[error("this user has had 20 other names, which is as many as allowed")]
    TooOften,
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    #[error("there is an API key of this name; remove it first, or choose another name")]
    NameTaken,
    #[error("there are 1,000 API keys, which is as many as there can be; remove those that nobody uses")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// The room does not exist, or is private and the user is not a member.
    #[error("there is no such room")]
    NoRoom,
    #[error("the room is full")]
    Full,
    /// From a public room. For those who are banned from a private one, it does not exist.
    #[error("banned: a moderator has banned this user from the room")]
    Banned,
    #[error("the room would have no owner; make somebody else an owner first")]
    LastOwner,
    /// The new size of a room is below the number of its members.
    #[error("the room has more members than that")]
    TooSmall,
    #[error("there is no such message, or it was deleted")]
    NoMessage,
    #[error("the room has 50 pinned messages, which is as many as allowed; unpin one that nobody needs")]
    TooManyPins,
    #[error("this room name is taken")]
    NameTaken,
    #[error("there is no such user")]
    NoUser,
    #[error("this user is not a member of the room")]
    NotMember,
    #[error("not allowed: {0}")]
    NotAllowed(&'static str),
    /// The user changes rooms or memberships more often than allowed. Nothing was changed.
    #[error("too many changes of rooms and memberships; try again in {} s", .wait_ms.div_ceil(1000))]
    TooOften { wait_ms: u64 },
    #[error("you own {0} rooms, which is as many as allowed; delete one that nobody needs")]
    TooManyOwned(u64),
    /// The room has a hook of this name, or the name that its user would have is that of a person.
    #[error("this name of a hook is taken")]
    HookNameTaken,
    #[error("the room has {0} hooks, which is as many as allowed; delete one that nobody needs")]
    TooManyHooks(u64),
    /// There is no new direct room for a user with somebody who has blocked the user. `by_actor`: or whom the user has
    /// blocked.
    #[error("{}", if *.by_actor { OWN_BLOCK } else { OTHERS_BLOCK })]
    Blocked { by_actor: bool },
    #[error("you have blocked {0} users, which is as many as allowed; unblock one first")]
    TooManyBlocks(u64),
    #[error("the room has no such hook")]
    NoHook,
    #[error("the room has {0} invites, which is as many as allowed; revoke one that nobody needs")]
    TooManyInvites(u64),
    #[error("there is no such invite")]
    NoInvite,
    #[error("this invite {0}")]
    InviteEnded(InviteEnd),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an invite can't be used any more. As text, it follows the word "invite".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InviteEnd {
    #[error("was revoked")]
    Revoked,
    #[error("has expired")]
    Expired,
    #[error("has been used as often as it may be")]
    UsedUp,
    /// Its creator may not invite others any more.
    #[error("is void, because its creator may not invite others to the room any more")]
    Void,
}

/// Why a user with an invite was not created. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum InvitedUserError {
    #[error(transparent)]
    User(#[from] CreateUserError),
    /// The invite can't be used, or its room is full.
    #[error(transparent)]
    Invite(#[from] RoomError),
}

impl From<StoreError> for InvitedUserError {
    fn from(error: StoreError) -> InvitedUserError {
        InvitedUserError::User(CreateUserError::Store(error))
    }
}

impl From<sqlx::Error> for InvitedUserError {
    fn from(error: sqlx::Error) -> InvitedUserError {
        StoreError::from(error).into()
    }
}

/// Why a database can't be used. The text is one line that says what is wrong, with what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Waiting does not help.
    #[error("{0}")]
    Lasting(String),
    /// The database is away, starting or read-only, which may be over at any time.
    #[error("{0}")]
    Away(String),
    /// Another process has it, and may be about to end.
    #[error("{0}")]
    Taken(String),
}

impl From<UsedUp> for RoomError {
    fn from(UsedUp(wait_ms): UsedUp) -> RoomError {
        RoomError::TooOften { wait_ms }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> StoreError {
        StoreError::Failed(one_line(&error))
    }
}

impl From<sqlx::Error> for CreateUserError {
    fn from(error: sqlx::Error) -> CreateUserError {
        CreateUserError::Store(error.into())
    }
}

impl From<sqlx::Error> for RenameError {
    fn from(error: sqlx::Error) -> RenameError {
        RenameError::Store(error.into())
    }
}

impl From<sqlx::Error> for ApiKeyError {
    fn from(error: sqlx::Error) -> ApiKeyError {
        ApiKeyError::Store(error.into())
    }
}

impl From<sqlx::Error> for RoomError {
    fn from(error: sqlx::Error) -> RoomError {
        RoomError::Store(error.into())
    }
}

/// An error and its causes in one line, each of them once.
pub(crate) fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let reported = match error.downcast_ref::<sqlx::Error>() {
            Some(sqlx::Error::Database(error)) => Some(error),
            _ => None,
        };
        let text = match reported.map(|error| (error, error.try_downcast_ref::<PgDatabaseError>())) {
            // Its own text would end with a line number of PostgreSQL's source code.
            Some((_, Some(error))) => format!("{} (SQLSTATE {})", error.message(), error.code()),
            Some((error, None)) => error.to_string(),
            None => error.to_string(),
        };
        // Many errors repeat the text of their cause.
        if !line.contains(&text) {
            line = if line.is_empty() { text } else { format!("{line}: {text}") };
        }
        next = if reported.is_some() { None } else { error.source() };
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
