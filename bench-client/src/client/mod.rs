//! The engine: a thread for each load core, epoll, no async.
//!
//! What a delivery costs: its share of one `epoll_wait` and one `recv` for all that has come on the socket, the two to
//! four bytes of the frame's head, a look at the text where it lies in the buffer, one count, one hash, one histogram
//! entry. Nothing is allocated, and the clock is read once for all that one `recv` brought.

mod clock;
mod connection;
mod engine;
pub mod frame;
pub mod message;
mod threads;

pub use clock::{Clock, SECOND, thread_cpu};
pub use connection::{End, allow_files};
pub use engine::{Client, Io, Next, run};
pub use threads::{Cores, spawn};
