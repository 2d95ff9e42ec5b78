//! Uproar: a self-hosted real-time chat backend for Linux.

pub mod core;
pub mod limits;
pub mod protocol;
pub mod websocket;
