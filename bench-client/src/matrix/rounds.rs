//! Runs works round by round, the servers of a work in turn.

use super::figure::{self, Entry, Figure};
use super::schedule::Times;
use super::works::{Entrant, Pace, Subject, Work};
use crate::result::{Failure, Faults, Load, Results, Run, Scenario, Shape};
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The measure of a run that says how long its server's frames are, payload alone.
pub const FRAME_BYTES: &str = "frame_bytes";

/// One run to be made, on a fresh server.
#[derive(Clone, Debug)]
pub struct Job {
    pub scenario: Scenario,
    pub subject: Subject,
    pub shape: Shape,
    /// What `floor` pads its frames to.
    pub frame_bytes: Option<u32>,
    /// Whether `connect` signs up first.
    pub signup: bool,
    pub warm_up: Duration,
    pub window: Duration,
}

/// What carries out runs.
pub trait Bench {
    /// Why a subject can't be measured on this machine, where it can't.
    fn missing(&mut self, subject: Subject) -> Option<String>;

    /// Starts the subject, measures it and stops it.
    fn run(&mut self, job: &Job) -> Result<Run>;
}

/// Who is told how far it is.
pub trait Watcher {
    /// Before the first run.
    fn begin(&mut self, plan: &Plan<'_>);

    /// A server of the matrix is left out.
    fn skip(&mut self, server: &str, why: &str);

    /// After a run, void or not.
    fn run(&mut self, run: &Run, left: Duration);

    /// A run gave no figures.
    fn fail(&mut self, failure: &Failure, left: Duration);

    /// After each round: what there is so far, to be kept.
    fn round(&mut self, results: &Results) -> Result<()>;
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    pub works: &'a [Work],
    pub rounds: u32,
    pub times: Times,
}

impl Plan<'_> {
    pub fn runs(&self) -> usize {
        self.works.iter().map(|work| work.entrants.len()).sum::<usize>() * self.rounds as usize
    }

    /// How long it should take.
    pub fn duration(&self) -> Duration {
        self.times.round(self.works) * self.rounds
    }

    /// Carries it out and adds to the results. A run that fails is noted and the rest goes on; an error is the
    /// watcher's.
    pub fn carry_out(&self, bench: &mut dyn Bench, watcher: &mut dyn Watcher, results: &mut Results) -> Result<()> {
        watcher.begin(self);
        let works = self.available(bench, watcher, results);
        let mut clock = Clock::new(self.times, &works, self.rounds);
        for round in 1..=self.rounds {
            for work in &works {
                for at in 0..work.entrants.len() {
                    // Whoever goes first after another load may be favoured: each is, in turn.
                    let entrant = &work.entrants[(at + round as usize - 1) % work.entrants.len()];
                    self.run(work, entrant, round, bench, watcher, results, &mut clock);
                }
            }
            watcher.round(results)?;
        }
        Ok(())
    }

    /// The works without those servers that there are not.
    fn available(&self, bench: &mut dyn Bench, watcher: &mut dyn Watcher, results: &mut Results) -> Vec<Work> {
        let mut works = self.works.to_vec();
        for work in &mut works {
            work.entrants.retain(|entrant| {
                if results.skipped.contains_key(&entrant.server) {
                    return false;
                }
                let Some(why) = bench.missing(entrant.subject) else { return true };
                watcher.skip(&entrant.server, &why);
                results.skipped.insert(entrant.server.clone(), why);
                false
            });
        }
        works.retain(|work| !work.entrants.is_empty());
        works
    }

    #[expect(clippy::too_many_arguments, reason = "the state of one loop")]
    fn run(
        &self,
        work: &Work,
        entrant: &Entrant,
        round: u32,
        bench: &mut dyn Bench,
        watcher: &mut dyn Watcher,
        results: &mut Results,
        clock: &mut Clock,
    ) {
        let begun = Instant::now();
        let mut made = self.job(work, entrant, round, results).and_then(|job| {
            let first = bench.run(&job)?;
            if !first.faults.any() {
                return Ok(vec![first]);
            }
            // It may have been the machine. Whose fault it was shows when it happens again.
            let second = bench.run(&job)?;
            Ok(vec![first, second])
        });
        clock.took(work, entrant, begun.elapsed());
        let left = clock.left();
        for run in made.iter_mut().flatten() {
            run.work.clone_from(&work.name);
            run.server.clone_from(&entrant.server);
            run.round = round;
            watcher.run(run, left);
        }
        match made {
            Ok(runs) => results.runs.extend(runs),
            Err(error) => {
                let (work, server, error) = (work.name.clone(), entrant.server.clone(), format!("{error:#}"));
                let failure = Failure { work, server, round, error };
                watcher.fail(&failure, left);
                results.failures.push(failure);
            }
        }
    }

