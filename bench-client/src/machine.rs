//! Describes the machine: kernel, processor, versions and limits.

use crate::result::Machine;
use crate::server::Environment;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Describes this machine and the programs to be measured, as far as they are installed.
pub fn describe(environment: &Environment) -> Machine {
    let system = rustix::system::uname();
    let word = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    Machine {
        kernel: format!("{} {}", word(system.sysname()), word(system.release())),
        cpu: cpu(),
        cores: environment.server_cores.and(&environment.load_cores).count(),
        memory_bytes: memory_bytes(),
        versions: versions(environment),
        limits: limits(environment),
    }
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    value("model name").or_else(|| value("Model")).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = text.lines().next().and_then(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}

fn versions(environment: &Environment) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut add = |name: &str, version: Option<String>| {
        if let Some(version) = version {
            versions.insert(name.to_owned(), version);
        }
    };
    add("uproar", version_of(&environment.uproar));
    add("rustc", version_of(Path::new("rustc")));
    add("bun", version_of(&environment.peers.join("bun/node_modules/.bin/bun")));
    add("node", version_of(Path::new("node")));
    let package = fs::read_to_string(environment.peers.join("node/node_modules/ws/package.json")).unwrap_or_default();
    let package: Option<serde_json::Value> = serde_json::from_str(&package).ok();
    add("ws", package.and_then(|package| Some(package["version"].as_str()?.to_owned())));
    let lock = fs::read_to_string(environment.peers.join("Cargo.lock")).unwrap_or_default();
    add("axum", locked_version(&lock, "axum"));
    add("fastwebsockets", locked_version(&lock, "fastwebsockets"));
    add("PostgreSQL", environment.postgres_version());
    versions
}

/// The version that a program prints for `--version`.
fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let version = text.split_ascii_whitespace().find(|word| word.contains('.'))?;
    Some(version.trim_start_matches('v').to_owned())
}

/// The version of a package in a Cargo.lock.
fn locked_version(lock: &str, package: &str) -> Option<String> {
    let name = format!("name = \"{package}\"");
    let line = lock.lines().skip_while(|line| *line != name).nth(1)?;
    Some(line.strip_prefix("version = \"")?.trim_end_matches('"').to_owned())
}

fn limits(environment: &Environment) -> BTreeMap<String, String> {
    use rustix::process::{Resource, getrlimit};
    let sysctl = |path: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap_or_default();
        text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    };
    let files = getrlimit(Resource::Nofile);
    let count = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
    [
        ("open files", format!("{}, can be raised to {}", count(files.current), count(files.maximum))),
        ("net.core.somaxconn", sysctl("core/somaxconn")),
        ("net.ipv4.tcp_rmem", sysctl("ipv4/tcp_rmem")),
        ("net.ipv4.tcp_wmem", sysctl("ipv4/tcp_wmem")),
        ("server's cores", environment.server_cores.to_string()),
        ("load's and PostgreSQL's cores", environment.load_cores.to_string()),
        ("uproar", "defaults, except publish_rate_per_second=0".to_owned()),
        ("PostgreSQL", "defaults, with fsync".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_versions_are_read_from_a_lock_file() {
        let lock = "[[package]]\nname = \"axum\"\nversion = \"0.8.9\"\n\n\
                    [[package]]\nname = \"axum-core\"\nversion = \"0.5.1\"\n";
        assert_eq!(locked_version(lock, "axum").as_deref(), Some("0.8.9"));
        assert_eq!(locked_version(lock, "hyper"), None);
    }

    #[test]
    fn the_processor_and_memory_of_this_machine_are_read() {
        assert!(!cpu().is_empty() && memory_bytes() > 1 << 27);
    }
}
