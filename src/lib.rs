//! Uproar: a self-hosted real-time chat backend for Linux. ARCHITECTURE.md is the map.

pub mod chat;
pub mod config;
pub mod driver;
pub mod lanes;
pub mod mesh;
pub mod metrics;
pub mod server;
pub mod tools;
