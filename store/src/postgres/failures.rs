//! What an error of PostgreSQL means: for the session in which it occurred, and, in our words, for the person who has
//! to do something about it.

use crate::error::{OpenError, one_line};
use crate::options::postgres_address;
use sqlx::postgres::PgConnectOptions;
use std::io::ErrorKind;
use std::time::Duration;

/// What messages name: where the database is, and who we are there. Never the password.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// `HOST:PORT/DATABASE`
    pub address: String,
    user: String,
    database: String,
}

impl Target {
    pub fn of(options: &PgConnectOptions) -> Target {
        let user = options.get_username().to_owned();
        let database = options.get_database().unwrap_or(&user).to_owned();
        Target { address: postgres_address(options), user, database }
    }

    /// An error while the database is being opened, with the remedy.
    pub fn failed(&self, error: &sqlx::Error) -> OpenError {
        let text = self.explain(error);
        if is_away(error) { OpenError::Away(text) } else { OpenError::Lasting(text) }
    }

    /// The same for a database that a moment ago answered as it should.
    pub fn failed_later(&self, error: &sqlx::Error) -> OpenError {
        if is_passing(error) { OpenError::Away(self.explain(error)) } else { self.failed(error) }
    }

    fn explain(&self, error: &sqlx::Error) -> String {
        let Target { address, user, database } = self;
        let reached = |text: &str, remedy: &str| format!("can't reach PostgreSQL at {address}: {text}; {remedy}");
        let code = code(error);
        let database_error = match error {
            sqlx::Error::Database(error) => error,
            sqlx::Error::Tls(error) => {
                return reached(
                    &format!("TLS failed: {}", one_line(&**error)),
                    "set sslmode in the URL to what the server offers, such as disable, require or verify-full",
                );
            }
            sqlx::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => {
                return reached("the connection is refused", "is it running, and are host and port in the URL right?");
            }
            sqlx::Error::Io(error) => {
                return reached(&error.to_string(), "are host and port in the URL right?");
            }
            error => return format!("can't use the database {address}: {}", one_line(error)),
        };
        let message = database_error.message();
        match code.as_deref().unwrap_or_default() {
            "28P01" => {
                format!("PostgreSQL at {address} rejects the password of the user {user}; correct it in the URL")
            }
            "28000" => format!(
                "PostgreSQL at {address} does not let the user {user} in ({message}); create the role, or allow it in \
                 pg_hba.conf"
            ),
            "3D000" => format!(
                "the database {address} does not exist; create it: createdb --owner {user} --encoding UTF8 \
                 --template template0 {database}"
            ),
            "42501" | "3F000" => self.lacks_rights(message),
            "53300" => format!(
                "PostgreSQL at {address} has no free connection ({message}); raise max_connections, or end other \
                 sessions"
            ),
            "57P03" => format!("PostgreSQL at {address} is starting or stopping ({message}); try again in a moment"),
            "25006" => format!(
                "the database {address} is read-only; end that (default_transaction_read_only), or set the address \
                 of the primary with --database"
            ),
            "42P07" | "42710" => format!(
                "the database {address} holds tables of another program ({message}); use a database of its own for \
                 uproar"
            ),
            "26000" | "42P05" => self.shared_sessions(),
            "08P01" if message.contains("startup parameter") => self.shared_sessions(),
            code => format!("can't use the database {address}: PostgreSQL says: {message} (SQLSTATE {code})"),
        }
    }

    /// `message`: what the user may not do.
    pub fn lacks_rights(&self, message: &str) -> String {
        let Target { address, user, database } = self;
        format!(
            "the user {user} has too few rights in the database {address} ({message}); make it the owner: \
             ALTER DATABASE {database} OWNER TO {user}; GRANT ALL ON SCHEMA public TO {user}"
        )
    }

    /// A pooler gives several clients the same session, so that locks and prepared statements get lost.
    pub fn shared_sessions(&self) -> String {
        format!(
            "{} is not PostgreSQL itself but a pooler such as PgBouncer that shares sessions between clients; connect \
             to PostgreSQL directly, or use pool_mode = session with ignore_startup_parameters = options",
            self.address
        )
    }

    pub fn no_answer(&self, limit: Duration) -> OpenError {
        OpenError::Away(format!(
            "no answer from PostgreSQL at {} within {} s; is it overloaded, or does a firewall drop the packets?",
            self.address,
            limit.as_secs()
        ))
    }
}

/// The SQLSTATE of an error. <https://www.postgresql.org/docs/current/errcodes-appendix.html>
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether a session can do its work after this error: it only concerns the data, or a statement that was given up.
/// After any other one the session is closed, although it still answers: it may be read-only since a failover (25006),
/// hold plans that no longer fit the tables (0A000), or have lost its prepared statements (26000).
pub(crate) fn keeps_session(error: &sqlx::Error) -> bool {
    let Some(code) = code(error) else { return false };
    // 57014: canceled, such as at the statement's time limit. 55P03: the same while it waited for a lock. UP is for our
    // own functions.
    matches!(code.get(..2), Some("22" | "23" | "40" | "54" | "P0" | "UP")) || matches!(&*code, "57014" | "55P03")
}

/// Whether a statement was given up because it waited too long for a lock.
pub(crate) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "55P03")
}

/// Whether the session has ended, or its connection: broken, or ended by an administrator, a crash or a time limit.
pub(crate) fn ends_session(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_)) || code(error).is_some_and(|code| code.starts_with("57P"))
}

/// A failure that the driver does not report by itself.
pub(super) fn trouble(text: &'static str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::other(text))
}

/// Whether opening a session may succeed a moment later, without anybody's help.
pub(super) fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        // Too many connections; not accepting any at the moment; starting, stopping.
        error => code(error).is_some_and(|code| code == "53300" || code == "55000" || code.starts_with("57P")),
    }
}

/// Whether a database that can't be opened may be usable later, although nobody changes anything here: it can't be
/// reached, it is starting, stopping or read-only, or it lacks resources.
fn is_away(error: &sqlx::Error) -> bool {
    let database_error = match error {
        sqlx::Error::Io(error) => return error.kind() != ErrorKind::PermissionDenied,
        sqlx::Error::PoolTimedOut => return true,
        sqlx::Error::Database(error) => error,
        _ => return false,
    };
    match code(error).as_deref().unwrap_or_default() {
        "25006" => true,
        // A pooler says so both if it can't reach the database and if it does not know it.
        "08P01" => !["no such", "startup parameter"].iter().any(|text| database_error.message().contains(text)),
        // The database was dropped.
        "57P04" => false,
        code => matches!(code.get(..2), Some("08" | "53" | "57")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do_and_never_the_password() {
        let options: PgConnectOptions = "postgres://joe:secret@db.example:5433/chat".parse().unwrap();
        let target = Target::of(&options);
        let refused = std::io::Error::from(ErrorKind::ConnectionRefused);
        assert!(!is_away(&sqlx::Error::Tls("no".into())));
        for (text, words) in [
            (target.explain(&sqlx::Error::Io(refused)), ["db.example:5433/chat", "refused", "running"]),
            (target.explain(&sqlx::Error::Tls("no".into())), ["db.example:5433/chat", "TLS", "sslmode"]),
            (target.no_answer(Duration::from_secs(3)).to_string(), ["db.example:5433/chat", "within 3 s", "firewall"]),
            (target.shared_sessions(), ["db.example:5433/chat", "pooler", "directly"]),
        ] {
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
            assert!(!text.contains("secret") && !text.contains('\n'), "{text}");
        }
    }
}
