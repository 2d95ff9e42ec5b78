//! Which database a store uses, and how.

use crate::allowance::WriteRates;
use crate::error::OpenError;
use sqlx::postgres::PgConnectOptions;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Which database. `Debug` and `Display` leave out the password in the URL of a PostgreSQL database.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    Sqlite(PathBuf),
    /// `postgres://…`, with those of libpq's parameters that sqlx understands.
    Postgres(String),
}

impl FromStr for DatabaseUrl {
    type Err = OpenError;

    fn from_str(text: &str) -> Result<DatabaseUrl, OpenError> {
        let invalid = |why: &str| {
            OpenError::Lasting(format!(
                "invalid database URL: {why}; use sqlite:PATH, sqlite://PATH, or \
                 postgres://USER:PASSWORD@HOST:PORT/DATABASE"
            ))
        };
        // What follows this prefix, in upper or lower case (RFC 3986, section 3.1).
        let after = |prefix: &str| {
            let (start, rest) = text.split_at_checked(prefix.len())?;
            start.eq_ignore_ascii_case(prefix).then_some(rest)
        };
        if let Some(path) = after("sqlite://").or_else(|| after("sqlite:")) {
            return match path {
                "" => Err(invalid("the path is missing")),
                _ if path.contains('\0') => Err(invalid("the path contains U+0000")),
                // With :memory: each connection would have a database of its own.
                _ if path.starts_with(":memory:") || path.contains('?') => {
                    Err(invalid("a SQLite URL must be a plain path, without parameters and not :memory:"))
                }
                _ => Ok(DatabaseUrl::Sqlite(PathBuf::from(path))),
            };
        }
        if let Some(rest) = after("postgres://").or_else(|| after("postgresql://")) {
            // libpq's form for a socket, `postgres://USER@/NAME?host=/FOLDER`, which the parser takes only with a host.
            let url = format!("postgres://{}", rest.replacen("@/", "@localhost/", 1));
            // The parser's own error may quote the text that it could not parse, including the password.
            return match url.parse::<PgConnectOptions>() {
                Ok(_) => Ok(DatabaseUrl::Postgres(url)),
                Err(_) => Err(invalid("the PostgreSQL URL can't be parsed (are special characters percent-encoded?)")),
            };
        }
        Err(invalid("it starts with neither sqlite: nor postgres://"))
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatabaseUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            DatabaseUrl::Postgres(url) => match url.parse::<PgConnectOptions>() {
                Ok(options) => f.write_str(&postgres_address(&options)),
                Err(_) => f.write_str("postgres://…"),
            },
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a PostgreSQL database is, for messages: without the user and the password.
pub(crate) fn postgres_address(options: &PgConnectOptions) -> String {
    // As in libpq, the database is named after the user unless the URL names one.
    let database = options.get_database().unwrap_or(options.get_username());
    match options.get_socket() {
        Some(socket) => format!("{} (port {})/{database}", socket.display(), options.get_port()),
        None => format!("{}:{}/{database}", options.get_host(), options.get_port()),
    }
}

/// How a store uses its database. Every wait has a time limit.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// How many batches PostgreSQL commits in parallel. SQLite always has one writer.
    pub lanes: usize,
    /// Connections for everything except the commit path: for reads on SQLite, for all other calls on PostgreSQL.
    pub pool_size: usize,
    /// The time limit for opening the database, without its migrations.
    pub open_timeout: Duration,
    /// The time limit for getting a connection from a pool, or SQLite's only writer.
    pub acquire_timeout: Duration,
    /// The time limit for a call, including the wait for a connection.
    pub call_timeout: Duration,
    /// How often each user may change rooms and memberships.
    pub rates: WriteRates,
    /// A join is written in the room's log if the room then has at most this many members.
    pub join_leave_limit: u64,
    /// How long a session with PostgreSQL is used before a new one replaces it.
    pub session_age_limit: Duration,
    /// The name of this process if it is one of several nodes, which use a PostgreSQL database together.
    pub node: Option<String>,
    /// How often PostgreSQL is asked for rooms that were deleted, but not by this process.
    pub sweep_interval: Duration,
    /// The id of the key that signs tokens. Nodes must have the same one. `None`: tokens are not used.
    pub key_id: Option<String>,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            lanes: 4,
            pool_size: 8,
            open_timeout: Duration::from_secs(15),
            acquire_timeout: Duration::from_secs(3),
            call_timeout: Duration::from_secs(10),
            rates: WriteRates::default(),
            join_leave_limit: 100,
            session_age_limit: Duration::from_secs(1800),
            node: None,
            sweep_interval: Duration::from_secs(60),
            key_id: None,
        }
    }
}
