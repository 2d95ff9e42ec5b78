//! The server's side of WebSocket (RFC 6455), without I/O.
//!
//! `head` parses a request, `upgrade` and `refusal` answer it, `decoder` decodes frames, `frame` encodes them.

pub mod decoder;
pub mod frame;
pub mod head;
mod refusal;
pub mod upgrade;

pub use decoder::{Decoder, Event};
pub use fastwebsockets::OpCode;
pub use frame::{close_frame, push_frame};
pub use head::{ParsedHead, UpgradeRequest};
pub use refusal::{FieldError, Refusal};
