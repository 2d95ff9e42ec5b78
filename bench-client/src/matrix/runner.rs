//! Runs all workloads round by round, with the servers of a workload in turn.

use super::metric::{self, Entry, Metric};
use super::schedule::Timing;
use super::workloads::{Entrant, Pace, Subject, Workload};
use crate::result::{Failure, Faults, Load, Results, Run, Scenario, Shape};
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The name of the extra value with the average payload length of a delivery's frame.
pub const FRAME_BYTES: &str = "frame_bytes";

/// A run to be made, on a newly started server.
#[derive(Clone, Debug)]
pub struct Job {
    pub scenario: Scenario,
    pub subject: Subject,
    pub shape: Shape,
    /// The length to which `floor` pads the payload of its frames.
    pub frame_bytes: Option<u32>,
    /// Whether `connect` signs users up first.
    pub signup: bool,
    pub warm_up: Duration,
    pub measured: Duration,
}

/// Executes runs. A trait, so that tests need no servers.
pub trait Executor {
    /// The reason why a subject can't be measured on this machine, or `None` if it can.
    fn unavailable(&mut self, subject: Subject) -> Option<String>;

    /// Starts the subject, measures it and stops it.
    fn run(&mut self, job: &Job) -> Result<Run>;
}

/// Is notified of the progress.
pub trait Watcher {
    /// Called before the first run.
    fn on_start(&mut self, plan: &Plan<'_>);

    /// Called when a server is skipped in all workloads.
    fn on_skip(&mut self, server: &str, reason: &str);

    /// Called after a run, which may be void. `left` is the estimated remaining time.
    fn on_run(&mut self, run: &Run, left: Duration);

    /// Called when a run failed.
    fn on_failure(&mut self, failure: &Failure, left: Duration);

    /// Called after each round with all results so far, to save them.
    fn on_round(&mut self, results: &Results) -> Result<()>;
}

/// Which workloads to run, how often and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    pub workloads: &'a [Workload],
    pub rounds: u32,
    pub timing: Timing,
}

impl Plan<'_> {
    pub fn runs(&self) -> usize {
        self.workloads.iter().map(|workload| workload.entrants.len()).sum::<usize>() * self.rounds as usize
    }

    /// The estimated time of all runs.
    pub fn duration(&self) -> Duration {
        self.timing.round(self.workloads) * self.rounds
    }

    /// Executes the plan and adds to the results. A failed run is recorded and the others continue. Fails only when the
    /// watcher does.
    pub fn execute(&self, executor: &mut dyn Executor, watcher: &mut dyn Watcher, results: &mut Results) -> Result<()> {
        watcher.on_start(self);
        let workloads = self.available(executor, watcher, results);
        let mut remaining = RemainingTime::new(self.timing, &workloads, self.rounds);
        for round in 1..=self.rounds {
            for workload in &workloads {
                for at in 0..workload.entrants.len() {
                    // The first server of a workload may have an advantage, so every server is first in turn.
                    let entrant = &workload.entrants[(at + round as usize - 1) % workload.entrants.len()];
                    self.run(workload, entrant, round, executor, watcher, results, &mut remaining);
                }
            }
            watcher.on_round(results)?;
        }
        Ok(())
    }

    /// The workloads without the servers that are unavailable.
    fn available(
        &self,
        executor: &mut dyn Executor,
        watcher: &mut dyn Watcher,
        results: &mut Results,
    ) -> Vec<Workload> {
        let mut workloads = self.workloads.to_vec();
        for workload in &mut workloads {
            workload.entrants.retain(|entrant| {
                if results.skipped.contains_key(&entrant.server) {
                    return false;
                }
                let Some(reason) = executor.unavailable(entrant.subject) else { return true };
                watcher.on_skip(&entrant.server, &reason);
                results.skipped.insert(entrant.server.clone(), reason);
                false
            });
        }
        workloads.retain(|workload| !workload.entrants.is_empty());
        workloads
    }

    #[expect(clippy::too_many_arguments, reason = "the state of one loop")]
    fn run(
        &self,
        workload: &Workload,
        entrant: &Entrant,
        round: u32,
        executor: &mut dyn Executor,
        watcher: &mut dyn Watcher,
        results: &mut Results,
        remaining: &mut RemainingTime,
    ) {
        let started = Instant::now();
        let mut runs = self.job(workload, entrant, round, results).and_then(|job| {
            let first = executor.run(&job)?;
            if !first.faults.any() {
                return Ok(vec![first]);
            }
            // A fault may be the machine's. A second run shows whether the server repeats it.
            let second = executor.run(&job)?;
            Ok(vec![first, second])
        });
        remaining.record(workload, entrant, started.elapsed());
        let left = remaining.estimate();
        for run in runs.iter_mut().flatten() {
            run.workload.clone_from(&workload.name);
            run.server.clone_from(&entrant.server);
            run.round = round;
            watcher.on_run(run, left);
        }
        match runs {
            Ok(runs) => results.runs.extend(runs),
            Err(error) => {
                let (workload, server, error) = (workload.name.clone(), entrant.server.clone(), format!("{error:#}"));
                let failure = Failure { workload, server, round, error };
                watcher.on_failure(&failure, left);
                results.failures.push(failure);
            }
        }
    }

    /// Fails if the load depends on a run that failed or was void.
    fn job(&self, workload: &Workload, entrant: &Entrant, round: u32, results: &Results) -> Result<Job> {
        let frame_bytes = match entrant.subject {
            Subject::Floor { frames_of_uproar: true } => Some(
                frame_bytes(results, &workload.name)
                    .context("the length of Uproar's frames is unknown: its run in this workload failed or was void")?,
            ),
            _ => None,
        };
        Ok(Job {
            scenario: workload.scenario,
            subject: entrant.subject,
            shape: Shape { load: load(&entrant.pace, round, results)?, ..entrant.shape },
            frame_bytes,
            signup: workload.name == "connect-signup",
            warm_up: self.timing.warm_up,
            measured: self.timing.measured * workload.duration_factor,
        })
    }
}

