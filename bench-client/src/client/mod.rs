//! The load generator: one thread per load core, with epoll and without async.
//!
//! Handling a delivery must be cheap. It takes a share of one `epoll_wait` and of one `recv`, parses the frame's header
//! and the text in place, and updates a counter, a hash and a histogram. It does not allocate, and the clock is read
//! once per `recv`. Over TLS, decryption is added, in one piece per record.

mod clock;
mod connection;
mod engine;
pub mod frame;
pub mod message;
mod threads;
mod tls;

pub use clock::{Clock, SECOND, thread_cpu};
pub use connection::{CloseReason, allow_files};
pub use engine::{Client, Io, Wait, run};
pub use threads::{Cores, spawn};
pub use tls::TlsClient;
