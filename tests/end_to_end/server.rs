//! A server process with its data folder, its database and its log, and the calls that tests make to it.

use crate::client::{Http, PATIENCE, Response, User, Ws, within};
use crate::databases::{Backdoor, Kind, new_postgres_database};
use crate::tunnel::{self, Pair};
use crate::two_nodes;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use uproar_http::Tokens;

/// Sets the driver for all tests.
pub const DRIVER_VARIABLE: &str = "UPROAR_TEST_DRIVER";
/// Sets the number of shards for all tests that do not choose it themselves.
const SHARDS_VARIABLE: &str = "UPROAR_TEST_SHARDS";

/// Names the binary to test, in place of the one that Cargo has just built.
pub const BINARY_VARIABLE: &str = "UPROAR_TEST_BINARY";

/// Everything that a server is started with. It outlives the process, so that another server can be started with it.
pub struct Setup {
    folder: TempDir,
    database: Option<String>,
    options: Vec<String>,
    /// A command, with its arguments, that runs the server in another environment.
    pub wrapper: Vec<String>,
    /// Clients reach the server through a tunnel that speaks TLS with it.
    is_tunnelled: bool,
}

/// A running server: one process, or two nodes that clients reach in turn (see `two_nodes.rs`). It is killed when it is
/// dropped, and its log is shown if the test has failed.
pub struct Server {
    pub port: u16,
    /// The port that speaks TLS, or 0.
    pub tls_port: u16,
    pub setup: Setup,
    processes: Vec<Process>,
}

struct Process {
    port: u16,
    child: Child,
}

/// A server that may not listen yet.
pub struct Launched {
    pub server: Server,
    stdouts: Vec<ChildStdout>,
}

/// `uproar` with these arguments, without the variables in this process's environment that it would read.
pub fn uproar(arguments: &[&str]) -> Command {
    wrapped_uproar(&[], arguments)
}

