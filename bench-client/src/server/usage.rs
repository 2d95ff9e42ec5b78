//! What processes and the kernel use.

use anyhow::{Context, Result, ensure};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use std::fs;

/// Linux numbers its processes from 1 to this. Beyond it the name of a process's clock is that of another clock.
const PROCESS_LIMIT: u32 = 1 << 22;

/// CPU time that a process has used with all its threads, in seconds, to the nanosecond.
pub fn cpu_seconds(process: u32) -> Result<f64> {
    ensure!((1..=PROCESS_LIMIT).contains(&process), "there can't be a process {process}");
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(process)?))
        .with_context(|| format!("can't read the CPU time of process {process}: it may have ended"))?;
    let time = clock.now().with_context(|| format!("can't read the CPU time of process {process}"))?;
    Ok(time.num_nanoseconds() as f64 / 1e9)
}

/// CPU time of this process, in seconds.
pub fn own_cpu_seconds() -> Result<f64> {
    let time = ClockId::CLOCK_PROCESS_CPUTIME_ID.now().context("can't read the own CPU time")?;
    Ok(time.num_nanoseconds() as f64 / 1e9)
}

/// CPU time of a process and of those that it started itself, such as PostgreSQL's, in seconds. Those that have ended
/// are left out.
pub fn family_cpu_seconds(parent: u32) -> Result<f64> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
        .with_context(|| format!("can't read the children of process {parent}"))?;
    let mut seconds = cpu_seconds(parent)?;
    for child in children.split_ascii_whitespace().filter_map(|child| child.parse().ok()) {
        // It may have ended since.
        seconds += cpu_seconds(child).unwrap_or_default();
    }
    Ok(seconds)
}

/// Resident memory of a process, in bytes.
pub fn rss_bytes(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    kibibytes(&status, "VmRSS:").with_context(|| format!("{path} says nothing of VmRSS"))
}

/// Memory that the kernel uses for itself and for sockets, in bytes.
pub fn kernel_bytes() -> Result<u64> {
    let memory = fs::read_to_string("/proc/meminfo").context("can't read /proc/meminfo")?;
    let slab = kibibytes(&memory, "Slab:").context("/proc/meminfo says nothing of Slab")?;
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let pages = sockets
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .and_then(|line| line.split_ascii_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse::<u64>().ok())
        .unwrap_or_default();
    Ok(slab + pages * rustix::param::page_size() as u64)
}

/// The figure of a line such as `VmRSS:      3304 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_uses_is_read() {
        let own = std::process::id();
        let before = cpu_seconds(own).unwrap();
        let sum: u64 = (0..20_000_000u64).map(std::hint::black_box).sum();
        assert!(sum > 0 && cpu_seconds(own).unwrap() > before);
        assert!(own_cpu_seconds().unwrap() > before);
        assert!(family_cpu_seconds(own).unwrap() > before);
        assert!(rss_bytes(own).unwrap() > 1 << 20);
        assert!(kernel_bytes().unwrap() > 1 << 20);
        for none in [0, PROCESS_LIMIT + 1, u32::MAX / 2, u32::MAX] {
            assert!(cpu_seconds(none).is_err() && rss_bytes(none).is_err(), "{none}");
        }
    }

    #[test]
    fn figures_are_kibibytes() {
        assert_eq!(kibibytes("VmHWM:\t 9 kB\nVmRSS:\t   3304 kB\n", "VmRSS:"), Some(3304 * 1024));
        assert_eq!(kibibytes("VmHWM:\t 9 kB\n", "VmRSS:"), None);
    }
}
