//! What can go wrong, told apart where a caller does different things.

/// The database did not answer as it should; the text says what, for the log, and never holds a secret.
#[derive(Debug, thiserror::Error)]
#[error("database: {0}")]
pub struct StoreError(pub String);

/// What a batch that was not answered item by item means.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// It may have been committed, or not: send the same batch again, unchanged, until there is an answer.
    #[error("outcome not known: {0}")]
    Unknown(String),
    /// Nothing was committed: the database refuses the data of some item (PostgreSQL classes 22, 23, 54). Send the
    /// halves, down to the item that is to blame.
    #[error("refused data: {0}")]
    Data(String),
    /// An I/O error at commit or fsync (SQLite): what is on disk is not known to this process any more. Answer nothing
    /// as refused; exit and restart from what is on disk.
    #[error("the database file can't be trusted any more: {0}")]
    Broken(String),
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
pub enum RoomError {
    /// Also what a private room looks like from outside.
    #[error("there is no such room")]
    NoRoom,
    #[error("the room is full")]
    Full,
    #[error("this name is taken")]
    Taken,
    #[error("there is no such user")]
    NoUser,
    #[error("this user is not a member of the room")]
    NotMember,
    #[error("not allowed: {0}")]
    NotAllowed(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a database can't be used. Each text is one line that says what is wrong, with what, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> StoreError {
        StoreError(one_line(&error))
    }
}

impl From<sqlx::Error> for CreateUserError {
    fn from(error: sqlx::Error) -> CreateUserError {
        CreateUserError::Store(error.into())
    }
}

impl From<sqlx::Error> for RoomError {
    fn from(error: sqlx::Error) -> RoomError {
        RoomError::Store(error.into())
    }
}

/// An error and its causes in one line.
pub(crate) fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Many errors already tell their cause.
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
