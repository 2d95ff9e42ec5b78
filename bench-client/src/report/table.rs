//! Tables, as plain text and in Markdown.

use crate::matrix::bars::Outcome;
use crate::matrix::metric::{self, Entry, Metric, Spread};
use crate::matrix::runner::describe_faults;
use crate::result::{Channel, Load, Results, Run, Shape, Wire};

/// Rows of text under headings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub headings: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// The cell of a metric that a run does not have.
pub const EMPTY: &str = "–";

impl Table {
    fn new<'a>(headings: impl IntoIterator<Item = &'a str>) -> Self {
        Self { headings: headings.into_iter().map(str::to_owned).collect(), rows: Vec::new() }
    }

    /// Formats the table with aligned columns, the first one to the left and the others to the right.
    pub fn to_text(&self) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for row in std::iter::once(&self.headings).chain(&self.rows) {
            let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| pad(cell, *width, at == 0));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    pub fn to_markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<String> =
            (0..self.headings.len()).map(|at| if at == 0 { "---".into() } else { "--:".into() }).collect();
        let mut text = line(&self.headings) + &line(&rule);
        for row in &self.rows {
            text.push_str(&line(row));
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        (0..self.headings.len())
            .map(|at| {
                let column = std::iter::once(&self.headings).chain(&self.rows).filter_map(|row| row.get(at));
                column.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect()
    }

    /// Removes the columns that are empty in all rows.
    fn without_empty(self) -> Self {
        let kept: Vec<bool> = (0..self.headings.len())
            .map(|at| at == 0 || self.rows.iter().any(|row| row[at] != EMPTY && !row[at].is_empty()))
            .collect();
        let keep = |row: Vec<String>| row.into_iter().zip(&kept).filter(|(_, kept)| **kept).map(|(it, _)| it).collect();
        Self { headings: keep(self.headings), rows: self.rows.into_iter().map(keep).collect() }
    }
}

fn pad(cell: &str, width: usize, left: bool) -> String {
    let spaces = " ".repeat(width.saturating_sub(cell.chars().count()));
    if left { format!("{cell}{spaces}") } else { format!("{spaces}{cell}") }
}

/// The metrics of a table, in the order of its columns or rows.
const COLUMNS: [Metric; 10] = [
    Metric::CpuPerDelivery,
    Metric::DeliveriesPerSecond,
    Metric::AcknowledgedPerSecond,
    Metric::DeliveryP50,
    Metric::DeliveryP99,
    Metric::DeliveryP999,
    Metric::AckP50,
    Metric::AckP99,
    Metric::LastP99,
    Metric::RssPerConnection,
];

/// The table of a single run.
pub fn run_table(run: &Run) -> Table {
    let mut table = Table::new([run.server.as_str(), ""]);
    let mut row = |name: &str, value: String| table.rows.push(vec![name.to_owned(), value]);
    row("load", describe_shape(&run.shape));
    if run.faults.any() {
        row("void", describe_faults(&run.faults));
    }
    // The metrics of a void run help to find the cause. The row "void" above marks them.
    let shown = Run { faults: Default::default(), ..run.clone() };
    for metric in COLUMNS.into_iter().chain([Metric::KernelPerConnection, Metric::CpuShare, Metric::LastRecovery]) {
        if let Some(value) = metric.of(&shown) {
            row(metric.name(), metric.show(value));
        }
    }
    if let Some(seconds) = run.database_cpu_seconds {
        row("database CPU", format!("{} s", metric::three_digits(seconds)));
    }
    row("busiest load thread", format!("{:.0} % of its core", run.client_cpu_share * 100.0));
    for (name, value) in &run.extra {
        if !name.ends_with("_per_connection") {
            row(&name.replace('_', " "), metric::three_digits(*value));
        }
    }
    table
}

/// The columns of a summary, narrow enough for a README.
const SUMMARY_COLUMNS: [Metric; 6] = [
    Metric::CpuPerDelivery,
    Metric::DeliveriesPerSecond,
    Metric::AckP50,
    Metric::AckP99,
    Metric::LastP99,
    Metric::RssPerConnection,
];

/// The table of a workload, with a row for each server.
pub fn workload_table(results: &Results, workload: &str) -> Table {
    with_columns(results, workload, &COLUMNS, spread)
}

/// The same with fewer columns and without spreads.
pub fn workload_summary(results: &Results, workload: &str) -> Table {
    with_columns(results, workload, &SUMMARY_COLUMNS, |metric, show| {
        metric.map_or_else(|| EMPTY.into(), |it| show(it.median))
    })
}

/// The first of the columns must be CPU per delivery. The ratio to `floor` follows it.
fn with_columns(
    results: &Results,
    workload: &str,
    columns: &[Metric],
    cell: fn(Option<Spread>, &dyn Fn(f64) -> String) -> String,
) -> Table {
    let mut headings = vec!["server", "CPU per delivery", "ratio to floor"];
    headings.extend(columns[1..].iter().map(|metric| metric.name()));
    headings.push("void");
    let mut table = Table::new(headings);
    for server in servers(results, workload) {
        let entry = Entry { workload, server };
        let mut row = vec![server.to_owned()];
        for (at, metric) in columns.iter().copied().enumerate() {
            row.push(cell(metric::over_rounds(results, entry, metric), &|value| metric.show(value)));
            if at == 0 {
                let floor = Entry { workload, server: "floor" };
                row.push(cell(metric::ratio(results, metric, entry, floor), &|value| format!("{value:.2}")));
            }
        }
        row.push(void_runs(results, entry));
        table.rows.push(row);
    }
    table.without_empty()
}

/// The median, with the spread in parentheses.
fn spread(spread: Option<Spread>, show: &dyn Fn(f64) -> String) -> String {
    match spread {
        None => EMPTY.into(),
        Some(it) if it.rounds == 1 => show(it.median),
        Some(it) => format!("{} ({} – {})", show(it.median), show(it.min), show(it.max)),
    }
}

/// The void and failed runs of an entry.
fn void_runs(results: &Results, entry: Entry<'_>) -> String {
    let void = results
        .runs
        .iter()
        .filter(|run| run.workload == entry.workload && run.server == entry.server && run.faults.any())
        .map(|run| format!("round {}: {}", run.round, describe_faults(&run.faults)));
    let failed = results
        .failures
        .iter()
        .filter(|failure| failure.workload == entry.workload && failure.server == entry.server)
        .map(|failure| format!("round {}: {}", failure.round, failure.error));
    void.chain(failed).collect::<Vec<_>>().join("; ")
}

/// The servers of a workload, in the order of their first run.
pub fn servers<'r>(results: &'r Results, workload: &str) -> Vec<&'r str> {
    let mut servers: Vec<&str> = Vec::new();
    let runs = results.runs.iter().map(|run| (&run.workload, &run.server));
    for (of, server) in runs.chain(results.failures.iter().map(|failure| (&failure.workload, &failure.server))) {
        if of == workload && !servers.contains(&server.as_str()) {
            servers.push(server);
        }
    }
    servers
}

