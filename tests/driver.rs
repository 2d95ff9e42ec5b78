//! Which driver the real binary takes, where io_uring is allowed and where it is forbidden.

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

/// A test that waits longer than this for a server on the same machine has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Forbids this thread, and all processes that it starts, to set up an io_uring, as Docker's seccomp profile does.
fn forbid_uring() {
    let rules = BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
    let forbid = SeccompAction::Errno(libc::EPERM as u32);
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, forbid, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    apply_filter(&program).unwrap();
}

/// A server. Dropped, it is killed.
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

    /// As [`Server::start`], where io_uring is forbidden. A thread of its own, as it can't be allowed again.
    fn start_without_uring(driver: &'static str) -> Server {
        let start = move || {
            forbid_uring();
            Server::start(driver)
        };
        thread::spawn(start).join().unwrap()
    }

    /// The log's lines about drivers.
    fn said(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
        log.lines().filter(|line| line.contains("driver")).map(ToOwned::to_owned).collect()
    }

    #[track_caller]
    fn expect_echo(&mut self) {
        let mut line = String::new();
        BufReader::new(self.process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
        let (_, port) = line.trim_end().rsplit_once(':').unwrap_or_else(|| panic!("it did not start: {log}"));
        let stream = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut client, _) = tungstenite::client(format!("ws://127.0.0.1:{port}/echo"), stream).unwrap();
        for text in ["hello", &"long ".repeat(10_000)] {
            client.send(Message::text(text)).unwrap();
            assert_eq!(client.read().unwrap(), Message::text(text));
        }
    }

    fn ended(&mut self) -> ExitStatus {
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
fn where_uring_is_forbidden_auto_is_epoll() {
    let mut server = Server::start_without_uring("auto");
    server.expect_echo();
    let said = server.said();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("epoll") && said[0].contains("io_uring is forbidden here"), "{said:?}");
}

#[test]
fn where_uring_is_forbidden_it_can_not_be_asked_for() {
    let mut server = Server::start_without_uring("uring");
    assert_eq!(server.ended().code(), Some(1));
    let log = fs::read_to_string(server.folder.path().join("log")).unwrap();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.starts_with("uproar: --driver: uring can't run here: io_uring is forbidden here"), "{log}");
}

#[test]
fn epoll_can_be_asked_for() {
    let mut server = Server::start("epoll");
    server.expect_echo();
    let said = server.said();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("epoll") && said[0].contains("requested by --driver"), "{said:?}");
}

#[test]
fn where_uring_is_allowed_auto_is_uring() {
    if let Err(reason) = uproar::driver::uring::available() {
        return println!("skipped: {reason}");
    }
    let mut server = Server::start("auto");
    server.expect_echo();
    let said = server.said();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("uring") && !said[0].contains("epoll"), "{said:?}");
}
