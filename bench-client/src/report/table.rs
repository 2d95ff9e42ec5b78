//! Tables: on a terminal, and in Markdown for the README.

use crate::matrix::bars::Outcome;
use crate::matrix::figure::{self, Entry, Figure, Spread};
use crate::matrix::rounds::faults_in_words;
use crate::result::{Channel, Load, Results, Run, Shape, Wire};

/// Rows of text under headings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub headings: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// What stands where there is no figure.
pub const NOTHING: &str = "–";

impl Table {
    fn new<'a>(headings: impl IntoIterator<Item = &'a str>) -> Self {
        Self { headings: headings.into_iter().map(str::to_owned).collect(), rows: Vec::new() }
    }

    /// Columns in line, the first to the left and the others to the right.
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

    /// Without the columns in which no row has anything.
    fn without_empty(self) -> Self {
        let kept: Vec<bool> = (0..self.headings.len())
            .map(|at| at == 0 || self.rows.iter().any(|row| row[at] != NOTHING && !row[at].is_empty()))
            .collect();
        let keep = |row: Vec<String>| row.into_iter().zip(&kept).filter(|(_, kept)| **kept).map(|(it, _)| it).collect();
        Self { headings: keep(self.headings), rows: self.rows.into_iter().map(keep).collect() }
    }
}

fn pad(cell: &str, width: usize, left: bool) -> String {
    let spaces = " ".repeat(width.saturating_sub(cell.chars().count()));
    if left { format!("{cell}{spaces}") } else { format!("{spaces}{cell}") }
}

/// The figures of a run or of a set of rounds, in the order of their columns.
const COLUMNS: [Figure; 10] = [
    Figure::CpuPerDelivery,
    Figure::DeliveriesPerSecond,
    Figure::AcknowledgedPerSecond,
    Figure::DeliveryP50,
    Figure::DeliveryP99,
    Figure::DeliveryP999,
    Figure::AckP50,
    Figure::AckP99,
    Figure::LastP99,
    Figure::RssPerConnection,
];

/// One run.
pub fn of_run(run: &Run) -> Table {
    let mut table = Table::new([run.server.as_str(), ""]);
    let mut row = |name: &str, value: String| table.rows.push(vec![name.to_owned(), value]);
    row("work", shape_in_words(&run.shape));
    if run.faults.any() {
        row("void", faults_in_words(&run.faults));
    }
    // Void figures are shown to whoever looks for what went wrong, and marked above.
    let shown = Run { faults: Default::default(), ..run.clone() };
    for figure in COLUMNS.into_iter().chain([Figure::KernelPerConnection, Figure::CpuShare]) {
        if let Some(value) = figure.of(&shown) {
            row(figure.name(), figure.show(value));
        }
    }
    if let Some(seconds) = run.database_cpu_seconds {
        row("database CPU", format!("{} s", figure::three_digits(seconds)));
    }
    row("load's busiest core", format!("{:.0} %", run.client_cpu_share * 100.0));
    for (name, value) in &run.extra {
        if !name.ends_with("_per_connection") {
            row(&name.replace('_', " "), figure::three_digits(*value));
        }
    }
    table
}

/// Those of [`COLUMNS`] that a README has place for.
const FEW: [Figure; 6] = [
    Figure::CpuPerDelivery,
    Figure::DeliveriesPerSecond,
    Figure::AckP50,
    Figure::AckP99,
    Figure::LastP99,
    Figure::RssPerConnection,
];

/// The rounds of a work: a row for each server.
pub fn of_work(results: &Results, work: &str) -> Table {
    with_columns(results, work, &COLUMNS, spread)
}

/// The same with fewer figures, medians alone.
pub fn in_short(results: &Results, work: &str) -> Table {
    with_columns(results, work, &FEW, |figure, show| figure.map_or_else(|| NOTHING.into(), |it| show(it.median)))
}

/// The first of the columns is CPU per delivery.
fn with_columns(
    results: &Results,
    work: &str,
    columns: &[Figure],
    cell: fn(Option<Spread>, &dyn Fn(f64) -> String) -> String,
) -> Table {
    let mut headings = vec!["server", "CPU per delivery", "to floor"];
    headings.extend(columns[1..].iter().map(|figure| figure.name()));
    headings.push("void");
    let mut table = Table::new(headings);
    for server in servers(results, work) {
        let entry = Entry { work, server };
        let mut row = vec![server.to_owned()];
        for (at, figure) in columns.iter().copied().enumerate() {
            // Of what never ran against a load, these would be noise over little.
            row.push(cell(figure::over_rounds(results, entry, figure), &|value| figure.show(value)));
            if at == 0 {
                let floor = Entry { work, server: "floor" };
                row.push(cell(figure::ratio(results, figure, entry, floor), &|value| format!("{value:.2}")));
            }
        }
        row.push(voids(results, entry));
        table.rows.push(row);
    }
    table.without_empty()
}