/// The table of the bars.
pub fn bars_table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new(["workload", "bar", "measured (spread)", "result"]);
    for outcome in outcomes {
        let mut result = outcome.verdict.describe();
        for also in outcome.note.as_deref().into_iter().chain(outcome.reason) {
            result.push_str("; ");
            result.push_str(also);
        }
        table.rows.push(vec![
            outcome.workload.into(),
            format!("{} {}", outcome.what, outcome.limit),
            outcome.measured.clone(),
            result,
        ]);
    }
    table
}

/// Such as `1 × 1000, 10 senders, 128 B, window 1, raw, live`.
pub fn describe_shape(shape: &Shape) -> String {
    let load = match shape.load {
        Load::Window(messages) => format!("window {messages}"),
        Load::Rate(per_second) => format!("{} messages/s", metric::thousands(per_second)),
        Load::None => "idle".into(),
    };
    let wire = match shape.wire {
        Wire::Raw => "raw",
        Wire::Plain => "plain",
        Wire::Centrifugo => "Centrifugo",
    };
    let channel = match shape.channel {
        Channel::Live => "live",
        Channel::Sqlite => "SQLite",
        Channel::Postgres => "PostgreSQL",
    };
    let (rooms, members, senders) = (shape.rooms, shape.members, shape.senders);
    let plural = if senders == 1 { "" } else { "s" };
    let tls = if shape.tls { ", TLS" } else { "" };
    format!("{rooms} × {members}, {senders} sender{plural}, {} B, {load}, {wire}, {channel}{tls}", shape.payload_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::fixtures;

    #[test]
    fn columns_are_aligned_by_characters_not_bytes() {
        let table = Table {
            headings: vec!["server".into(), "CPU".into()],
            rows: vec![vec!["uproar".into(), "0.563 µs".into()], vec!["node ws".into(), "24 µs".into()]],
        };
        assert_eq!(table.to_text(), "server        CPU\nuproar   0.563 µs\nnode ws     24 µs\n");
        assert_eq!(
            table.to_markdown(),
            "| server | CPU |\n| --- | --: |\n| uproar | 0.563 µs |\n| node ws | 24 µs |\n"
        );
    }

    #[test]
    fn a_pipe_in_a_cell_is_escaped_in_markdown() {
        let table = Table { headings: vec!["a|b".into()], rows: Vec::new() };
        assert_eq!(table.to_markdown(), "| a\\|b |\n| --- |\n");
    }

    #[test]
    fn each_server_has_a_row_with_median_spread_and_ratio() {
        let mut results = fixtures::results();
        for (round, cost) in [(1, 1.0), (2, 3.0), (3, 2.0)] {
            results.runs.push(fixtures::cpu("w", "uproar", round, cost / 2.0));
            results.runs.push(fixtures::cpu("w", "floor", round, cost));
        }
        let table = workload_table(&results, "w");
        assert_eq!(table.rows.len(), 2);
        assert_eq!(table.rows[0][..3], ["uproar", "1.00 µs (0.500 µs – 1.50 µs)", "0.50 (0.50 – 0.50)"]);
        assert!(!table.headings.iter().any(|heading| heading == "void"), "{:?}", table.headings);
        assert!(!table.headings.iter().any(|heading| heading.starts_with("p99")), "{:?}", table.headings);
    }

    #[test]
    fn void_runs_are_shown_with_their_faults_and_without_metrics() {
        let mut results = fixtures::results();
        results.runs.push(fixtures::cpu("w", "uproar", 1, 1.0));
        results.runs.push(fixtures::void("w", "floor", 1));
        let table = workload_table(&results, "w");
        assert_eq!(table.rows[1][1], EMPTY);
        assert_eq!(table.rows[1].last().unwrap(), "round 1: 1 lost");
        let run = run_table(&results.runs[1]).to_text();
        assert!(run.contains("void") && run.contains("1 lost"), "{run}");
    }
}
