//! Progress on standard error: one line per run, and on a terminal a status line that is updated in place.

use crate::matrix::metric::Metric;
use crate::matrix::runner::{Plan, Watcher, describe_faults};
use crate::output::note;
use crate::report;
use crate::result::{Failure, Results, Run};
use anyhow::Result;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Above this share of its core, a load thread may itself be the bottleneck. The run's line then warns.
const BUSY: f64 = 0.8;

#[derive(Debug)]
pub struct Progress {
    /// Results are written here after each round.
    folder: PathBuf,
    runs: usize,
    done: usize,
    is_terminal: bool,
}

impl Progress {
    pub fn new(folder: PathBuf) -> Progress {
        Progress { folder, runs: 0, done: 0, is_terminal: std::io::stderr().is_terminal() }
    }

    /// Prints a permanent line.
    fn line(&self, line: &str) {
        let clear = if self.is_terminal { "\r\x1b[2K" } else { "" };
        note(format_args!("{clear}{line}"));
    }

    /// Shows the status on a terminal, until the next line is printed.
    fn state(&self, left: Duration) {
        if self.is_terminal {
            let left = format_duration(left);
            let _ = write!(std::io::stderr(), "\r\x1b[2K{} of {} runs, {left} left", self.done, self.runs);
        }
    }
}

impl Watcher for Progress {
    fn on_start(&mut self, plan: &Plan<'_>) {
        self.runs = plan.runs();
        self.line(&format!(
            "{} runs in {} rounds, about {}; each is measured for {} ms",
            self.runs,
            plan.rounds,
            format_duration(plan.duration()),
            plan.timing.measured.as_millis()
        ));
    }

    fn on_skip(&mut self, server: &str, reason: &str) {
        self.line(&format!("{server} is skipped: {reason}"));
    }

    fn on_run(&mut self, run: &Run, left: Duration) {
        self.done += 1;
        self.line(&format!("round {}  {:18} {}", run.round, run.workload, summary_line(run)));
        self.state(left);
    }

    fn on_failure(&mut self, failure: &Failure, left: Duration) {
        self.done += 1;
        let Failure { round, workload, server, error } = failure;
        self.line(&format!("round {round}  {workload:18} {server:18} failed: {error}"));
        self.state(left);
    }

    fn on_round(&mut self, results: &Results) -> Result<()> {
        report::json::write(&self.folder.join("results.json"), results)?;
        report::write_pages(&self.folder, results)
    }
}

/// A run's main metrics in one line, such as `floor    0.45 µs CPU per delivery, 1,200,000 deliveries/s`.
pub fn summary_line(run: &Run) -> String {
    let mut words = Vec::new();
    if run.faults.any() {
        words.push(format!("VOID: {}", describe_faults(&run.faults)));
        words.extend(run.first_fault.clone());
    }
    let first = [
        Metric::CpuPerDelivery,
        Metric::DeliveriesPerSecond,
        Metric::AcknowledgedPerSecond,
        Metric::AckP99,
        Metric::LastP99,
    ];
    for metric in first {
        words.extend(metric.of(run).map(|value| format!("{} {}", metric.show(value), metric.name())));
    }
    if run.deliveries == 0 {
        words.extend(
            [Metric::RssPerConnection, Metric::CpuShare]
                .into_iter()
                .filter_map(|metric| metric.of(run).map(|value| format!("{} {}", metric.show(value), metric.name()))),
        );
    }
    if run.client_cpu_share > BUSY {
        words.push(format!("warning: the load uses {:.0} % of its core", run.client_cpu_share * 100.0));
    }
    format!("{:18} {}", run.server, words.join(", "))
}

fn format_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 100 { format!("{seconds} s") } else { format!("{} min", (seconds + 30) / 60) }
}
