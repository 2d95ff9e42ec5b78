//! How far it is, on standard error: a line that is written anew on a terminal, a line a run elsewhere.

use crate::matrix::figure::Figure;
use crate::matrix::rounds::{Plan, Watcher, faults_in_words};
use crate::report;
use crate::result::{Failure, Results, Run};
use anyhow::Result;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Above this share of its core the load itself may be what limits, and says so.
const BUSY: f64 = 0.8;

#[derive(Debug)]
pub struct Progress {
    /// Results are kept here after each round.
    folder: PathBuf,
    runs: usize,
    done: usize,
    is_terminal: bool,
}

impl Progress {
    pub fn new(folder: PathBuf) -> Progress {
        Progress { folder, runs: 0, done: 0, is_terminal: std::io::stderr().is_terminal() }
    }

    /// A line that stays.
    fn line(&self, line: &str) {
        let clear = if self.is_terminal { "\r\x1b[2K" } else { "" };
        eprintln!("{clear}{line}");
    }

    /// What a terminal shows until the next line.
    fn state(&self, left: Duration) {
        if self.is_terminal {
            eprint!("\r\x1b[2K{} of {} runs, {} left", self.done, self.runs, in_words(left));
            // It is only for the eye.
            let _ = std::io::stderr().flush();
        }
    }
}

impl Watcher for Progress {
    fn begin(&mut self, plan: &Plan<'_>) {
        self.runs = plan.runs();
        self.line(&format!(
            "{} runs in {} rounds, about {}; {} ms are measured of each",
            self.runs,
            plan.rounds,
            in_words(plan.duration()),
            plan.times.window.as_millis()
        ));
    }

    fn skip(&mut self, server: &str, why: &str) {
        self.line(&format!("{server} is left out: {why}"));
    }

    fn run(&mut self, run: &Run, left: Duration) {
        self.done += 1;
        self.line(&format!("round {}  {:18} {}", run.round, run.work, in_a_line(run)));
        self.state(left);
    }

    fn fail(&mut self, failure: &Failure, left: Duration) {
        self.done += 1;
        let Failure { round, work, server, error } = failure;
        self.line(&format!("round {round}  {work:18} {server:18} failed: {error}"));
        self.state(left);
    }

    fn round(&mut self, results: &Results) -> Result<()> {
        report::json::write(&self.folder.join("results.json"), results)?;
        report::write_pages(&self.folder, results)
    }
}

/// Such as `floor    0.45 µs CPU per delivery, 1,200,000 deliveries/s`.
pub fn in_a_line(run: &Run) -> String {
    let mut words = Vec::new();
    if run.faults.any() {
        words.push(format!("VOID: {}", faults_in_words(&run.faults)));
        words.extend(run.words.clone());
    }
    let first = [
        Figure::CpuPerDelivery,
        Figure::DeliveriesPerSecond,
        Figure::AcknowledgedPerSecond,
        Figure::AckP99,
        Figure::LastP99,
    ];
    for figure in first {
        words.extend(figure.of(run).map(|value| format!("{} {}", figure.show(value), figure.name())));
    }
    if run.deliveries == 0 {
        words.extend(
            [Figure::RssPerConnection, Figure::CpuShare]
                .into_iter()
                .filter_map(|figure| figure.of(run).map(|value| format!("{} {}", figure.show(value), figure.name()))),
        );
    }
    if run.client_cpu_share > BUSY {
        words.push(format!("load at {:.0} % of its core", run.client_cpu_share * 100.0));
    }
    format!("{:18} {}", run.server, words.join(", "))
}

fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 100 { format!("{seconds} s") } else { format!("{} min", (seconds + 30) / 60) }
}
