//! Raw results in JSON, with the bars judged. Bars are judged anew whenever results are read.

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

/// Writes results so that the file is whole at any moment.
pub fn write(path: &Path, results: &Results) -> Result<()> {
    let bars = bars::judge(results);
    let text = serde_json::to_string(&Document { results, bars: &bars }).context("results can't be JSON")?;
    let beside = path.with_extension("json.part");
    let name = || format!("can't write {}", path.display());
    fs::write(&beside, text).with_context(name)?;
    fs::rename(&beside, path).with_context(name)
}

/// Reads results; of several files the rounds follow one another.
///
/// Fails where a file can't be read, is no such file, or was made on another machine or with another version of Uproar than the first.
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
        bail!("it was measured on another machine, or with another Uproar: make a report of its own of it");
    }
    let before = *crate::matrix::figure::rounds(all).end();
    all.runs.extend(more.runs.into_iter().map(|mut run| {
        run.round += before;
        run
    }));
    all.failures.extend(more.failures.into_iter().map(|mut failure| {
        failure.round += before;
        failure
    }));
    // What was left out of one of them was measured in the other.
    all.skipped.retain(|server, _| more.skipped.contains_key(server));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::made_up;

    #[test]
    fn results_are_read_as_they_were_written_and_rounds_follow_one_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        let mut results = made_up::results();
        results.runs.push(made_up::cpu("fanout-room", "uproar", 1, 0.5));
        results.runs.push(made_up::cpu("fanout-room", "uproar", 2, 0.5));
        write(&path, &results).unwrap();
        let read = super::read(&[&path, &path]).unwrap();
        assert_eq!(read.runs.iter().map(|run| run.round).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(read.runs[0].shape, results.runs[0].shape);
        assert!(fs::read_to_string(&path).unwrap().contains("\"key\":\"room-floor\""));
    }

    #[test]
    fn results_of_two_machines_make_no_report() {
        let mut all = made_up::results();
        let mut other = made_up::results();
        other.machine.cpu = "Another CPU".into();
        assert!(append(&mut all, other).is_err());
    }

    #[test]
    fn a_file_that_is_something_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        fs::write(&path, "{}").unwrap();
        let error = format!("{:#}", super::read(&[&path]).unwrap_err());
        assert!(error.contains("results.json is not"), "{error}");
        assert_eq!(super::read::<&Path>(&[]).unwrap_err().to_string(), "name at least one results.json");
    }
}
