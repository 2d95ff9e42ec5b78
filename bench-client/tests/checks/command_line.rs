//! The binary: its output and its exit code.

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

/// Options for a small load without warm-up.
const SMALL: [&str; 8] = ["--members", "4", "--senders", "2", "--payload-bytes", "60", "--warm-up", "0"];

/// The program, running in a temporary folder.
pub struct Program {
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

impl Program {
    pub fn start(arguments: &[&str]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uproar-bench"));
        command.args(arguments);
        Program::spawn(command)
    }

    fn spawn(mut command: Command) -> Program {
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
        Program { child, stdout, stderr, _folder: folder }
    }

    pub fn while_stopped(&self, act: impl FnOnce()) {
        let process = Pid::from_raw(self.child.id() as i32);
        kill(process, Signal::SIGSTOP).unwrap();
        act();
        kill(process, Signal::SIGCONT).unwrap();
    }

    pub fn output(mut self) -> Output {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                panic!("the program hangs: {}", self.stderr.join().unwrap());
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
    Program::start(&[&["fanout", "--at", &address][..], &SMALL, &["--seconds", "0.5"], more].concat()).output()
}

#[test]
fn a_run_against_a_correct_server_succeeds() {
    let server = Server::start(Wire::Raw, 2, Fault::None);
    let Output { succeeded, stdout, stderr } = against(&server, &[]);
    assert!(succeeded, "{stderr}");
    assert!(!stderr.to_lowercase().contains("void"), "{stderr}");
    assert!(stderr.contains("deliveries/s") && stdout.contains("deliveries/s"), "{stderr}{stdout}");
}

#[test]
fn a_void_run_is_reported_and_fails() {
    let server = Server::start(Wire::Raw, 2, Fault::Drop);
    let Output { succeeded, stdout, stderr } = against(&server, &[]);
    assert!(!succeeded && server.has_misbehaved());
    let void: Vec<&str> = stderr.lines().filter(|line| line.contains("VOID")).collect();
    assert!(void.len() == 1 && void[0].contains("1 lost"), "{stderr}");
    assert!(void[0].starts_with(&server.address.to_string()), "the line starts with the server's address: {stderr}");
    assert!(!void[0].contains("deliveries/s"), "a void run has no metrics: {stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with("uproar-bench: 1 of 1 runs are void"), "{stderr}");
    assert!(stdout.to_lowercase().contains("void"), "{stdout}");
}

/// Regression: a close that arrived together with the last message went unnoticed.
#[test]
fn a_connection_closed_right_after_a_message_counts_as_disconnected() {
    let server = Server::start(Wire::Raw, 2, Fault::None);
    let address = server.address.to_string();
    let program = Program::start(&[&["fanout", "--at", &address][..], &SMALL, &["--json", "--seconds", "2"]].concat());
    server.wait_for_messages(20);
    program.while_stopped(|| server.send_wrong_message_and_close());
    let Output { succeeded, stdout, .. } = program.output();
    assert!(!succeeded);
    let runs: Vec<Run> = serde_json::from_str(&stdout).unwrap();
    let lost = server.counts().undelivered;
    assert_eq!(runs[0].faults, Faults { corrupted: 1, disconnected: 1, lost, ..Faults::default() });
}

#[test]
fn one_void_round_of_several_fails_the_program() {
    // The server misbehaves only once.
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
fn invalid_options_are_reported_in_one_line() {
    let server = Server::start(Wire::Raw, 2, Fault::None);
    let at = server.address.to_string();
    let fanout = |options: &[&'static str]| [&["fanout", "--at", &at][..], options].concat();
    for (arguments, words) in [
        (fanout(&["--senders", "5", "--members", "2"]), "5 senders per room exceed its 2 members"),
        (fanout(&["--payload-bytes", "1"]), "--payload-bytes must be between 44 and 16000, not 1"),
        (fanout(&["--payload-bytes", "16001"]), "not 16001"),
        (fanout(&["--rate", "0"]), "--rate must be above 0"),
        (fanout(&["--rate=-1"]), "--rate must be above 0"),
        (fanout(&["--rate", "NaN"]), "--rate must be above 0"),
        (fanout(&["--rate", "1e300"]), "--rate must be above 0"),
        (fanout(&["--window", "0"]), "--window 0 is too small"),
        (fanout(&["--window", "4000000000"]), "--window 4000000000 is too large"),
        (fanout(&["--senders", "0"]), "--senders must be at least 1"),
        (fanout(&["--members", "0"]), "at least one room with one member"),
        (fanout(&["--rooms", "70000", "--members", "70000"]), "70000 rooms with 70000 members each exceed"),
        (fanout(&["--seconds=-1"]), "--seconds must be between 0 and 3600"),
        (fanout(&["--warm-up", "1e9"]), "--warm-up must be between 0 and 3600"),
        (fanout(&["--wire", "plain"]), "peers have no stored rooms and only the raw protocol"),
        (fanout(&["--key-file", "nowhere/signing.key"]), "nowhere/signing.key"),
        (vec!["echo", "--at", &at, "--members", "2"], "echo needs --members 1"),
        (vec!["fanout", "--uproar", "nowhere/uproar"], "nowhere/uproar does not exist: run cargo build --release"),
        (vec!["fanout", "--server", "floor", "--peers", "nowhere"], "nowhere/build"),
        (vec!["bars", "--only", "nothing"], "there is no workload \"nothing\""),
        (vec!["cluster", "--only", "nothing"], "there is no measurement 'nothing'; --only accepts latency"),
        (vec!["report", "nowhere.json"], "nowhere.json"),
    ] {
        let Output { succeeded, stdout, stderr } = Program::start(&arguments).output();
        assert!(!succeeded, "{arguments:?}");
        assert!(stdout.is_empty(), "{arguments:?}: {stdout}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("uproar-bench: ") && stderr.contains(words), "{arguments:?}: {stderr}");
    }
    assert_eq!(server.counts().upgrades, 0);
}

/// These errors come from clap, which adds hints below the first line.
#[test]
fn options_that_cannot_be_parsed_are_reported() {
    for (arguments, words) in [
        (&["fanout", "--server-cores", "x"][..], "'x' is not a list of cores; examples are 0, 1-3 and 1,3"),
        (&["fanout", "--load-cores", "3-1"], "'3-1' is not a list of cores"),
        (&["fanout", "--at", "here"], "invalid value 'here'"),
        (&["cluster", "--bus", "pigeons"], "there is no bus 'pigeons'; choose postgres"),
        (&["fanout", "--rounds", "0"], "invalid value '0'"),
        (&["fanout", "--rate", "1", "--window", "1"], "cannot be used with"),
        (&["fanout", "--key-file", "x"], "--at <ADDRESS:PORT>"),
    ] {
        let Output { succeeded, stdout, stderr } = Program::start(arguments).output();
        assert!(!succeeded && stdout.is_empty(), "{arguments:?}");
        let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && stderr.contains(words), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_refused_connection_is_reported() {
    let at = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().to_string();
    for scenario in ["fanout", "connect"] {
        let Output { succeeded, stderr, .. } =
            Program::start(&[scenario, "--at", &at, "--seconds", "0.5", "--json"]).output();
        assert!(!succeeded);
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with(&format!("uproar-bench: the server at {at}: ")), "{stderr}");
        assert!(stderr.contains("Connection refused"), "{stderr}");
    }
}

/// Regression: against a server that was already running, the soft limit of open files was not raised.
#[test]
fn the_limit_of_open_files_is_raised_for_a_running_server_too() {
    let server = Server::start(Wire::Raw, 2, Fault::None);
    let address = server.address.to_string();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 64; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_uproar-bench")]);
    command.args(["fanout", "--at", &address, "--members", "100", "--senders", "2", "--seconds", "0.2"]);
    let output = Program::spawn(command).output();
    assert!(output.succeeded, "{}", output.stderr);
}