/// The same, run by another command.
fn wrapped_uproar(wrapper: &[String], arguments: &[&str]) -> Command {
    let binary = std::env::var(BINARY_VARIABLE).unwrap_or(env!("CARGO_BIN_EXE_uproar").to_owned());
    let mut words = wrapper.iter().map(String::as_str).chain([binary.as_str()]);
    let mut command = Command::new(words.next().expect("the path of uproar"));
    command.args(words);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("UPROAR_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs `uproar` until it exits.
pub async fn run(arguments: &[&str]) -> Output {
    let mut command = uproar(arguments);
    command.env("RUST_BACKTRACE", "1");
    within("uproar exits", command.output()).await.expect("uproar cannot be started")
}

/// The default limit, for tests of joins.
pub const WITH_JOINS: [&str; 2] = ["--limit", "join_leave_limit=100"];

impl Setup {
    pub async fn new(kind: Kind, options: &[&str]) -> Setup {
        let database = match kind {
            Kind::Sqlite => None,
            Kind::Postgres => Some(new_postgres_database().await),
        };
        Setup::with_database(database, options)
    }

    /// A setup with the database of this URL, or with the default database.
    pub fn with_database(database: Option<String>, options: &[&str]) -> Setup {
        let folder = tempfile::Builder::new().prefix("uproar-test-").tempdir().expect("no temporary folder");
        let mut options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let is_tunnelled = tunnel::is_wanted() && !options.iter().any(|option| option == "--listen-tls");
        if is_tunnelled {
            let pair = Pair::create(folder.path());
            options.extend(pair.options());
        }
        Setup { folder, database, options, wrapper: Vec::new(), is_tunnelled }
    }

    /// Names another database, for the next server.
    pub fn use_database(&mut self, url: Option<&str>) {
        self.database = url.map(ToOwned::to_owned);
    }

    /// How many processes serve the clients.
    fn processes(&self) -> usize {
        let is_postgres = self.database.as_ref().is_some_and(|url| url.starts_with("postgres"));
        let is_node = self.options.iter().any(|option| option == "--bus");
        if is_postgres && !is_node && two_nodes::are_two() { 2 } else { 1 }
    }

    pub fn data(&self) -> PathBuf {
        self.data_of(0)
    }

    fn data_of(&self, process: usize) -> PathBuf {
        self.folder.path().join(["data", "data-b"][process])
    }

    /// The arguments of the server, or of the first of its nodes.
    pub fn arguments(&self) -> Vec<String> {
        self.arguments_of(0)
    }

    fn arguments_of(&self, process: usize) -> Vec<String> {
        let mut arguments = vec!["--listen".to_owned(), "127.0.0.1:0".to_owned()];
        arguments.extend(["--data".to_owned(), self.data_of(process).display().to_string()]);
        if self.processes() > 1 {
            arguments.extend(["--bus", "postgres", "--node", ["a", "b"][process]].map(ToOwned::to_owned));
        }
        if let Some(url) = &self.database {
            arguments.extend(["--database".to_owned(), url.clone()]);
        }
        let option = |name: &str| self.options.iter().skip_while(|known| *known != name).nth(1).cloned();
        // Two shards, whatever the number of cores, so that rooms and connections are on different ones.
        let shards = option("--shards").or_else(|| std::env::var(SHARDS_VARIABLE).ok()).unwrap_or("2".to_owned());
        let is_postgres = self.database.as_ref().is_some_and(|url| url.starts_with("postgres"));
        // Covers databases, drivers and shards pairwise: every combination of two of them occurs in some test.
        // (Only one of two nodes has rings, for which some machines have little memory.)
        let default_driver = if is_postgres == (shards == "1") || process > 0 { "epoll" } else { "auto" };
        let driver =
            option("--driver").or_else(|| std::env::var(DRIVER_VARIABLE).ok()).unwrap_or(default_driver.to_owned());
        arguments.extend(["--shards".to_owned(), shards, "--driver".to_owned(), driver]);
        // The tests read the metrics.
        if !self.options.iter().any(|option| option == "--admin-listen") {
            arguments.push("--public-metrics".to_owned());
        }
        // Most tests count the offsets of what they send. Joins have none then. (A flag would override the limits of a
        // file.)
        let has_limits = |option: &String| option == "--config" || option.starts_with("join_leave_limit=");
        if !self.options.iter().any(has_limits) {
            arguments.extend(["--limit", "join_leave_limit=0"].map(ToOwned::to_owned));
        }
        let mut rest = self.options.iter();
        while let Some(option) = rest.next() {
            match option.as_str() {
                "--shards" | "--driver" => drop(rest.next()),
                _ => arguments.push(option.clone()),
            }
        }
        arguments
    }

    /// Makes the server speak TLS on a port of its own, with a new certificate.
    pub fn with_tls(mut self) -> (Setup, Pair) {
        let pair = Pair::create(self.folder.path());
        if !self.is_tunnelled {
            self.options.extend(pair.options());
        }
        (self, pair)
    }

    /// Adds options, for the next server.
    pub fn add_options(&mut self, options: &[&str]) {
        self.options.extend(options.iter().map(ToString::to_string));
    }

    /// A folder for whatever else a test needs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn log_path(&self, process: usize) -> PathBuf {
        self.folder.path().join(["log", "log-b"][process])
    }

    /// The log of the server, or of one node after the other.
    pub fn log(&self) -> String {
        [0, 1].map(|process| fs::read_to_string(self.log_path(process)).unwrap_or_default()).concat()
    }

    /// Waits until the log contains each of these words. A thread of its own writes the log, so a line may come after
    /// what it is about.
    pub async fn logs(&self, words: &[&str]) {
        let contains = |log: String| words.iter().all(|word| log.contains(word));
        until(&format!("the log contains {words:?}"), async || contains(self.log())).await;
    }

    /// The SQLite file in the data folder, whatever its name.
    pub fn sqlite_file(&self) -> PathBuf {
        let is_database = |path: &Path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3\0"));
        let files = fs::read_dir(self.data()).expect("no data folder").map(|entry| entry.unwrap().path());
        files.into_iter().find(|path| is_database(path)).expect("no SQLite file in the data folder")
    }

    /// Connects to the database.
    pub async fn backdoor(&self) -> Backdoor {
        match &self.database {
            Some(url) => Backdoor::postgres(url).await,
            None => Backdoor::sqlite(&self.sqlite_file()).await,
        }
    }

    /// Runs a server that must fail to start, without waiting for what another process has. Returns its exit code and
    /// its only line of output.
    pub async fn fail_to_start(&self) -> (Option<i32>, String) {
        let mut arguments = self.arguments();
        // At a lower level, warnings could add lines.
        arguments.extend(["--log", "error", "--limit", "start_timeout_ms=0"].map(ToOwned::to_owned));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = within("uproar exits", wrapped_uproar(&self.wrapper, &arguments).output());
        let output = output.await.expect("uproar cannot be started");
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(error.trim_end().lines().count(), 1, "not one line: {error}");
        assert!(output.stdout.is_empty() && error.starts_with("uproar: "), "{error}");
        (output.status.code(), error)
    }

    /// Starts a server and waits until it listens.
    pub async fn start(self) -> Server {
        self.launch().listens().await
    }

    /// Starts a server with this standard error, and waits until it listens.
    pub async fn start_with_log(self, log: Stdio) -> Server {
        let (process, stdout) = self.spawn(0, log);
        self.launched(vec![(process, stdout)]).listens().await
    }

    /// Starts a server, which may have to wait for something before it listens.
    pub fn launch(self) -> Launched {
        let count = self.processes();
        if count > 1 {
            two_nodes::share_key([0, 1].map(|process| self.data_of(process)));
        }
        let spawn = |process| {
            let path = self.log_path(process);
            let log = File::options().create(true).append(true).open(path).expect("no log file");
            self.spawn(process, log.into())
        };
        let spawned = (0..count).map(spawn).collect();
        self.launched(spawned)
    }

    fn spawn(&self, process: usize, log: Stdio) -> (Process, ChildStdout) {
        let arguments = self.arguments_of(process);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = wrapped_uproar(&self.wrapper, &arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("uproar cannot be started");
        let stdout = child.stdout.take().expect("stdout is piped");
        (Process { port: 0, child }, stdout)
    }

    fn launched(self, spawned: Vec<(Process, ChildStdout)>) -> Launched {
        let (processes, stdouts) = spawned.into_iter().unzip();
        Launched { server: Server { port: 0, tls_port: 0, setup: self, processes }, stdouts }
    }
}

impl Launched {
    /// Waits until the server listens. Two nodes have heard each other then.
    pub async fn listens(self) -> Server {
        let Launched { mut server, stdouts } = self;
        let speaks_tls = server.setup.options.iter().any(|option| option == "--listen-tls");
        for (process, stdout) in stdouts.into_iter().enumerate() {
            let mut lines = BufReader::new(stdout).lines();
            let (mut plain, mut tls) = (0, 0);
            while plain == 0 || speaks_tls && tls == 0 {
                let Ok(Some(line)) = within("uproar listens", lines.next_line()).await else {
                    let arguments = server.setup.arguments_of(process);
                    panic!("uproar {arguments:?} did not start:\n{}", server.setup.log());
                };
                let port = |scheme| line.strip_prefix("Uproar listens on ")?.strip_prefix(scheme)?.parse().ok();
                plain = port("http://localhost:").unwrap_or(plain);
                tls = port("https://localhost:").unwrap_or(tls);
            }
            if server.setup.is_tunnelled {
                let pair = Pair::read(server.setup.folder());
                plain = tunnel::open(tls, pair.client(&[])).await;
            }
            server.processes[process].port = plain;
            (server.port, server.tls_port) = (plain, tls);
            // Reads on, because the rest of the output does not matter.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        }
        if let [a, b] = &server.processes[..] {
            let ports = [a.port, b.port];
            two_nodes::until_acquainted(ports).await;
            server.port = two_nodes::spread(ports).await;
        }
        server
    }

    /// Waits until the log contains these words.
    pub async fn logs(&self, words: &[&str]) {
        self.server.setup.logs(words).await;
    }
}

impl Server {
    pub async fn start(kind: Kind, options: &[&str]) -> Server {
        Setup::new(kind, options).await.start().await
    }

    /// The id of the process. A test that asks for it must not run on two nodes.
    pub fn id(&self) -> u32 {
        let [process] = &self.processes[..] else { panic!("there are two nodes") };
        process.child.id().expect("the server has exited")
    }

    /// Kills it, as `kill -9` does.
    pub async fn kill(&mut self) {
        for process in &mut self.processes {
            within("the server is killed", process.child.kill()).await.expect("it could not be killed");
        }
    }

    /// Sends a signal, such as "TERM".
    pub async fn signal(&self, name: &str) {
        let ids: Vec<u32> = self.processes.iter().filter_map(|process| process.child.id()).collect();
        assert!(!ids.is_empty(), "the server has exited");
        for id in ids {
            let sent = Command::new("kill").arg(format!("-{name}")).arg(id.to_string()).status().await;
            assert!(sent.is_ok_and(|status| status.success()), "SIG{name} could not be sent");
        }
    }

    /// Waits until the process exits, or both nodes. Returns the status of the first one that failed.
    pub async fn exit(&mut self) -> ExitStatus {
        let mut statuses = Vec::new();
        for process in &mut self.processes {
            let exited = within("the server exits", process.child.wait()).await;
            statuses.push(exited.expect("no exit status"));
        }
        worst(&statuses)
    }

    /// The status of a process that has exited, or of two nodes that have.
    pub fn try_exit(&mut self) -> Option<ExitStatus> {
        let exits = self.processes.iter_mut().map(|process| process.child.try_wait().expect("no exit status"));
        exits.collect::<Option<Vec<_>>>().map(|statuses| worst(&statuses))
    }

    /// Stops it gracefully.
    pub async fn stop(&mut self) {
        self.signal("TERM").await;
        let status = self.exit().await;
        assert!(status.success(), "{status} after SIGTERM");
    }

    /// The setup of a server that has exited.
    pub fn into_setup(mut self) -> Setup {
        assert!(self.try_exit().is_some(), "the server is still running");
        std::mem::replace(&mut self.setup, Setup::with_database(None, &[]))
    }

    /// Starts another server with the same setup. This one must have exited.
    pub async fn restart(self) -> Server {
        self.relaunch().listens().await
    }

    /// The same, in its place.
    pub async fn start_again(&mut self) {
        assert!(self.try_exit().is_some(), "the server is still running");
        let empty = Setup::with_database(None, &[]);
        *self = std::mem::replace(&mut self.setup, empty).start().await;
    }

    /// The same for a server that may have to wait before it listens.
    pub fn relaunch(self) -> Launched {
        self.into_setup().launch()
    }

    // ── calls of clients ────────────────────────────────────────────────────────────────────────────────────────────

    /// Sends one request on a new connection.
    pub async fn call(&self, method: &str, path: &str, token: &str, body: Value) -> Response {
        let bearer = format!("Bearer {token}");
        let headers: &[(&str, &str)] = if token.is_empty() { &[] } else { &[("Authorization", &bearer)] };
        let mut http = Http::connect(self.port).await.expect("no connection");
        let body = (!body.is_null()).then_some(&body);
        http.request(method, path, headers, body).await.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub async fn get(&self, path: &str, token: &str) -> Response {
        self.call("GET", path, token, Value::Null).await
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> Response {
        self.call("POST", path, token, body).await
    }

    /// Creates an account with a password.
    pub async fn sign_up(&self, name: &str) -> User {
        let body = json!({"username": name, "email": format!("{name}@example.org"), "password": "correct horse"});
        let answer = self.post("/user/signup", "", body).await.expect(201);
        User { name: name.to_owned(), token: text(&answer["token"]) }
    }

    /// Mints a token with `uproar token`.
    pub async fn mint(&self, name: &str, lifetime_s: &str) -> User {
        let data = self.setup.data();
        let data = data.to_str().expect("a UTF-8 path");
        let output = run(&["token", "--user", name, "--lifetime", lifetime_s, "--data", data]).await;
        assert!(output.status.success(), "{output:?}");
        let token = String::from_utf8(output.stdout).expect("a token is ASCII").trim().to_owned();
        User { name: name.to_owned(), token }
    }

    /// A user without a password, with a minted token.
    pub async fn user(&self, name: &str) -> User {
        self.mint(name, "3600").await
    }

    /// Mints tokens for `<prefix>0`, `<prefix>1`, … as `uproar token` does, without a process for each.
    pub fn users(&self, prefix: &str, count: usize) -> Vec<User> {
        let tokens = Tokens::read_key_file(&self.setup.data().join("signing.key")).expect("the signing key");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        let names = (0..count).map(|number| format!("{prefix}{number}"));
        names.map(|name| User { token: tokens.mint(&name, now, 3600), name }).collect()
    }

    pub async fn user_id(&self, user: &User) -> String {
        text(&self.get("/me", &user.token).await.expect(200)["user"]["id"])
    }

    /// Creates a public room.
    pub async fn create_room(&self, owner: &User, name: &str) {
        self.post("/user/createroom", &owner.token, json!({"name": name})).await.expect(201);
    }

    /// Connects to `/ws?<query>` and reads the first frame.
    pub async fn join(&self, user: &User, query: &str) -> Ws {
        Ws::join(self.port, &user.token, query)
            .await
            .unwrap_or_else(|error| panic!("{} cannot connect to /ws?{query}: {error}", user.name))
    }

    /// Connects to `/ws?<query>`, which must be rejected. Returns the status and the error code.
    pub async fn reject_join(&self, user: &User, query: &str) -> (u16, String) {
        let http = Http::connect(self.port).await.expect("no connection");
        let bearer = format!("Bearer {}", user.token);
        match http.upgrade(&format!("/ws?{query}"), &[("Authorization", &bearer)]).await {
            Err(response) => response.error(),
            Ok(_) => panic!("/ws?{query} admits {}", user.name),
        }
    }

    /// All messages of a room, oldest first.
    pub async fn history(&self, user: &User, room: &str) -> Vec<Value> {
        let mut messages: Vec<Value> = Vec::new();
        loop {
            let after = messages.last().map_or(0, |message| number(&message["offset"]));
            let path = format!("/user/getchats?room={room}&limit=100&after={after}");
            let page = self.get(&path, &user.token).await.expect(200);
            messages.extend(page["messages"].as_array().expect("messages").iter().cloned());
            if page["more"] == false {
                return messages;
            }
        }
    }

    /// The sum of the values in `/metrics`, of all nodes, of a metric, such as `a_total`, or of one series, such as
    /// `a_total{code="1"}`.
    pub async fn metric(&self, series: &str) -> f64 {
        let mut sum = 0.0;
        for process in &self.processes {
            sum += metric(process.port, series).await;
        }
        sum
    }

    /// The last offset of a room.
    pub async fn head(&self, user: &User, room: &str) -> u64 {
        number(&self.get(&format!("/rooms/{room}"), &user.token).await.expect(200)["room"]["offset"])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let log = self.setup.log();
        if std::thread::panicking() {
            eprintln!("log of the server:\n{log}");
        } else {
            assert!(!log.contains("internal error"), "the server failed:\n{log}");
        }
    }
}

/// The first failure, if there is one.
fn worst(statuses: &[ExitStatus]) -> ExitStatus {
    *statuses.iter().find(|status| !status.success()).unwrap_or(&statuses[0])
}

/// The sum of the values of a metric in `/metrics` of one process.
pub async fn metric(port: u16, series: &str) -> f64 {
    let mut http = Http::connect(port).await.expect("no connection");
    let answer = http.request("GET", "/metrics", &[], None).await.unwrap_or_else(|error| panic!("/metrics: {error}"));
    assert_eq!(answer.status, 200);
    let text = String::from_utf8(answer.body).expect("UTF-8");
    // A name that only begins in the same way is another metric.
    let of_series = |line: &&str| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(['{', ',', ' ']));
    let values = text.lines().filter(of_series).map(|line| line.rsplit(' ').next());
    values.map(|value| value.and_then(|value| value.parse::<f64>().ok()).expect("a number")).sum()
}

/// These options, and `--limit` with each of these limits (`NAME=VALUE`).
pub fn with_limits<'a>(options: &[&'a str], limits: &[&'a str]) -> Vec<&'a str> {
    options.iter().copied().chain(limits.iter().flat_map(|limit| ["--limit", limit])).collect()
}

/// The value of a JSON string.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a string")).to_owned()
}

/// The value of a JSON number.
#[track_caller]
pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a whole number"))
}

/// Checks that a line contains each of these words.
#[track_caller]
pub fn assert_contains(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "'{word}' is missing in: {line}");
    }
}

/// Polls a condition until it is true. For what can only be queried.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = std::time::Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
