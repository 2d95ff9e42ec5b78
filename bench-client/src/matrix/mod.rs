//! Servers side by side: works by rounds, and the bars that they decide.

pub mod bars;
pub mod figure;
#[cfg(test)]
pub mod made_up;
pub mod rounds;
pub mod schedule;
pub mod works;
