//! Reads and writes `results.json`: the raw results and how they compare with the bars. Reading ignores the latter, as
//! the bars are judged again.

use crate::matrix::bars::{self, Outcome};
use crate::result::Results;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fs;
use std::path::Path;

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    results: &'a Results,
    bars: &'a [Outcome],
}

/// Writes results. The file is replaced atomically.
pub fn write(path: &Path, results: &Results) -> Result<()> {
    let bars = bars::judge(results);
    let text = serde_json::to_string(&Document { results, bars: &bars }).context("can't encode the results as JSON")?;
    let part = path.with_extension("json.part");
    let name = || format!("can't write {}", path.display());
    fs::write(&part, text).with_context(name)?;
    fs::rename(&part, path).with_context(name)
}

/// Reads results. The rounds of several files are numbered consecutively.
///
/// Fails if a file can't be read, has another format, or was made on another machine or with another version of Uproar
/// than the first.
pub fn read<P: AsRef<Path>>(paths: &[P]) -> Result<Results> {
    let mut all: Option<Results> = None;
    for path in paths {
        let path = path.as_ref();
        let text = fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
        let results: Results = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a results.json of this version", path.display()))?;
        match &mut all {
            None => all = Some(results),
            Some(all) => append(all, results).with_context(|| path.display().to_string())?,
        }
    }
    all.context("name at least one results.json")
}

fn append(all: &mut Results, more: Results) -> Result<()> {
    let identity = |results: &Results| {
        let machine = &results.machine;
        (machine.cpu.clone(), machine.cores, machine.kernel.clone(), machine.versions.get("uproar").cloned())
    };
    if identity(all) != identity(&more) {
        bail!("measured on another machine or with another version of Uproar; make a separate report of it");
    }
    let before = *crate::matrix::metric::rounds(all).end();
    all.runs.extend(more.runs.into_iter().map(|mut run| {
        run.round += before;
        run
    }));
    all.failures.extend(more.failures.into_iter().map(|mut failure| {
        failure.round += before;
        failure
    }));
    // A server counts as skipped only if no file has it.
    all.skipped.retain(|server, _| more.skipped.contains_key(server));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::fixtures;

    #[test]
    fn written_results_are_read_back_and_rounds_are_numbered_consecutively() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        let mut results = fixtures::results();
        results.runs.push(fixtures::cpu("fanout-room", "uproar", 1, 0.5));
        results.runs.push(fixtures::cpu("fanout-room", "uproar", 2, 0.5));
        write(&path, &results).unwrap();
        let read = super::read(&[&path, &path]).unwrap();
        assert_eq!(read.runs.iter().map(|run| run.round).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(read.runs[0].shape, results.runs[0].shape);
        assert!(fs::read_to_string(&path).unwrap().contains("\"key\":\"room-floor\""));
    }

    #[test]
    fn results_of_different_machines_are_rejected() {
        let mut all = fixtures::results();
        let mut other = fixtures::results();
        other.machine.cpu = "Another CPU".into();
        assert!(append(&mut all, other).is_err());
    }

    #[test]
    fn an_error_names_the_file_with_another_format() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        fs::write(&path, "{}").unwrap();
        let error = format!("{:#}", super::read(&[&path]).unwrap_err());
        assert!(error.contains("results.json is not"), "{error}");
        assert_eq!(super::read::<&Path>(&[]).unwrap_err().to_string(), "name at least one results.json");
    }
}
