//! Proves that the server tells a service manager how it is doing, and that the unit for systemd is valid and tight.

use crate::client::within;
use crate::server::{Launched, Setup, assert_contains, until};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::process::Command;

/// The service manager's side.
struct Manager {
    socket: tokio::net::UnixDatagram,
    /// The value of `NOTIFY_SOCKET`.
    name: String,
    _folder: TempDir,
}

impl Manager {
    fn new(is_abstract: bool) -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify").display().to_string();
        let (name, address) = match is_abstract {
            true => (format!("@{path}"), SocketAddr::from_abstract_name(&path).unwrap()),
            false => (path.clone(), SocketAddr::from_pathname(&path).unwrap()),
        };
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Manager { socket: tokio::net::UnixDatagram::from_std(socket).unwrap(), name, _folder: folder }
    }

    /// A setup whose server is watched, and has to send something at least every `watchdog_micros`.
    fn setup(&self, database: Option<String>, watchdog_micros: u64) -> Setup {
        let mut setup = Setup::with_database(database, &[]);
        let variables = [format!("NOTIFY_SOCKET={}", self.name), format!("WATCHDOG_USEC={watchdog_micros}")];
        setup.wrapper = std::iter::once("env".to_owned()).chain(variables).collect();
        setup
    }

    /// Fills the queue, so that it takes no more messages.
    fn fill_queue(&self) {
        loop {
            let sender = UnixDatagram::unbound().unwrap();
            sender.set_nonblocking(true).unwrap();
            if sender.send_to(b"WATCHDOG=1", &self.name).is_err() {
                return;
            }
        }
    }

    /// The next message, as its lines.
    async fn next(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let length = within("a message to the service manager", self.socket.recv(&mut bytes)).await.unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap().lines().map(ToOwned::to_owned).collect()
    }

    /// The next message that does not only say that the server is alive.
    async fn next_change(&self) -> Vec<String> {
        loop {
            let message = self.next().await;
            if message != ["WATCHDOG=1"] {
                return message;
            }
        }
    }
}

fn monotonic_micros() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}

#[tokio::test]
async fn a_service_manager_is_told_of_readiness_progress_reload_and_stop() {
    for is_abstract in [false, true] {
        let manager = Manager::new(is_abstract);
        // In half a second.
        let launched = manager.setup(None, 1_000_000).launch();
        assert_eq!(manager.next().await, ["READY=1", "STATUS=ready"]);
        let mut server = launched.listens().await;
        server.get("/readyz", "").await.expect(200);
        for _ in 0..3 {
            assert_eq!(manager.next().await, ["WATCHDOG=1"]);
        }

        let before = monotonic_micros();
        server.signal("HUP").await;
        let reloading = manager.next_change().await;
        let [first, second] = <[String; 2]>::try_from(reloading).unwrap();
        assert_eq!(first, "RELOADING=1");
        let time: i64 = second.strip_prefix("MONOTONIC_USEC=").expect("the time").parse().unwrap();
        assert!((before..=monotonic_micros()).contains(&time), "{before} {time}");
        assert_eq!(manager.next_change().await, ["READY=1"]);

        server.signal("TERM").await;
        assert_eq!(manager.next_change().await, ["STOPPING=1", "STATUS=stopping"]);
        assert!(server.exit().await.success());
    }
}

/// A restart would not bring the database back.
#[tokio::test]
async fn a_server_without_its_database_still_makes_progress() {
    let manager = Manager::new(false);
    let server = manager.setup(None, 600_000).start().await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    let mut backdoor = server.setup.backdoor().await;
    backdoor.hold_commits().await;
    ws.send("stuck").await;
    for _ in 0..10 {
        manager.next().await;
    }
    backdoor.release_commits().await;
    assert!(!server.setup.log().contains("has made no progress"), "{}", server.setup.log());
}

#[tokio::test]
async fn a_server_that_waits_says_what_for_and_is_not_ready() {
    let manager = Manager::new(false);
    let nobody = "postgres://someone:secret@127.0.0.1:1/chat".to_owned();
    let Launched { mut server, .. } = manager.setup(Some(nobody), 1_000_000).launch();
    let waiting = manager.next().await.join("\n");
    assert_contains(&waiting, &["STATUS=the start waits", "127.0.0.1:1/chat"]);
    assert!(!waiting.contains("secret"));
    // It is not ready after a reload either.
    server.signal("HUP").await;
    until("the signal is logged", async || server.setup.log().contains("SIGHUP")).await;
    server.signal("TERM").await;
    assert!(server.exit().await.success());
    let mut bytes = [0; 4096];
    while let Ok(length) = manager.socket.try_recv(&mut bytes) {
        let message = String::from_utf8_lossy(&bytes[..length]);
        assert!(!message.contains("READY") && !message.contains("RELOADING"), "{message}");
    }
}

#[tokio::test]
async fn a_service_manager_that_is_not_there_costs_nothing() {
    for name in ["/no/where", "nonsense"] {
        let mut setup = Setup::with_database(None, &[]);
        setup.wrapper = ["env", &format!("NOTIFY_SOCKET={name}"), "WATCHDOG_USEC=100000"].map(ToOwned::to_owned).into();
        let mut server = setup.start().await;
        server.get("/readyz", "").await.expect(200);
        server.stop().await;
        assert_contains(&server.setup.log(), &["can't reach the service manager", name]);
    }
    let manager = Manager::new(false);
    manager.fill_queue();
    let server = manager.setup(None, 1_000_000).start().await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    until("messages are lost", async || server.setup.log().contains("can't tell the service manager")).await;
    ws.round_trip("hello").await;
}

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/uproar.service")
}

async fn systemd_analyze(arguments: &[&str]) -> String {
    let output = Command::new("systemd-analyze").arg("--no-pager").args(arguments).output().await;
    let output = output.expect("systemd-analyze cannot be started; scripts/test-systemd installs it");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

#[tokio::test]
async fn the_unit_for_systemd_is_valid() {
    let text = fs::read_to_string(unit()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("uproar.service");
    // The program need not be installed here.
    let program = env!("CARGO_BIN_EXE_uproar");
    let installed = text.replace("\nExecStart=uproar\n", &format!("\nExecStart={program}\n"));
    assert_ne!(installed, text);
    fs::write(&file, installed).unwrap();
    let warnings = systemd_analyze(&["verify", "--man=no", file.to_str().unwrap()]).await;
    assert!(!warnings.contains("uproar.service"), "{warnings}");
}

#[tokio::test]
async fn the_unit_for_systemd_exposes_little() {
    let path = unit();
    let report = systemd_analyze(&["security", "--offline=true", "--threshold=20", path.to_str().unwrap()]).await;
    let (_, level) = report.split_once("Overall exposure level for uproar.service: ").expect("the level");
    let level: f64 = level.split_whitespace().next().unwrap().parse().unwrap();
    assert!(level <= 2.0, "{report}");
}

/// The watchdog and the time limits of the unit fit those of the server.
#[test]
fn the_unit_leaves_the_server_the_time_that_it_needs() {
    let text = fs::read_to_string(unit()).unwrap();
    let seconds = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("{name} is missing")).parse().unwrap()
    };
    let limits = uproar_core::limits::Limits::default();
    assert!(seconds("TimeoutStopSec") * 1000 > limits.stop_timeout_ms + 1000);
    assert!(seconds("WatchdogSec") >= 2 * 10, "a busy machine would look like a hanging server");
}
