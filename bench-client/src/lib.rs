//! Measures Uproar, and other servers beside it.

pub mod check;
pub mod cli;
pub mod client;
pub mod dialect;
pub mod machine;
pub mod matrix;
pub mod progress;
pub mod report;
pub mod result;
pub mod scenario;
pub mod server;
