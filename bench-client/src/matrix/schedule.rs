//! How long windows may be for a whole matrix to end in time.

use super::works::{Entrant, Subject, Work};
use crate::result::{Channel, Scenario};
use std::time::Duration;

/// What one round of the bars may take: five of them end in 18 of the 20 minutes that there are.
pub const ROUND: Duration = Duration::from_secs(216);

/// Parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub warm_up: Duration,
    pub window: Duration,
}

const LONGEST: Times = Times { warm_up: Duration::from_millis(1000), window: Duration::from_millis(3000) };
const SHORTEST: Times = Times { warm_up: Duration::from_millis(300), window: Duration::from_millis(900) };

impl Times {
    /// Those that let a round of these works end within `round`, but none so short that they say nothing.
    pub fn within(round: Duration, works: &[Work]) -> Self {
        let runs: u32 = works.iter().map(|work| work.entrants.len() as u32 * work.stretch).sum();
        let left = round.saturating_sub(entrants(works).map(|(work, entrant)| around(work, entrant)).sum());
        // A quarter of it warms up.
        let share = left / (runs.max(1) * 4);
        Self {
            warm_up: share.clamp(SHORTEST.warm_up, LONGEST.warm_up),
            window: (share * 3).clamp(SHORTEST.window, LONGEST.window),
        }
    }

    /// What a run of an entrant takes, all in.
    pub fn of(self, work: &Work, entrant: &Entrant) -> Duration {
        around(work, entrant) + self.warm_up + self.window * work.stretch
    }

    /// What a round takes.
    pub fn round(self, works: &[Work]) -> Duration {
        entrants(works).map(|(work, entrant)| self.of(work, entrant)).sum()
    }
}

fn entrants(works: &[Work]) -> impl Iterator<Item = (&Work, &Entrant)> {
    works.iter().flat_map(|work| work.entrants.iter().map(move |entrant| (work, entrant)))
}

/// What a run takes before and after the load: the server starts, connections are made, the last messages arrive, the
/// server ends.
fn around(work: &Work, entrant: &Entrant) -> Duration {
    let connections = if entrant.subject == Subject::Store { 0 } else { entrant.connections() };
    let database = match entrant.shape.channel {
        Channel::Postgres => Duration::from_millis(2500),
        Channel::Sqlite | Channel::Live => Duration::ZERO,
    };
    let recovery = match work.scenario {
        Scenario::Storm => Duration::from_secs(3),
        _ => Duration::ZERO,
    };
    Duration::from_millis(700) + connections * Duration::from_micros(300) + database + recovery
}

#[cfg(test)]
mod tests {
    use super::super::works;
    use super::*;

    #[test]
    fn five_rounds_of_the_bars_end_in_twenty_minutes_with_windows_worth_having() {
        let works = works::of_bars();
        let times = Times::within(ROUND, &works);
        assert!(times.round(&works) * 5 <= Duration::from_secs(20 * 60), "{:?}", times.round(&works) * 5);
        assert!(times.window >= Duration::from_secs(2), "{times:?}");
        assert!(times.warm_up >= Duration::from_millis(500), "{times:?}");
    }

    #[test]
    fn few_works_are_not_measured_for_ever_and_many_not_too_briefly() {
        let works = works::of_bars();
        assert_eq!(Times::within(Duration::from_secs(36_000), &works), LONGEST);
        assert_eq!(Times::within(Duration::from_secs(1), &works), SHORTEST);
    }
}
