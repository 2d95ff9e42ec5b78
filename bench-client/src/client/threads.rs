//! Which thread runs on which core.

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::str::FromStr;
use std::thread::JoinHandle;

/// A set of cores, as `0`, `1-3` or `1,3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

impl Cores {
    /// All that this process may use.
    pub fn all() -> Result<Cores> {
        let set = sched_getaffinity(None).context("can't read which cores may be used")?;
        Ok(Cores((0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()))
    }

    /// All but some. All, where nothing else is there.
    pub fn without(&self, other: &Cores) -> Cores {
        let rest: Vec<usize> = self.0.iter().copied().filter(|core| !other.0.contains(core)).collect();
        if rest.is_empty() { self.clone() } else { Cores(rest) }
    }

    /// These and others, each once.
    pub fn and(&self, other: &Cores) -> Cores {
        let mut all = self.0.clone();
        all.extend(other.0.iter().filter(|core| !self.0.contains(core)));
        Cores(all)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// One of them, for the thread with this index.
    pub fn one(&self, index: usize) -> Cores {
        Cores(vec![self.0[index % self.0.len()]])
    }

    /// The calling thread runs on these from now on, and what it starts as well.
    pub fn pin(&self) -> Result<()> {
        let mut set = CpuSet::new();
        for core in &self.0 {
            if *core >= CpuSet::MAX_CPU {
                bail!("there is no core {core}");
            }
            set.set(*core);
        }
        sched_setaffinity(None, &set)
            .with_context(|| format!("can't run on core {self}; `nproc --all` says how many there are"))
    }

    /// Does something on these cores, and goes back. What it starts stays.
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
        let wrong = || format!("'{text}' names no cores; write 0, or 1-3, or 1,3");
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

/// Starts a load thread on a core of its own.
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
    fn cores_are_read_as_taskset_reads_them() {
        assert_eq!("0".parse(), Ok(Cores(vec![0])));
        assert_eq!("1-3,5".parse(), Ok(Cores(vec![1, 2, 3, 5])));
        for wrong in ["", "a", "3-1", "1-", "99999"] {
            assert!(wrong.parse::<Cores>().is_err(), "{wrong}");
        }
        let all: Cores = "0-3".parse().unwrap();
        assert_eq!(all.without(&Cores(vec![0])), Cores(vec![1, 2, 3]));
        assert_eq!(Cores(vec![0]).without(&Cores(vec![0])), Cores(vec![0]), "there is nothing else");
        assert_eq!(all.one(5), Cores(vec![1]));
    }
}
