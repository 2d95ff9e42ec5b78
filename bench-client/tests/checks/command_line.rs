//! The binary: what it says, and how it ends.

use crate::server::{Fault, Server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uproar_bench::result::{Faults, Run, Wire};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// A small load, and a short one.
const SMALL: [&str; 8] = ["--members", "4", "--senders", "2", "--payload-bytes", "60", "--warm-up", "0"];

/// The program, running in a folder of its own.
pub struct Bench {
    child: Child,
    stdout: JoinHandle<String>,
    stderr: JoinHandle<String>,
    _folder: TempDir,
}

pub struct Output {
    pub succeeded: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Bench {
    pub fn start(arguments: &[&str]) -> Bench {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uproar-bench"));
        command.args(arguments);
        Bench::spawn(command)
    }

    fn spawn(mut command: Command) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        command.current_dir(folder.path()).env("RUST_BACKTRACE", "1");
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        fn all(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
            std::thread::spawn(move || {
                let mut text = String::new();
                from.read_to_string(&mut text).unwrap();
                text
            })
        }
        let (stdout, stderr) = (all(child.stdout.take().unwrap()), all(child.stderr.take().unwrap()));
        Bench { child, stdout, stderr, _folder: folder }
    }

    pub fn while_stopped(&self, act: impl FnOnce()) {
        let process = Pid::from_raw(self.child.id() as i32);
        kill(process, Signal::SIGSTOP).unwrap();
        act();
        kill(process, Signal::SIGCONT).unwrap();
    }

    pub fn ended(mut self) -> Output {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                panic!("it hangs: {}", self.stderr.join().unwrap());
            }
            std::thread::sleep(LOOK);
        };
        let (stdout, stderr) = (self.stdout.join().unwrap(), self.stderr.join().unwrap());
        for trace in ["panicked", "stack backtrace", "Stack backtrace"] {
            assert!(!stderr.contains(trace), "{stderr}");
        }
        Output { succeeded: status.success(), stdout, stderr }
    }
}

fn against(server: &Server, more: &[&str]) -> Output {
    let address = server.address.to_string();
    Bench::start(&[&["fanout", "--at", &address][..], &SMALL, &["--seconds", "0.5"], more].concat()).ended()
}

#[test]
fn an_honest_server_is_a_success() {
    let server = Server::start(Wire::Raw, 2, Fault::None);
    let Output { succeeded, stdout, stderr } = against(&server, &[]);
    assert!(succeeded, "{stderr}");
    assert!(!stderr.to_lowercase().contains("void"), "{stderr}");
    assert!(stderr.contains("deliveries/s") && stdout.contains("deliveries/s"), "{stderr}{stdout}");
}

