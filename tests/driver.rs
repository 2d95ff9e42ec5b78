//! Proves which driver the real binary chooses where io_uring is allowed and where it is forbidden.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use std::collections::BTreeMap;
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

    /// Starts a server to which io_uring is forbidden, from a separate thread, since this cannot be undone in a thread.
    fn start_without_uring(driver: &'static str) -> Server {
        let start = move || {
            forbid_uring();
            Server::start(driver)
        };
        thread::spawn(start).join().unwrap()
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
