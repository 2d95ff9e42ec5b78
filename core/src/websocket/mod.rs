//! WebSocket (RFC 6455), the server's side, as a machine: bytes → frames → messages → bytes. It does no I/O.
//!
//! `head` reads a request, `upgrade` answers it, `decoder` reads frames, `frame` writes them.

pub mod decoder;
pub mod frame;
pub mod head;
pub mod upgrade;

pub use decoder::{Decoder, Event};
pub use fastwebsockets::OpCode;
pub use frame::{close_frame, push_frame};
pub use head::{Head, Request};
