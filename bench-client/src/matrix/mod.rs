//! The comparison of servers: workloads, the runs of each round, and the bars that the results must meet.

pub mod bars;
#[cfg(test)]
pub mod fixtures;
pub mod metric;
pub mod runner;
pub mod schedule;
pub mod workloads;
