//! Results for people: on a terminal, in Markdown, and as a page with plots.

pub mod html;
pub mod json;
pub mod svg;
pub mod table;

use crate::matrix::bars;
use crate::matrix::works::{self, Work};
use crate::result::Results;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Writes `report.html` and `bars.md` into a folder that is there.
pub fn write_pages(folder: &Path, results: &Results) -> Result<()> {
    for (name, text) in [("report.html", html::page(results)), ("bars.md", markdown(results))] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(())
}

/// The bars and a short table of each work, in Markdown.
pub fn markdown(results: &Results) -> String {
    let outcomes = bars::judge(results);
    let mut text = format!("{}\n\n{}", machine_in_words(results), table::of_bars(&outcomes).to_markdown());
    for work in measured(results) {
        let _ = write!(text, "\n### {}\n\n{}", work.title, table::in_short(results, &work.name).to_markdown());
    }
    text
}

/// The bars and a table of each work, for a terminal.
pub fn text(results: &Results) -> String {
    let mut text = String::new();
    for work in measured(results) {
        let _ = writeln!(text, "{}\n{}", work.title, table::of_work(results, &work.name).to_text());
    }
    text + &table::of_bars(&bars::judge(results)).to_text()
}

/// The works that results have, in the matrix's order.
fn measured(results: &Results) -> Vec<Work> {
    let mut works = works::of_bars();
    works.extend(works::of_curves());
    works.retain(|work| !table::servers(results, &work.name).is_empty());
    works
}

/// Such as `Some CPU, 2 cores, Linux 6.18, 5 rounds, uproar 0.1.0, bun 1.3.0`.
fn machine_in_words(results: &Results) -> String {
    let machine = &results.machine;
    let rounds = crate::matrix::figure::rounds(results).end().to_owned();
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
