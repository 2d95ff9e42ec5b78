//! CPU time and memory of processes and of the kernel.

use anyhow::{Context, Result, ensure};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use std::fs;

/// The highest process id on Linux. Above it, the id of a process's CPU clock would be that of some other clock.
const PROCESS_LIMIT: u32 = 1 << 22;

/// CPU time of all threads of a process, in seconds, with a resolution of nanoseconds.
pub fn cpu_seconds(process: u32) -> Result<f64> {
    ensure!((1..=PROCESS_LIMIT).contains(&process), "{process} is not a valid process id");
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(process)?))
        .with_context(|| format!("can't read the CPU time of process {process}: it may have ended"))?;
    let time = clock.now().with_context(|| format!("can't read the CPU time of process {process}"))?;
    Ok(time.num_nanoseconds() as f64 / 1e9)
}

/// CPU time of this process, in seconds.
pub fn own_cpu_seconds() -> Result<f64> {
    let time = ClockId::CLOCK_PROCESS_CPUTIME_ID.now().context("can't read the CPU time of this process")?;
    Ok(time.num_nanoseconds() as f64 / 1e9)
}

/// CPU time of a process and its running children, such as PostgreSQL's, in seconds.
pub fn process_tree_cpu_seconds(parent: u32) -> Result<f64> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
        .with_context(|| format!("can't read the children of process {parent}"))?;
    let mut seconds = cpu_seconds(parent)?;
    for child in children.split_ascii_whitespace().filter_map(|child| child.parse().ok()) {
        // The child may have exited since.
        seconds += cpu_seconds(child).unwrap_or_default();
    }
    Ok(seconds)
}

/// Resident memory of a process, in bytes.
pub fn rss_bytes(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    kibibytes(&status, "VmRSS:").with_context(|| format!("{path} has no VmRSS"))
}

/// Memory that the kernel uses for its slabs and for TCP buffers, in bytes.
pub fn kernel_bytes() -> Result<u64> {
    let memory = fs::read_to_string("/proc/meminfo").context("can't read /proc/meminfo")?;
    let slab = kibibytes(&memory, "Slab:").context("/proc/meminfo has no Slab")?;
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let pages = sockets
        .lines()
        .find(|line| line.starts_with("TCP:"))
        .and_then(|line| line.split_ascii_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse::<u64>().ok())
        .unwrap_or_default();
    Ok(slab + pages * rustix::param::page_size() as u64)
}

/// The value of a line such as `VmRSS:      3304 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_and_memory_of_this_process_are_read() {
        let own = std::process::id();
        let before = cpu_seconds(own).unwrap();
        let sum: u64 = (0..20_000_000u64).map(std::hint::black_box).sum();
        assert!(sum > 0 && cpu_seconds(own).unwrap() > before);
        assert!(own_cpu_seconds().unwrap() > before);
        assert!(process_tree_cpu_seconds(own).unwrap() > before);
        assert!(rss_bytes(own).unwrap() > 1 << 20);
        assert!(kernel_bytes().unwrap() > 1 << 20);
        for none in [0, PROCESS_LIMIT + 1, u32::MAX / 2, u32::MAX] {
            assert!(cpu_seconds(none).is_err() && rss_bytes(none).is_err(), "{none}");
        }
    }

    #[test]
    fn kilobytes_in_proc_are_kibibytes() {
        assert_eq!(kibibytes("VmHWM:\t 9 kB\nVmRSS:\t   3304 kB\n", "VmRSS:"), Some(3304 * 1024));
        assert_eq!(kibibytes("VmHWM:\t 9 kB\n", "VmRSS:"), None);
    }
}
