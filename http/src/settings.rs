//! What the operator decides. Every wait and every queue of the service has its bound here.

use crate::addresses::Network;
use crate::origins::Origins;
use crate::page::{EMBEDDED, File};
use crate::passwords::PasswordCost;
use std::time::Duration;

/// How the service is to run. The default is that of a server started without options.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The origins whose pages may use the API from a browser, besides the server's own.
    pub origins: Origins,
    pub limits: Limits,
    /// How long a token from sign-in or refresh is good.
    pub token_lifetime: Duration,
    /// How long the cookie keeps a browser signed in that does not renew it.
    pub session_lifetime: Duration,
    /// How long after its end a token can still be exchanged for a fresh one.
    pub expired_grace: Duration,
    pub password_cost: PasswordCost,
    /// Whether `/ws` takes its token from `?token=` too. Such tokens end up in the logs of proxies.
    pub token_in_query: bool,
    /// Whether `/echo` is served.
    pub echo: bool,
    /// Whether `/metrics` and the reasons in `/readyz` are left to [`crate::Service::serve_admin`], on a port of its
    /// own.
    pub own_admin_port: bool,
    /// Proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub trusted_proxies: Vec<Network>,
    /// The page of the web client. Empty: `GET /` says how to build it.
    pub page: &'static [File],
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            origins: Origins::Own,
            limits: Limits::default(),
            token_lifetime: Duration::from_secs(3600),
            session_lifetime: Duration::from_secs(30 * 24 * 3600),
            expired_grace: Duration::from_secs(25),
            password_cost: PasswordCost::default(),
            token_in_query: true,
            echo: false,
            own_admin_port: false,
            trusted_proxies: Vec::new(),
            page: EMBEDDED,
        }
    }
}

/// Bounds of the service. Sizes in bytes, the rest counts, unless the name or type says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest request head. hyper takes nothing below 8 KiB.
    pub head_limit_bytes: usize,
    /// The longest body.
    pub body_limit_bytes: usize,
    /// The longest text of a message.
    pub text_limit_bytes: usize,
    /// The most members a room can be created for.
    pub room_size_limit: u32,
    /// What a room is created for when nothing is said.
    pub room_size_default: u32,
    /// The most entries of one answer: messages, rooms, members.
    pub history_page_limit: usize,
    /// Messages that one user may send a second by HTTP; 0 for no limit.
    pub publish_rate_per_second: u32,
    /// Messages that one user may send at once by HTTP.
    pub publish_burst_limit: u32,
    /// Threads that hash passwords.
    pub password_threads: usize,
    /// Password checks that may wait for a thread.
    pub password_queue_limit: usize,
    /// Password checks of one address that may wait or run.
    pub passwords_per_address_limit: usize,
    /// How long a request head may take; also how long a connection may stay idle between two requests.
    pub head_timeout: Duration,
    /// How long a body may take.
    pub body_timeout: Duration,
    /// How long an answer may take from the head of its request on.
    pub request_timeout: Duration,
    /// How long a write may make no progress before the connection is cut.
    pub write_timeout: Duration,
    /// How long a connection that is being closed is read, so that the client gets the last answer.
    pub linger_timeout: Duration,
    /// How long what is under way may take once the server stops.
    pub drain_timeout: Duration,
    /// How long `/readyz` waits for the database.
    pub ready_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_limit_bytes: 16 * 1024,
            body_limit_bytes: 64 * 1024,
            text_limit_bytes: 16 * 1024,
            room_size_limit: 100_000,
            room_size_default: 10_000,
            history_page_limit: 100,
            publish_rate_per_second: 50,
            publish_burst_limit: 500,
            password_threads: 2,
            password_queue_limit: 64,
            passwords_per_address_limit: 4,
            head_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(10),
            linger_timeout: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(6),
            ready_timeout: Duration::from_secs(2),
        }
    }
}
