//! Pins threads to cores.

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::str::FromStr;
use std::thread::JoinHandle;

/// A list of cores, written as `0`, `1-3` or `1,3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

impl Cores {
    /// All cores that this thread may use.
    pub fn all() -> Result<Cores> {
        let set = sched_getaffinity(None).context("can't read which cores this process may use")?;
        Ok(Cores((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()))
    }

    /// These cores without the `other` ones, or all of them if none would be left.
    pub fn without(&self, other: &Cores) -> Cores {
        let rest: Vec<usize> = self.0.iter().copied().filter(|core| !other.0.contains(core)).collect();
        if rest.is_empty() { self.clone() } else { Cores(rest) }
    }

    /// The union of both.
    pub fn and(&self, other: &Cores) -> Cores {
        let mut all = self.0.clone();
        all.extend(other.0.iter().filter(|core| !self.0.contains(core)));
        Cores(all)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The core for the thread with this index.
    pub fn one(&self, index: usize) -> Cores {
        Cores(vec![self.0[index % self.0.len()]])
    }

    /// Pins the calling thread, and every thread and process that it starts from now on.
    pub fn pin(&self) -> Result<()> {
        let mut set = CpuSet::new();
        for core in &self.0 {
            if *core >= CpuSet::MAX_CPU {
                bail!("core {core} does not exist");
            }
            set.set(*core);
        }
        sched_setaffinity(None, &set)
            .with_context(|| format!("can't run on core {self}; `nproc --all` prints the number of cores"))
    }

    /// Runs `act` pinned to these cores, then restores the previous ones. Processes that it starts stay pinned.
    pub fn while_pinned<T>(&self, act: impl FnOnce() -> T) -> Result<T> {
        let before = Cores::all()?;
        self.pin()?;
        let done = act();
        before.pin()?;
        Ok(done)
    }
}

impl std::fmt::Display for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cores: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&cores.join(","))
    }
}

impl FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Cores, String> {
        let wrong = || format!("'{text}' is not a list of cores; examples are 0, 1-3 and 1,3");
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_| wrong())?;
            let last: usize = last.trim().parse().map_err(|_| wrong())?;
            if first > last || last >= CpuSet::MAX_CPU {
                return Err(wrong());
            }
            cores.extend(first..=last);
        }
        Ok(Cores(cores))
    }
}

/// Starts load thread number `index`, pinned to its core.
pub fn spawn<T: Send + 'static>(
    cores: &Cores,
    index: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    let core = cores.one(index);
    std::thread::Builder::new()
        .name(format!("load {index}"))
        .spawn(move || {
            core.pin()?;
            work()
        })
        .context("can't start a load thread")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists_are_parsed_as_by_taskset() {
        assert_eq!("0".parse(), Ok(Cores(vec![0])));
        assert_eq!("1-3,5".parse(), Ok(Cores(vec![1, 2, 3, 5])));
        for wrong in ["", "a", "3-1", "1-", "99999"] {
            assert!(wrong.parse::<Cores>().is_err(), "{wrong}");
        }
        let all: Cores = "0-3".parse().unwrap();
        assert_eq!(all.without(&Cores(vec![0])), Cores(vec![1, 2, 3]));
        assert_eq!(Cores(vec![0]).without(&Cores(vec![0])), Cores(vec![0]), "no other core is left");
        assert_eq!(all.one(5), Cores(vec![1]));
    }
}
