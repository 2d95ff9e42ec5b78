//! Computes how long each run may last so that all runs end in time.

use super::workloads::{Entrant, Subject, Workload};
use crate::result::{Channel, Scenario};
use std::time::Duration;

/// How long one round of the bars may take: five rounds end in 18 minutes, of 20 that are allowed.
pub const ROUND: Duration = Duration::from_secs(216);

/// The durations of a run's phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub warm_up: Duration,
    pub measured: Duration,
}

const LONGEST: Timing = Timing { warm_up: Duration::from_millis(1000), measured: Duration::from_millis(3000) };
const SHORTEST: Timing = Timing { warm_up: Duration::from_millis(300), measured: Duration::from_millis(900) };

impl Timing {
    /// Durations with which a round of these workloads takes `round`, clamped so that results stay meaningful.
    pub fn within(round: Duration, workloads: &[Workload]) -> Self {
        let runs: u32 =
            workloads.iter().map(|workload| workload.entrants.len() as u32 * workload.duration_factor).sum();
        let left = round.saturating_sub(entrants(workloads).map(|(workload, entrant)| around(workload, entrant)).sum());
        // A quarter is warm-up.
        let share = left / (runs.max(1) * 4);
        Self {
            warm_up: share.clamp(SHORTEST.warm_up, LONGEST.warm_up),
            measured: (share * 3).clamp(SHORTEST.measured, LONGEST.measured),
        }
    }

    /// How long a run of an entrant takes in total.
    pub fn of(self, workload: &Workload, entrant: &Entrant) -> Duration {
        around(workload, entrant) + self.warm_up + self.measured * workload.duration_factor
    }

    /// How long a round takes.
    pub fn round(self, workloads: &[Workload]) -> Duration {
        entrants(workloads).map(|(workload, entrant)| self.of(workload, entrant)).sum()
    }
}

fn entrants(workloads: &[Workload]) -> impl Iterator<Item = (&Workload, &Entrant)> {
    workloads.iter().flat_map(|workload| workload.entrants.iter().map(move |entrant| (workload, entrant)))
}

/// How long a run takes before and after the load: the server starts, clients connect, the last messages arrive, the
/// server stops.
fn around(workload: &Workload, entrant: &Entrant) -> Duration {
    let connections = if entrant.subject == Subject::Store { 0 } else { entrant.connections() };
    let database = match entrant.shape.channel {
        Channel::Postgres => Duration::from_millis(2500),
        Channel::Sqlite | Channel::Live => Duration::ZERO,
    };
    let handshake = Duration::from_micros(if entrant.shape.tls { 600 } else { 300 });
    let recovery = match workload.scenario {
        Scenario::Storm => Duration::from_secs(3),
        _ => Duration::ZERO,
    };
    Duration::from_millis(700) + connections * handshake + database + recovery
}

#[cfg(test)]
mod tests {
    use super::super::workloads;
    use super::*;

    #[test]
    fn five_rounds_of_the_bars_end_in_twenty_minutes_and_measure_for_two_seconds() {
        let workloads = workloads::for_bars();
        let timing = Timing::within(ROUND, &workloads);
        assert!(timing.round(&workloads) * 5 <= Duration::from_secs(20 * 60), "{:?}", timing.round(&workloads) * 5);
        assert!(timing.measured >= Duration::from_secs(2), "{timing:?}");
        assert!(timing.warm_up >= Duration::from_millis(500), "{timing:?}");
    }

    #[test]
    fn durations_are_clamped() {
        let workloads = workloads::for_bars();
        assert_eq!(Timing::within(Duration::from_secs(36_000), &workloads), LONGEST);
        assert_eq!(Timing::within(Duration::from_secs(1), &workloads), SHORTEST);
    }
}
