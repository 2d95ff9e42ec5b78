//! Uproar: a self-hosted real-time chat backend for Linux. ARCHITECTURE.md describes the design.

// These panic if they fail; `output` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod acme;
pub mod bus;
pub mod chat;
pub mod check;
pub mod config;
pub mod driver;
pub mod health;
pub mod help;
mod issuers;
pub mod lanes;
pub mod mesh;
pub mod metrics;
pub mod operator;
pub mod outbox;
pub mod outgoing;
pub mod output;
pub mod readers;
mod roots;
pub mod server;
pub mod tools;
pub mod traces;
pub mod webhooks;
