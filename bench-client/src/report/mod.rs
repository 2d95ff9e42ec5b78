//! Reports: on a terminal, in Markdown, and as an HTML page with plots.

pub mod html;
pub mod json;
pub mod svg;
pub mod table;

use crate::matrix::bars;
use crate::matrix::workloads::{self, Workload};
use crate::result::Results;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Writes `report.html` and `bars.md` into an existing folder.
pub fn write_pages(folder: &Path, results: &Results) -> Result<()> {
    for (name, text) in [("report.html", html::page(results)), ("bars.md", markdown(results))] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(())
}

/// The bars and a summary of each workload, in Markdown.
pub fn markdown(results: &Results) -> String {
    let outcomes = bars::judge(results);
    let mut text = format!("{}\n\n{}", describe_machine(results), table::bars_table(&outcomes).to_markdown());
    for workload in measured(results) {
        let _ = write!(
            text,
            "\n### {}\n\n{}",
            workload.title,
            table::workload_summary(results, &workload.name).to_markdown()
        );
    }
    text
}

/// A table of each workload and the bars, for a terminal.
pub fn text(results: &Results) -> String {
    let mut text = String::new();
    for workload in measured(results) {
        let _ = writeln!(text, "{}\n{}", workload.title, table::workload_table(results, &workload.name).to_text());
    }
    text + &table::bars_table(&bars::judge(results)).to_text()
}

/// The workloads that have results, in the order in which they are measured.
fn measured(results: &Results) -> Vec<Workload> {
    let mut workloads = workloads::for_bars();
    workloads.extend(workloads::additional());
    workloads.retain(|workload| !table::servers(results, &workload.name).is_empty());
    workloads
}

/// Such as `Some CPU, 2 cores, Linux 6.18, 5 rounds, uproar 0.1.0, bun 1.3.0`.
fn describe_machine(results: &Results) -> String {
    let machine = &results.machine;
    let rounds = crate::matrix::metric::rounds(results).end().to_owned();
    let mut words = vec![
        machine.cpu.clone(),
        counted(machine.cores as u64, "core"),
        machine.kernel.clone(),
        counted(u64::from(rounds), "round"),
    ];
    words.extend(machine.versions.iter().map(|(name, version)| format!("{name} {version}")));
    words.join(", ")
}

fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("{count} {noun}") } else { format!("{count} {noun}s") }
}
