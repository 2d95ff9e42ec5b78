//! Uproar, a real-time chat backend: what the binary is made of.

pub mod core;
pub mod driver;
pub mod limits;
pub mod mesh;
pub mod websocket;