/// The frame length in Uproar's latest valid run of this workload.
fn frame_bytes(results: &Results, workload: &str) -> Option<u32> {
    let runs = metric::valid(results, Entry { workload, server: "uproar" });
    runs.last()?.extra.get(FRAME_BYTES).map(|bytes| bytes.round() as u32)
}

fn load(pace: &Pace, round: u32, results: &Results) -> Result<Load> {
    match pace {
        Pace::Fixed(load) => Ok(*load),
        Pace::HalfCapacity { workload, servers } => {
            let mut lowest = f64::INFINITY;
            for server in servers {
                let entry = Entry { workload, server };
                let reached =
                    metric::in_round(results, entry, Metric::AcknowledgedPerSecond, round).with_context(|| {
                        format!("the rate of {server} in {workload} is unknown: that run failed or was void")
                    })?;
                lowest = lowest.min(reached);
            }
            Ok(Load::Rate((lowest / 2.0).max(1.0)))
        }
    }
}

/// Estimates the remaining time, from the runs so far or, before an entrant's first run, from the plan.
struct RemainingTime {
    rounds: u32,
    /// For each entrant, how long its runs took in total, how many there were, and how long one was planned to take.
    entrants: HashMap<(String, String), (Duration, u32, Duration)>,
}

impl RemainingTime {
    fn new(timing: Timing, workloads: &[Workload], rounds: u32) -> Self {
        let entrants = workloads
            .iter()
            .flat_map(|workload| workload.entrants.iter().map(move |entrant| (workload, entrant)))
            .map(|(workload, entrant)| (key(workload, entrant), (Duration::ZERO, 0, timing.of(workload, entrant))))
            .collect();
        Self { rounds, entrants }
    }

    fn record(&mut self, workload: &Workload, entrant: &Entrant, time: Duration) {
        let (sum, runs, _) = self.entrants.get_mut(&key(workload, entrant)).expect("every entrant was planned");
        *sum += time;
        *runs += 1;
    }

    fn estimate(&self) -> Duration {
        let left = |(sum, runs, planned): &(Duration, u32, Duration)| {
            let one = if *runs == 0 { *planned } else { *sum / *runs };
            one * self.rounds.saturating_sub(*runs)
        };
        self.entrants.values().map(left).sum()
    }
}

fn key(workload: &Workload, entrant: &Entrant) -> (String, String) {
    (workload.name.clone(), entrant.server.clone())
}

