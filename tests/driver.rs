//! Proves which driver the real binary chooses where io_uring is allowed and where it is forbidden, by the filter of
//! system calls in deploy/uproar.service among others.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter, compile_from_json};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;
use tungstenite::Message;

/// A test fails if it waits longer than this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Forbids this thread, and all processes that it starts, to set up io_uring, as the seccomp profile of Docker does.
fn forbid_uring() {
    let rules = BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
    let forbid = SeccompAction::Errno(libc::EPERM as u32);
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, forbid, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    apply_filter(&program).unwrap();
}

/// The system calls that systemd allows the service, from the lines `SystemCallFilter=` of its unit.
fn calls_of_the_unit() -> BTreeSet<String> {
    let unit = include_str!("../deploy/uproar.service");
    let mut allowed = calls_of("@default");
    for list in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (is_denied, list) = list.strip_prefix('~').map_or((false, list), |list| (true, list));
        for call in list.split_whitespace().flat_map(calls_of) {
            if is_denied {
                allowed.remove(&call)
            } else {
                allowed.insert(call)
            };
        }
    }
    assert!(!allowed.contains("mount") && !allowed.contains("sched_setscheduler"), "{allowed:?}");
    allowed
}

/// The calls in a set of systemd, such as `@aio`, and in the sets that it contains; or the call with this name.
fn calls_of(name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return BTreeSet::from([name.to_owned()]);
    }
    let output = Command::new("systemd-analyze").args(["--no-pager", "syscall-filter", name]).output();
    let output = output.expect("systemd-analyze cannot be started; scripts/test-systemd installs it");
    let text = String::from_utf8(output.stdout).unwrap();
    let words = text.lines().skip(1).map(str::trim).filter(|line| !line.starts_with('#') && !line.is_empty());
    words.flat_map(calls_of).collect()
}

/// Allows this thread, and all processes that it starts, these system calls only. The others fail with EPERM.
fn allow_only(calls: &BTreeSet<String>) {
    let compile = |calls: &[&String]| {
        let rules: Vec<Value> = calls.iter().map(|call| json!({"syscall": call})).collect();
        let filter =
            json!({"only": {"mismatch_action": {"errno": libc::EPERM}, "match_action": "allow", "filter": rules}});
        compile_from_json(filter.to_string().as_bytes(), std::env::consts::ARCH.try_into().unwrap())
    };
    // The sets have calls of other architectures too.
    let known: Vec<&String> = calls.iter().filter(|call| compile(&[*call]).is_ok()).collect();
    apply_filter(&compile(&known).unwrap()["only"]).unwrap();
}

/// A server. It is killed when it is dropped.
struct Server {
    process: Child,
    folder: TempDir,
}

impl Server {
    fn start(driver: &str) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_uproar"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("UPROAR_")) {
            command.env_remove(name);
        }
        let process = command
            .args(["--driver", driver, "--listen", "127.0.0.1:0", "--shards", "2", "--echo", "--data"])
            .arg(folder.path().join("data"))
            .stdout(Stdio::piped())
            .stderr(File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        Server { process, folder }
    }

    fn start_without_uring(driver: &'static str) -> Server {
        Server::start_restricted(driver, forbid_uring)
    }

    /// Starts a server from a separate thread that is restricted first, since that cannot be undone in a thread.
    fn start_restricted(driver: &'static str, restrict: impl FnOnce() + Send + 'static) -> Server {
        let start = move || {
            restrict();
            Server::start(driver)
        };
        thread::spawn(start).join().unwrap()
    }

    /// Stops it, as systemd does.
    fn stop(&mut self) {
        let process = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &process]).status().unwrap().success());
        let status = self.exit();
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
        assert!(status.success() && !log.contains("WARN") && !log.contains("ERROR"), "{status}: {log}");
    }

    /// The lines of the log about drivers.
    fn driver_lines(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
        log.lines().filter(|line| line.contains("driver")).map(ToOwned::to_owned).collect()
    }

    #[track_caller]
    fn expect_echo(&mut self) {
        let mut line = String::new();
        BufReader::new(self.process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
        let (_, port) = line.trim_end().rsplit_once(':').unwrap_or_else(|| panic!("the server did not start: {log}"));
        let stream = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut client, _) = tungstenite::client(format!("ws://127.0.0.1:{port}/echo"), stream).unwrap();
        for text in ["hello", &"long ".repeat(10_000)] {
            client.send(Message::text(text)).unwrap();
            assert_eq!(client.read().unwrap(), Message::text(text));
        }
    }

    fn exit(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn auto_chooses_epoll_where_uring_is_forbidden() {
    let mut server = Server::start_without_uring("auto");
    server.expect_echo();
    let lines = server.driver_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("epoll") && lines[0].contains("io_uring is forbidden here"), "{lines:?}");
}

#[test]
fn uring_fails_to_start_where_it_is_forbidden() {
    let mut server = Server::start_without_uring("uring");
    assert_eq!(server.exit().code(), Some(1));
    let log = fs::read_to_string(server.folder.path().join("log")).unwrap();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.starts_with("uproar: --driver: uring can't run here: io_uring is forbidden here"), "{log}");
}

#[test]
fn epoll_is_used_when_requested() {
    let mut server = Server::start("epoll");
    server.expect_echo();
    let lines = server.driver_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("epoll") && lines[0].contains("requested by --driver"), "{lines:?}");
}

#[test]
fn auto_chooses_uring_where_it_is_allowed() {
    if let Err(reason) = uproar::driver::uring::available() {
        return println!("skipped: {reason}");
    }
    let mut server = Server::start("auto");
    server.expect_echo();
    let lines = server.driver_lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("uring") && !lines[0].contains("epoll"), "{lines:?}");
}

#[test]
fn the_unit_for_systemd_allows_the_calls_that_the_server_makes() {
    if let Err(reason) = uproar::driver::uring::available() {
        return println!("skipped: {reason}");
    }
    let calls = calls_of_the_unit();
    let mut server = Server::start_restricted("auto", move || allow_only(&calls));
    server.expect_echo();
    let lines = server.driver_lines();
    assert!(lines.len() == 1 && lines[0].contains("io_uring is available"), "{lines:?}");
    server.stop();
}

#[test]
fn epoll_is_chosen_where_the_filter_of_the_unit_lacks_io_uring() {
    let mut calls = calls_of_the_unit();
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(calls.remove(call), "the unit does not allow {call}");
    }
    let mut server = Server::start_restricted("auto", move || allow_only(&calls));
    server.expect_echo();
    let lines = server.driver_lines();
    assert!(lines.len() == 1 && lines[0].contains("io_uring is forbidden here"), "{lines:?}");
    server.stop();
}
