//! Proves that a log that nobody takes costs lines and nothing else, and that tools report what they can't print.

use crate::client::Http;
use crate::databases::Kind;
use crate::server::{Server, Setup, assert_contains, until, uproar};
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::process::{Output, Stdio};

/// A file on which every write fails.
fn full_disk() -> Stdio {
    File::options().write(true).open("/dev/full").expect("no /dev/full").into()
}

/// A pipe into which nothing more fits.
fn full_pipe(blocks: bool) -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().expect("no pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("the pipe's mode");
    while writer.write(&[b'.'; 1024]).is_ok() {}
    assert_eq!(writer.write(b".").unwrap_err().kind(), ErrorKind::WouldBlock);
    rustix::io::ioctl_fionbio(&writer, !blocks).expect("the pipe's mode");
    (reader, writer)
}

/// A stranger comes from a page of another origin, which is logged.
async fn be_refused(server: &Server) {
    let http = Http::connect(server.port).await.expect("no connection");
    let refused = http.upgrade("/ws?room=r", &[("Origin", "http://elsewhere.example")]).await;
    assert!(refused.is_err(), "a page of another origin is let in");
}

async fn dropped(server: &Server) -> f64 {
    server.metric("uproar_log_lines_dropped_total").await
}

/// The server goes on serving, counts the lines that it drops, and stops when it is told to.
async fn expect_service_without_log(log: Stdio) {
    let setup = Setup::new(Kind::Sqlite, &["--log", "debug"]).await;
    let mut server = setup.start_with_log(log).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    until("lines are dropped", async || {
        be_refused(&server).await;
        // Each connection is logged.
        for _ in 0..100 {
            server.get("/healthz", "").await.expect(200);
        }
        dropped(&server).await > 0.0
    })
    .await;
    ws.round_trip("here").await;
    server.stop().await;
}

#[tokio::test]
async fn a_server_whose_log_is_on_a_full_disk_goes_on() {
    expect_service_without_log(full_disk()).await;
}

#[tokio::test]
async fn a_server_whose_log_has_no_reader_goes_on() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    expect_service_without_log(writer.into()).await;
}

#[tokio::test]
async fn a_server_whose_log_is_a_full_pipe_goes_on() {
    for blocks in [false, true] {
        let (_reader, writer) = full_pipe(blocks);
        expect_service_without_log(writer.into()).await;
    }
}

#[tokio::test]
async fn a_log_that_is_read_again_says_how_many_lines_were_lost() {
    let (mut reader, writer) = full_pipe(true);
    let server = Setup::new(Kind::Sqlite, &["--log", "debug"]).await.start_with_log(writer.into()).await;
    until("lines are dropped", async || {
        for _ in 0..100 {
            server.get("/healthz", "").await.expect(200);
        }
        dropped(&server).await > 0.0
    })
    .await;
    let said_so = tokio::task::spawn_blocking(move || {
        let mut log = Vec::new();
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&log).contains("lines of the log were lost") {
            match reader.read(&mut buffer) {
                Ok(length) if length > 0 => log.extend_from_slice(&buffer[..length]),
                _ => return false,
            }
        }
        true
    });
    assert!(crate::client::within("the log says so", said_so).await.unwrap());
}

#[tokio::test]
async fn a_server_that_can_not_print_its_addresses_logs_them() {
    let setup = Setup::new(Kind::Sqlite, &[]).await;
    let arguments = setup.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let log = setup.data().with_file_name("log");
    let mut child = uproar(&arguments).stdout(full_disk()).stderr(File::create(&log).unwrap()).spawn().unwrap();
    let mut port = None;
    until("the address is logged", async || {
        let text = std::fs::read_to_string(&log).unwrap();
        port = text
            .split_once("http://localhost:")
            .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
        port.is_some()
    })
    .await;
    let mut http = Http::connect(port.unwrap()).await.unwrap();
    http.request("GET", "/healthz", &[], None).await.unwrap().expect(200);
    child.kill().await.unwrap();
}

/// Runs a tool to its end.
async fn run_to(arguments: &[&str], stdout: Stdio, stderr: Stdio) -> Output {
    let child = uproar(arguments).stdout(stdout).stderr(stderr).spawn().expect("uproar can't be started");
    crate::client::within("uproar exits", child.wait_with_output()).await.expect("no exit status")
}

#[tokio::test]
async fn tools_report_what_they_can_not_print() {
    let server = Server::start(Kind::Sqlite, &[]).await;
    let data = server.setup.data();
    let token = ["token", "--user", "ann", "--data", data.to_str().unwrap()];
    for arguments in [&token[..], &["--help"], &["--version"], &["man"], &["completions", "bash"]] {
        let output = run_to(arguments, full_disk(), Stdio::piped()).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{arguments:?}: {error}");
        assert_contains(&error, &["uproar: ", "standard output", "No space left"]);
        // `uproar --help | head -1`
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = run_to(arguments, writer.into(), Stdio::piped()).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), error.as_str()), (Some(0), ""), "{arguments:?}");
        // Nobody reads errors either.
        let output = run_to(arguments, full_disk(), full_disk()).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    }
    // What it says is less than what it does.
    let copy = data.with_file_name("copy.db");
    let backup = ["backup", copy.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let output = run_to(&backup, Stdio::null(), full_disk()).await;
    assert!(output.status.success() && copy.exists(), "{}", output.status);
    assert_eq!(run_to(&["--nonsense"], Stdio::null(), full_disk()).await.status.code(), Some(2));
}
