//! A NATS server for tests and benchmarks.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The program to use.
const VARIABLE: &str = "UPROAR_TEST_NATS";
const PROGRAM: &str = "nats-server";
const START_TIMEOUT: Duration = Duration::from_secs(30);
const START_PAUSE: Duration = Duration::from_millis(20);
/// How long a server may take to greet a client.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

// As for PostgreSQL, this shell outlives the test process.
const WATCHER: &str = r#"
"$@" <&- >>"$UPROAR_FOLDER/log" 2>&1 &
server=$!
read -r more
kill -KILL "$server" 2>/dev/null
wait "$server"
if [ -z "$more" ]; then rm -rf "$UPROAR_FOLDER"; fi
"#;

/// A server that runs until it is killed or dropped, or until this process ends, however that happens.
#[derive(Debug)]
pub struct TestNats {
    folder: PathBuf,
    port: u16,
    watcher: Option<Child>,
}

impl TestNats {
    /// Starts a server with these lines in its configuration. An error is one line that says what is missing.
    pub async fn start(configuration: &str) -> Result<TestNats, String> {
        let folder = super::new_folder().map_err(failed)?;
        let mut server = TestNats { folder, port: 0, watcher: None };
        // Another program may take the port before the server does.
        let mut last = String::new();
        for _ in 0..5 {
            server.port = super::free_port().map_err(failed)?;
            let text = format!("listen: \"127.0.0.1:{}\"\n{configuration}\n", server.port);
            fs::write(server.folder.join("nats.conf"), text).map_err(failed)?;
            match server.restart().await {
                Ok(()) => return Ok(server),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL for clients that need not sign in.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Ends the server, as `kill -9` does.
    pub fn kill(&mut self) {
        self.end("more\n");
    }

    /// Starts the server again, on the same port.
    pub async fn restart(&mut self) -> Result<(), String> {
        self.kill();
        let mut watcher = Command::new("sh");
        watcher.args(["-c", WATCHER, "sh"]).arg(find_program()?).arg("-c").arg(self.folder.join("nats.conf"));
        watcher.env("UPROAR_FOLDER", &self.folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.watcher = Some(watcher.spawn().map_err(failed)?);
        let started = Instant::now();
        while let Err(error) = greeting(self.port) {
            if started.elapsed() > START_TIMEOUT {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(format!("{}\n{log}", failed(error)));
            }
            tokio::time::sleep(START_PAUSE).await;
        }
        Ok(())
    }

    fn end(&mut self, word: &str) {
        if let Some(mut watcher) = self.watcher.take() {
            if let Some(mut pipe) = watcher.stdin.take() {
                // The watcher may be gone already.
                let _ = pipe.write_all(word.as_bytes());
            }
            let _ = watcher.wait();
        }
    }
}

impl Drop for TestNats {
    fn drop(&mut self) {
        self.end("");
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Waits for the first bytes that a server sends to each client.
fn greeting(port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
    let mut first = [0; 5];
    stream.read_exact(&mut first)?;
    match &first {
        b"INFO " => Ok(()),
        _ => Err(io::Error::other("another program has its port")),
    }
}

fn find_program() -> Result<PathBuf, String> {
    if let Some(program) = std::env::var_os(VARIABLE) {
        return Ok(program.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian has it where not every user's path leads.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join(PROGRAM)).find(|program| program.is_file()).ok_or_else(|| {
        format!("the tests need NATS: install the Debian package nats-server, or set {VARIABLE} to the program")
    })
}

fn failed(error: io::Error) -> String {
    format!("can't start NATS for the tests: {error}")
}