    /// Fails where what the load is set by was not measured.
    fn job(&self, work: &Work, entrant: &Entrant, round: u32, results: &Results) -> Result<Job> {
        let frame_bytes = match entrant.subject {
            Subject::Floor { frames_of_uproar: true } => Some(
                frame_bytes(results, &work.name)
                    .context("the length of Uproar's frames is not known: its run of this work failed or was void")?,
            ),
            _ => None,
        };
        Ok(Job {
            scenario: work.scenario,
            subject: entrant.subject,
            shape: Shape { load: load(&entrant.pace, round, results)?, ..entrant.shape },
            frame_bytes,
            signup: work.name == "connect-signup",
            warm_up: self.times.warm_up,
            window: self.times.window * work.stretch,
        })
    }
}

/// Of Uproar's latest run in this work.
fn frame_bytes(results: &Results, work: &str) -> Option<u32> {
    let runs = figure::valid(results, Entry { work, server: "uproar" });
    runs.last()?.extra.get(FRAME_BYTES).map(|bytes| bytes.round() as u32)
}

fn load(pace: &Pace, round: u32, results: &Results) -> Result<Load> {
    match pace {
        Pace::Fixed(load) => Ok(*load),
        Pace::Half { work, servers } => {
            let mut lowest = f64::INFINITY;
            for server in servers {
                let entry = Entry { work, server };
                let reached =
                    figure::in_round(results, entry, Figure::AcknowledgedPerSecond, round).with_context(|| {
                        format!("what {server} reaches in {work} is not known: that run failed or was void")
                    })?;
                lowest = lowest.min(reached);
            }
            Ok(Load::Rate((lowest / 2.0).max(1.0)))
        }
    }
}

/// What is left to do, in time: runs as they were, or as planned before the first.
struct Clock {
    rounds: u32,
    /// How long an entrant's runs took together, how many those are, and how long one was planned to be.
    entrants: HashMap<(String, String), (Duration, u32, Duration)>,
}

impl Clock {
    fn new(times: Times, works: &[Work], rounds: u32) -> Self {
        let entrants = works
            .iter()
            .flat_map(|work| work.entrants.iter().map(move |entrant| (work, entrant)))
            .map(|(work, entrant)| (key(work, entrant), (Duration::ZERO, 0, times.of(work, entrant))))
            .collect();
        Self { rounds, entrants }
    }

    fn took(&mut self, work: &Work, entrant: &Entrant, time: Duration) {
        let (sum, runs, _) = self.entrants.get_mut(&key(work, entrant)).expect("entrants are those planned");
        *sum += time;
        *runs += 1;
    }

    fn left(&self) -> Duration {
        let left = |(sum, runs, planned): &(Duration, u32, Duration)| {
            let one = if *runs == 0 { *planned } else { *sum / *runs };
            one * self.rounds.saturating_sub(*runs)
        };
        self.entrants.values().map(left).sum()
    }
}

fn key(work: &Work, entrant: &Entrant) -> (String, String) {
    (work.name.clone(), entrant.server.clone())
}

