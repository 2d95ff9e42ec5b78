//! The victim's response times during an attack, next to those before it.

use super::{Arena, Attack, Record, Victim};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// How many times slower than without the attack the slowest percent of a kind of request may be.
pub const RATIO_LIMIT: f64 = 5.0;

/// Below this, a time does not tell anything but the machine's own noise.
const NOISE: Duration = Duration::from_millis(5);

/// How long an attack lasts before the victim's times count, so that it has reached its full strength.
const SETTLE: Duration = Duration::from_secs(2);

/// What the victim experienced.
#[derive(Debug)]
pub struct Measured {
    pub attack: &'static str,
    /// By kind of request: how many, how many of them failed, and the 99th percentile before and during the attack.
    pub kinds: BTreeMap<&'static str, (usize, usize, Duration, Duration)>,
    /// What went wrong, a few of them.
    pub problems: Vec<String>,
}

/// Lets the victim live for this long without and then with an attack.
pub fn measure(arena: &Arena<'_>, victim: &Victim<'_>, attack: &Attack, time: Duration) -> Measured {
    let quiet = victim.live(time);
    let attacked = arena.under(attack, || {
        std::thread::sleep(SETTLE);
        victim.live(time)
    });
    let mut kinds = BTreeMap::new();
    for kind in attacked.iter().map(|record| record.kind) {
        kinds.entry(kind).or_insert_with(|| {
            let of_kind: Vec<_> = attacked.iter().filter(|record| record.kind == kind).collect();
            let failed = of_kind.iter().filter(|record| record.problem.is_some()).count();
            (of_kind.len(), failed, percentile_99(&quiet, kind), percentile_99(&attacked, kind))
        });
    }
    let problems = quiet.iter().chain(&attacked).filter_map(|r| Some(format!("{}: {}", r.kind, r.problem.as_ref()?)));
    Measured { attack: attack.name, kinds, problems: problems.take(5).collect() }
}

fn percentile_99(records: &[Record], kind: &str) -> Duration {
    let mut times: Vec<_> = records.iter().filter(|record| record.kind == kind).map(|record| record.took).collect();
    times.sort_unstable();
    times.get(times.len() * 99 / 100).or(times.last()).copied().unwrap_or_default()
}

impl Measured {
    /// The largest ratio of all kinds of requests.
    pub fn ratio(&self) -> f64 {
        let ratio = |quiet: Duration, attacked: Duration| attacked.as_secs_f64() / quiet.max(NOISE).as_secs_f64();
        self.kinds.values().map(|(_, _, quiet, attacked)| ratio(*quiet, *attacked)).fold(0.0, f64::max)
    }

    pub fn failed(&self) -> usize {
        self.kinds.values().map(|(_, failed, ..)| failed).sum()
    }

    fn holds(&self) -> bool {
        self.problems.is_empty() && self.ratio() <= RATIO_LIMIT
    }
}

/// A table of all attacks.
pub fn summary(all: &[Measured]) -> String {
    let mut text = String::new();
    for measured in all {
        let verdict = if measured.holds() { "holds" } else { "DOES NOT HOLD" };
        let _ = writeln!(text, "{:<18} {verdict}: at most {:.1} times slower", measured.attack, measured.ratio());
        for (kind, (count, failed, quiet, attacked)) in &measured.kinds {
            let ms = |time: &Duration| time.as_secs_f64() * 1000.0;
            let _ = writeln!(
                text,
                "    {kind:<10} {count:>5} requests, {failed} failed; p99 {:.1} ms, without the attack {:.1} ms",
                ms(attacked),
                ms(quiet)
            );
        }
        for problem in &measured.problems {
            let _ = writeln!(text, "    {problem}");
        }
    }
    text
}

/// The attacks that degraded the service for the victim.
pub fn degrading(all: &[Measured]) -> Vec<&'static str> {
    all.iter().filter(|measured| !measured.holds()).map(|measured| measured.attack).collect()
}