/// Median, and the spread in brackets.
fn spread(spread: Option<Spread>, show: &dyn Fn(f64) -> String) -> String {
    match spread {
        None => NOTHING.into(),
        Some(it) if it.rounds == 1 => show(it.median),
        Some(it) => format!("{} ({} – {})", show(it.median), show(it.min), show(it.max)),
    }
}

/// The void runs of an entry with their faults, and those that failed.
fn voids(results: &Results, entry: Entry<'_>) -> String {
    let void = results
        .runs
        .iter()
        .filter(|run| run.work == entry.work && run.server == entry.server && run.faults.any())
        .map(|run| format!("round {}: {}", run.round, faults_in_words(&run.faults)));
    let failed = results
        .failures
        .iter()
        .filter(|failure| failure.work == entry.work && failure.server == entry.server)
        .map(|failure| format!("round {}: {}", failure.round, failure.error));
    void.chain(failed).collect::<Vec<_>>().join("; ")
}

/// The servers of a work, in the order of the matrix.
pub fn servers<'r>(results: &'r Results, work: &str) -> Vec<&'r str> {
    let mut servers: Vec<&str> = Vec::new();
    let runs = results.runs.iter().map(|run| (&run.work, &run.server));
    for (of, server) in runs.chain(results.failures.iter().map(|failure| (&failure.work, &failure.server))) {
        if of == work && !servers.contains(&server.as_str()) {
            servers.push(server);
        }
    }
    servers
}

/// The bars, as they are shown in `bars.md`.
pub fn of_bars(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new(["work", "bar", "measured (spread)", "result"]);
    for outcome in outcomes {
        let mut result = outcome.verdict.words();
        for also in outcome.note.as_deref().into_iter().chain(outcome.reason) {
            result.push_str("; ");
            result.push_str(also);
        }
        table.rows.push(vec![
            outcome.work.into(),
            format!("{} {}", outcome.what, outcome.limit),
            outcome.measured.clone(),
            result,
        ]);
    }
    table
}

/// Such as `1 × 1000, 10 senders, 128 B, window 1, raw, live`.
pub fn shape_in_words(shape: &Shape) -> String {
    let load = match shape.load {
        Load::Window(messages) => format!("window {messages}"),
        Load::Rate(per_second) => format!("{} messages/s", figure::thousands(per_second)),
        Load::None => "nobody sends".into(),
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
    format!("{rooms} × {members}, {senders} sender{plural}, {} B, {load}, {wire}, {channel}", shape.payload_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::made_up;

    #[test]
    fn columns_are_in_line_where_letters_take_more_than_a_byte() {
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
    fn a_bar_in_a_cell_does_not_end_it() {
        let table = Table { headings: vec!["a|b".into()], rows: Vec::new() };
        assert_eq!(table.to_markdown(), "| a\\|b |\n| --- |\n");
    }

    #[test]
    fn a_work_has_a_row_a_server_with_median_spread_and_ratio() {
        let mut results = made_up::results();
        for (round, cost) in [(1, 1.0), (2, 3.0), (3, 2.0)] {
            results.runs.push(made_up::cpu("w", "uproar", round, cost / 2.0));
            results.runs.push(made_up::cpu("w", "floor", round, cost));
        }
        let table = of_work(&results, "w");
        assert_eq!(table.rows.len(), 2);
        assert_eq!(table.rows[0][..3], ["uproar", "1.00 µs (0.500 µs – 1.50 µs)", "0.50 (0.50 – 0.50)"]);
        assert!(!table.headings.iter().any(|heading| heading == "void"), "{:?}", table.headings);
        assert!(!table.headings.iter().any(|heading| heading.starts_with("p99")), "{:?}", table.headings);
    }

    #[test]
    fn void_runs_are_shown_with_their_faults_and_without_figures() {
        let mut results = made_up::results();
        results.runs.push(made_up::cpu("w", "uproar", 1, 1.0));
        results.runs.push(made_up::void("w", "floor", 1));
        let table = of_work(&results, "w");
        assert_eq!(table.rows[1][1], NOTHING);
        assert_eq!(table.rows[1].last().unwrap(), "round 1: 1 lost");
        let run = of_run(&results.runs[1]).to_text();
        assert!(run.contains("void") && run.contains("1 lost"), "{run}");
    }
}