/// What was wrong, in words: `3 lost, 1 disconnected`.
pub fn faults_in_words(faults: &Faults) -> String {
    [
        (faults.lost, "lost"),
        (faults.repeated, "repeated"),
        (faults.reordered, "reordered"),
        (faults.corrupted, "corrupted"),
        (faults.disagreeing, "disagreeing"),
        (faults.disconnected, "disconnected"),
        (faults.refused, "refused"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect::<Vec<_>>()
    .join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::works;
    use super::*;
    use crate::matrix::made_up;

    /// Answers without measuring.
    #[derive(Default)]
    struct Pretend {
        jobs: Vec<Job>,
        /// Of the first runs, so many are void.
        void: usize,
        broken: bool,
    }

    impl Bench for Pretend {
        fn missing(&mut self, subject: Subject) -> Option<String> {
            (subject == Subject::Bun).then(|| "npm is missing".into())
        }

        fn run(&mut self, job: &Job) -> Result<Run> {
            anyhow::ensure!(!self.broken, "the port is taken");
            self.jobs.push(job.clone());
            let mut run = if self.jobs.len() <= self.void {
                made_up::void("", "", 0)
            } else {
                made_up::acknowledged("", "", 0, if job.subject == Subject::NodeWs { 100 } else { 1000 }, 50.0)
            };
            run.extra.insert(FRAME_BYTES.into(), 201.4);
            Ok(run)
        }
    }

    #[derive(Default)]
    struct Listening {
        skipped: Vec<String>,
        left: Vec<Duration>,
        rounds: Vec<usize>,
    }

    impl Watcher for Listening {
        fn begin(&mut self, _plan: &Plan<'_>) {}

        fn skip(&mut self, server: &str, _why: &str) {
            self.skipped.push(server.into());
        }

        fn run(&mut self, _run: &Run, left: Duration) {
            self.left.push(left);
        }

        fn fail(&mut self, _failure: &Failure, left: Duration) {
            self.left.push(left);
        }

        fn round(&mut self, results: &Results) -> Result<()> {
            self.rounds.push(results.runs.len());
            Ok(())
        }
    }

    fn carry_out(names: &[&str], rounds: u32, bench: &mut Pretend) -> (Results, Listening) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let works = works::only(works::of_bars(), &names).unwrap();
        let second = Duration::from_secs(1);
        let plan = Plan { works: &works, rounds, times: Times { warm_up: second, window: second } };
        let (mut results, mut watcher) = (made_up::results(), Listening::default());
        plan.carry_out(bench, &mut watcher, &mut results).unwrap();
        (results, watcher)
    }

    #[test]
    fn servers_alternate_and_each_is_first_in_its_turn() {
        let (results, watcher) = carry_out(&["fanout-room"], 2, &mut Pretend::default());
        let order: Vec<(u32, &str)> = results.runs.iter().map(|run| (run.round, run.server.as_str())).collect();
        assert_eq!(
            order,
            [
                (1, "uproar"),
                (1, "floor"),
                (1, "node ws"),
                (1, "axum"),
                (1, "fastwebsockets"),
                (2, "floor"),
                (2, "node ws"),
                (2, "axum"),
                (2, "fastwebsockets"),
                (2, "uproar"),
            ]
        );
        assert_eq!(watcher.rounds, [5, 10], "kept after each round");
        assert_eq!(watcher.left.last(), Some(&Duration::ZERO));
    }

    #[test]
    fn a_server_that_is_missing_is_said_once() {
        let (results, watcher) = carry_out(&["fanout-room", "echo"], 2, &mut Pretend::default());
        assert_eq!(watcher.skipped, ["bun"]);
        assert_eq!(results.skipped["bun"], "npm is missing");
        assert!(results.runs.iter().all(|run| run.server != "bun"));
    }

    #[test]
    fn a_void_run_is_repeated_once() {
        let mut bench = Pretend { void: 3, ..Pretend::default() };
        let (results, _) = carry_out(&["shards"], 1, &mut bench);
        let void: Vec<(&str, bool)> = results.runs.iter().map(|run| (run.server.as_str(), run.faults.any())).collect();
        assert_eq!(void, [("uproar", true), ("uproar", true), ("uproar 2 shards", true), ("uproar 2 shards", false)]);
    }

    #[test]
    fn a_run_that_fails_is_noted_and_the_rest_goes_on() {
        let mut bench = Pretend { broken: true, ..Pretend::default() };
        let (results, watcher) = carry_out(&["shards"], 2, &mut bench);
        assert_eq!(results.failures.len(), 4);
        assert_eq!(results.failures[0].error, "the port is taken");
        assert_eq!(watcher.rounds.len(), 2);
    }

    #[test]
    fn an_open_load_is_half_of_what_the_slower_reached() {
        let mut bench = Pretend::default();
        carry_out(&["open-room"], 1, &mut bench);
        let open: Vec<&Job> = bench.jobs.iter().filter(|job| job.shape.load == Load::Rate(500.0)).collect();
        assert_eq!(open.len(), 2);
    }

    #[test]
    fn a_load_that_nobody_reached_is_an_error() {
        let mut bench = Pretend { void: 2, ..Pretend::default() };
        let (results, _) = carry_out(&["open-room"], 1, &mut bench);
        assert!(results.failures[0].error.contains("uproar"), "{:?}", results.failures);
    }

    #[test]
    fn floor_is_given_frames_as_long_as_uproars_in_every_round() {
        let mut bench = Pretend::default();
        carry_out(&["centrifugo-room"], 2, &mut bench);
        let frames: Vec<Option<u32>> = bench.jobs.iter().map(|job| job.frame_bytes).collect();
        assert_eq!(frames, [None, Some(201), Some(201), None]);
    }

    #[test]
    fn faults_are_named() {
        let faults = Faults { lost: 3, refused: 1, ..Faults::default() };
        assert_eq!(faults_in_words(&faults), "3 lost, 1 refused");
    }
}
