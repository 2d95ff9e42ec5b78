//! Uproar: a self-hosted real-time chat backend for Linux. ARCHITECTURE.md describes the design.

pub mod chat;
pub mod config;
pub mod driver;
pub mod help;
pub mod lanes;
pub mod mesh;
pub mod metrics;
pub mod server;
pub mod tools;