/// Formats faults: `3 lost, 1 disconnected`.
pub fn describe_faults(faults: &Faults) -> String {
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
    use super::super::workloads;
    use super::*;
    use crate::matrix::fixtures;

    /// Makes up runs without measuring.
    #[derive(Default)]
    struct FakeExecutor {
        jobs: Vec<Job>,
        /// How many of the first runs are void.
        void: usize,
        broken: bool,
    }

    impl Executor for FakeExecutor {
        fn unavailable(&mut self, subject: Subject) -> Option<String> {
            (subject == Subject::Bun).then(|| "npm is missing".into())
        }

        fn run(&mut self, job: &Job) -> Result<Run> {
            anyhow::ensure!(!self.broken, "the port is taken");
            self.jobs.push(job.clone());
            let mut run = if self.jobs.len() <= self.void {
                fixtures::void("", "", 0)
            } else {
                fixtures::acknowledged("", "", 0, if job.subject == Subject::NodeWs { 100 } else { 1000 }, 50.0)
            };
            run.extra.insert(FRAME_BYTES.into(), 201.4);
            Ok(run)
        }
    }

    #[derive(Default)]
    struct RecordingWatcher {
        skipped: Vec<String>,
        left: Vec<Duration>,
        rounds: Vec<usize>,
    }

    impl Watcher for RecordingWatcher {
        fn on_start(&mut self, _plan: &Plan<'_>) {}

        fn on_skip(&mut self, server: &str, _reason: &str) {
            self.skipped.push(server.into());
        }

        fn on_run(&mut self, _run: &Run, left: Duration) {
            self.left.push(left);
        }

        fn on_failure(&mut self, _failure: &Failure, left: Duration) {
            self.left.push(left);
        }

        fn on_round(&mut self, results: &Results) -> Result<()> {
            self.rounds.push(results.runs.len());
            Ok(())
        }
    }

    fn execute(names: &[&str], rounds: u32, executor: &mut FakeExecutor) -> (Results, RecordingWatcher) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let workloads = workloads::select(workloads::for_bars(), &names).unwrap();
        let second = Duration::from_secs(1);
        let plan = Plan { workloads: &workloads, rounds, timing: Timing { warm_up: second, measured: second } };
        let (mut results, mut watcher) = (fixtures::results(), RecordingWatcher::default());
        plan.execute(executor, &mut watcher, &mut results).unwrap();
        (results, watcher)
    }

    #[test]
    fn servers_alternate_and_each_is_first_in_turn() {
        let (results, watcher) = execute(&["fanout-room"], 2, &mut FakeExecutor::default());
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
        assert_eq!(watcher.rounds, [5, 10], "results are saved after each round");
        assert_eq!(watcher.left.last(), Some(&Duration::ZERO));
    }

    #[test]
    fn an_unavailable_server_is_reported_once() {
        let (results, watcher) = execute(&["fanout-room", "echo"], 2, &mut FakeExecutor::default());
        assert_eq!(watcher.skipped, ["bun"]);
        assert_eq!(results.skipped["bun"], "npm is missing");
        assert!(results.runs.iter().all(|run| run.server != "bun"));
    }

    #[test]
    fn a_void_run_is_repeated_once() {
        let mut executor = FakeExecutor { void: 3, ..FakeExecutor::default() };
        let (results, _) = execute(&["shards"], 1, &mut executor);
        let void: Vec<(&str, bool)> = results.runs.iter().map(|run| (run.server.as_str(), run.faults.any())).collect();
        assert_eq!(void, [("uproar", true), ("uproar", true), ("uproar 2 shards", true), ("uproar 2 shards", false)]);
    }

    #[test]
    fn a_failed_run_is_recorded_and_the_others_continue() {
        let mut executor = FakeExecutor { broken: true, ..FakeExecutor::default() };
        let (results, watcher) = execute(&["shards"], 2, &mut executor);
        assert_eq!(results.failures.len(), 4);
        assert_eq!(results.failures[0].error, "the port is taken");
        assert_eq!(watcher.rounds.len(), 2);
    }

    #[test]
    fn an_open_load_is_half_of_the_slower_servers_rate() {
        let mut executor = FakeExecutor::default();
        execute(&["open-room"], 1, &mut executor);
        let open: Vec<&Job> = executor.jobs.iter().filter(|job| job.shape.load == Load::Rate(500.0)).collect();
        assert_eq!(open.len(), 2);
    }

    #[test]
    fn a_load_that_depends_on_a_void_run_is_an_error() {
        let mut executor = FakeExecutor { void: 2, ..FakeExecutor::default() };
        let (results, _) = execute(&["open-room"], 1, &mut executor);
        assert!(results.failures[0].error.contains("uproar"), "{:?}", results.failures);
    }

    #[test]
    fn floor_pads_its_frames_to_uproars_length_in_every_round() {
        let mut executor = FakeExecutor::default();
        execute(&["centrifugo-room"], 2, &mut executor);
        let frames: Vec<Option<u32>> = executor.jobs.iter().map(|job| job.frame_bytes).collect();
        assert_eq!(frames, [None, Some(201), Some(201), None]);
    }

    #[test]
    fn faults_are_listed_with_their_counts() {
        let faults = Faults { lost: 3, refused: 1, ..Faults::default() };
        assert_eq!(describe_faults(&faults), "3 lost, 1 refused");
    }
}