#[test]
fn a_void_run_is_said_and_is_no_success() {
    let server = Server::start(Wire::Raw, 2, Fault::Drop);
    let Output { succeeded, stdout, stderr } = against(&server, &[]);
    assert!(!succeeded && server.is_committed());
    let void: Vec<&str> = stderr.lines().filter(|line| line.contains("VOID")).collect();
    assert!(void.len() == 1 && void[0].contains("1 lost"), "{stderr}");
    assert!(void[0].starts_with(&server.address.to_string()), "named as what it is: {stderr}");
    assert!(!void[0].contains("deliveries/s"), "no figures: {stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with("uproar-bench: 1 of 1 runs are void"), "{stderr}");
    assert!(stdout.to_lowercase().contains("void"), "{stdout}");
}

/// The end of a connection was not noticed when it came together with the last message.
#[test]
fn a_connection_that_ends_right_behind_a_message_is_disconnected() {
    let server = Server::start(Wire::Raw, 2, Fault::None);
    let address = server.address.to_string();
    let bench = Bench::start(&[&["fanout", "--at", &address][..], &SMALL, &["--json", "--seconds", "2"]].concat());
    server.wait_for_messages(20);
    bench.while_stopped(|| server.say_goodbye());
    let Output { succeeded, stdout, .. } = bench.ended();
    assert!(!succeeded);
    let runs: Vec<Run> = serde_json::from_str(&stdout).unwrap();
    let lost = server.counts().undelivered;
    assert_eq!(runs[0].faults, Faults { corrupted: 1, disconnected: 1, lost, ..Faults::default() });
}

#[test]
fn one_void_round_of_several_is_enough() {
    // The fault is committed once.
    let server = Server::start(Wire::Raw, 2, Fault::Repeat);
    let Output { succeeded, stdout, stderr } = against(&server, &["--rounds", "2", "--json"]);
    assert!(!succeeded);
    assert!(stderr.lines().last().unwrap().starts_with("uproar-bench: 1 of 2 runs are void"), "{stderr}");
    let runs: Vec<Run> = serde_json::from_str(&stdout).unwrap();
    assert_eq!(runs[0].faults, Faults { repeated: 1, ..Faults::default() });
    assert_eq!(runs[1].faults, Faults::default());
    assert_eq!((runs[0].round, runs[1].round), (1, 2));
}

#[test]
fn what_is_wrong_with_the_options_is_one_line() {
    let server = Server::start(Wire::Raw, 2, Fault::None);
    let at = server.address.to_string();
    let fanout = |options: &[&'static str]| [&["fanout", "--at", &at][..], options].concat();
    for (arguments, words) in [
        (fanout(&["--senders", "5", "--members", "2"]), "5 senders are more than the 2 members of a room"),
        (fanout(&["--payload-bytes", "1"]), "messages of 1 bytes can't be sent: 44 to 16000 can"),
        (fanout(&["--payload-bytes", "16001"]), "messages of 16001 bytes can't be sent"),
        (fanout(&["--rate", "0"]), "a rate is above 0"),
        (fanout(&["--rate=-1"]), "a rate is above 0"),
        (fanout(&["--rate", "NaN"]), "a rate is above 0"),
        (fanout(&["--rate", "1e300"]), "a rate is above 0"),
        (fanout(&["--window", "0"]), "a window of 0 is too small"),
        (fanout(&["--window", "4000000000"]), "a window of 4000000000 is too large"),
        (fanout(&["--senders", "0"]), "nobody sends"),
        (fanout(&["--members", "0"]), "at least one room with one member"),
        (fanout(&["--rooms", "70000", "--members", "70000"]), "70000 rooms of 70000 are more than"),
        (fanout(&["--seconds=-1"]), "--seconds takes seconds"),
        (fanout(&["--warm-up", "1e9"]), "--warm-up takes seconds"),
        (fanout(&["--wire", "plain"]), "only Uproar has stored rooms and other protocols than raw"),
        (fanout(&["--key-file", "nowhere/signing.key"]), "nowhere/signing.key"),
        (vec!["echo", "--at", &at, "--members", "2"], "choose --members 1"),
        (vec!["fanout", "--uproar", "nowhere/uproar"], "nowhere/uproar: cargo build --release"),
        (vec!["fanout", "--server", "floor", "--peers", "nowhere"], "nowhere/build"),
        (vec!["bars", "--only", "nothing"], "there is no work \"nothing\""),
        (vec!["report", "nowhere.json"], "nowhere.json"),
    ] {
        let Output { succeeded, stdout, stderr } = Bench::start(&arguments).ended();
        assert!(!succeeded, "{arguments:?}");
        assert!(stdout.is_empty(), "{arguments:?}: {stdout}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("uproar-bench: ") && stderr.contains(words), "{arguments:?}: {stderr}");
    }
    assert_eq!(server.counts().upgrades, 0);
}

/// Clap adds a hint below its line.
#[test]
fn what_is_no_option_is_said_as_well() {
    for (arguments, words) in [
        (&["fanout", "--server-cores", "x"][..], "'x' names no cores; write 0, or 1-3, or 1,3"),
        (&["fanout", "--load-cores", "3-1"], "'3-1' names no cores"),
        (&["fanout", "--at", "here"], "invalid value 'here'"),
        (&["fanout", "--rounds", "0"], "invalid value '0'"),
        (&["fanout", "--rate", "1", "--window", "1"], "cannot be used with"),
        (&["fanout", "--key-file", "x"], "--at <ADDRESS:PORT>"),
    ] {
        let Output { succeeded, stdout, stderr } = Bench::start(arguments).ended();
        assert!(!succeeded && stdout.is_empty(), "{arguments:?}");
        let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

#[test]
fn where_nobody_listens_that_is_said() {
    let at = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().to_string();
    for scenario in ["fanout", "connect"] {
        let Output { succeeded, stderr, .. } =
            Bench::start(&[scenario, "--at", &at, "--seconds", "0.5", "--json"]).ended();
        assert!(!succeeded);
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with(&format!("uproar-bench: the server at {at}: ")), "{stderr}");
        assert!(stderr.contains("Connection refused"), "{stderr}");
    }
}

/// A server that was not started by the bench client was measured with the soft limit of files as it was.
#[test]
fn the_limit_of_files_is_raised_for_a_given_server_too() {
    let server = Server::start(Wire::Raw, 2, Fault::None);
    let address = server.address.to_string();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 64; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_uproar-bench")]);
    command.args(["fanout", "--at", &address, "--members", "100", "--senders", "2", "--seconds", "0.2"]);
    let output = Bench::spawn(command).ended();
    assert!(output.succeeded, "{}", output.stderr);
}
