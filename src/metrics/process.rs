//! The metrics of the process, under the names that Prometheus' own clients give them, and the space that it has left.

use super::Text;
use rustix::fs::statvfs;
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use uproar_tls::Certificate;

/// What doesn't change while the process runs.
pub struct Process {
    started: SystemTime,
    /// The data folder.
    data: PathBuf,
    /// The TLS certificate, if there is one.
    certificate: Option<Arc<Certificate>>,
}

impl Process {
    pub fn new(data: PathBuf, certificate: Option<Arc<Certificate>>) -> Process {
        Process { started: SystemTime::now(), data, certificate }
    }

    /// What can't be read, for example because `/proc` is not mounted, is left out.
    pub(super) fn write(&self, out: &mut Text) {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| {
            out.family(name, "gauge", help, value.map(|value| (String::new(), value)));
        };
        let started = self.started.duration_since(UNIX_EPOCH).map(|time| time.as_secs_f64()).ok();
        gauge("process_start_time_seconds", "When the process started, in Unix seconds.", started);
        gauge("process_resident_memory_bytes", "Memory of the process.", resident_bytes());
        // Only the part that the server's user may use.
        let free = statvfs(&self.data).ok().map(|disk| disk.f_bavail as f64 * disk.f_frsize as f64);
        gauge("uproar_data_free_bytes", "Free space on the disk of the data folder.", free);
        if let Some(certificate) = &self.certificate {
            let help = "When the TLS certificate expires, in seconds since the Unix epoch; 0 if there is none yet.";
            let expires_unix_s = certificate.pair().map_or(0, |pair| pair.expires_unix_s());
            gauge("uproar_tls_certificate_expires_seconds", help, Some(expires_unix_s as f64));
        }
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        out.family("process_cpu_seconds_total", "counter", "CPU time of the process.", [(String::new(), cpu)]);
    }
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}
