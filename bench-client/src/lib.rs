//! Measures Uproar and compares it with other servers.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod abuse;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod dialect;
pub mod ledger;
pub mod machine;
pub mod matrix;
pub mod output;
pub mod progress;
pub mod report;
pub mod result;
pub mod scenario;
pub mod server;
pub mod size;
pub mod webhooks;
