//! One server process, its data folder, its database and its log.

use crate::client::{Http, PATIENCE, Response, User, Ws, within};
use crate::databases::{Backdoor, Kind, new_postgres_database};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Names the driver for all tests.
const DRIVER_VARIABLE: &str = "UPROAR_TEST_DRIVER";
/// Gives the number of shards for all tests that do not say it themselves.
const SHARDS_VARIABLE: &str = "UPROAR_TEST_SHARDS";

/// What stays when a server ends: everything that the next one is started with.
pub struct Place {
    folder: TempDir,
    database: Option<String>,
    options: Vec<String>,
    /// A command that starts the server in other surroundings: what it is and its arguments.
    pub under: Vec<String>,
}

/// A running server. Dropped, it is killed; its log is shown when the test has failed.
pub struct Server {
    pub port: u16,
    pub place: Place,
    child: Child,
}

/// `uproar` with these arguments and nothing from this process's environment that would change what it does.
pub fn uproar(arguments: &[&str]) -> Command {
    uproar_under(&[], arguments)
}

/// The same, started by another command.
fn uproar_under(under: &[String], arguments: &[&str]) -> Command {
    let mut words = under.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_uproar")]);
    let mut command = Command::new(words.next().expect("there is one at least"));
    command.args(words);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("UPROAR_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs it to its end.
pub async fn run(arguments: &[&str]) -> Output {
    let mut command = uproar(arguments);
    command.env("RUST_BACKTRACE", "1");
    within("uproar ends", command.output()).await.expect("uproar can't be started")
}

impl Place {
    pub async fn new(kind: Kind, options: &[&str]) -> Place {
        let database = match kind {
            Kind::Sqlite => None,
            Kind::Postgres => Some(new_postgres_database().await),
        };
        Place::with_database(database, options)
    }

    /// `database`: a URL, or what is the default.
    pub fn with_database(database: Option<String>, options: &[&str]) -> Place {
        let folder = tempfile::Builder::new().prefix("uproar-test-").tempdir().expect("no temporary folder");
        Place { folder, database, options: options.iter().map(ToString::to_string).collect(), under: Vec::new() }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The arguments of a server here.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--listen".to_owned(), "127.0.0.1:0".to_owned()];
        arguments.extend(["--data".to_owned(), self.data().display().to_string()]);
        if let Some(url) = &self.database {
            arguments.extend(["--database".to_owned(), url.clone()]);
        }
        let said = |name: &str| self.options.iter().skip_while(|option| *option != name).nth(1).cloned();
        // Two, whatever the number of cores, so that rooms and connections are on different shards.
        let shards = said("--shards").or_else(|| std::env::var(SHARDS_VARIABLE).ok()).unwrap_or("2".to_owned());
        let is_postgres = self.database.as_ref().is_some_and(|url| url.starts_with("postgres"));
        // A pairwise cover of databases, drivers and shards: each two of them meet in some test.
        let of_the_cover = if is_postgres == (shards == "1") { "epoll" } else { "auto" };
        let driver =
            said("--driver").or_else(|| std::env::var(DRIVER_VARIABLE).ok()).unwrap_or(of_the_cover.to_owned());
        arguments.extend(["--shards".to_owned(), shards, "--driver".to_owned(), driver]);
        let mut rest = self.options.iter();
        while let Some(option) = rest.next() {
            match option.as_str() {
                "--shards" | "--driver" => drop(rest.next()),
                _ => arguments.push(option.clone()),
            }
        }
        arguments
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The SQLite file, whatever it is called.
    pub fn sqlite_file(&self) -> PathBuf {
        let is_database = |path: &Path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3\0"));
        let files = fs::read_dir(self.data()).expect("no data folder").map(|entry| entry.unwrap().path());
        files.into_iter().find(|path| is_database(path)).expect("no SQLite file in the data folder")
    }

    /// A second way into the database.
    pub async fn backdoor(&self) -> Backdoor {
        match &self.database {
            Some(url) => Backdoor::postgres(url).await,
            None => Backdoor::sqlite(&self.sqlite_file()).await,
        }
    }

    /// Runs a server here that does not start: its exit code, and the last line that it says.
    pub async fn does_not_start(&self) -> (Option<i32>, String) {
        let mut arguments = self.arguments();
        // All else that is worth a line is none of errors.
        arguments.extend(["--log".to_owned(), "error".to_owned()]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = within("uproar ends", uproar_under(&self.under, &arguments).output()).await.expect("it starts");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
        assert!(output.stdout.is_empty() && said.starts_with("uproar: "), "{said}");
        (output.status.code(), said)
    }

    /// Starts a server here and waits until it listens.
    pub async fn start(self) -> Server {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("no log file");
        let arguments = self.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = uproar_under(&self.under, &arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("uproar can't be started");
        let stdout = child.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(stdout).lines();
        let port = loop {
            match within("uproar listens", lines.next_line()).await {
                Ok(Some(line)) => match line.strip_prefix("Uproar listens on http://localhost:") {
                    Some(port) => break port.parse().expect("the address that it prints"),
                    None => continue,
                },
                _ => panic!("uproar {arguments:?} does not start:\n{}", self.log()),
            }
        };
        // Whatever else it prints must not end it for want of a reader.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Server { port, place: self, child }
    }
}

impl Server {
    pub async fn start(kind: Kind, options: &[&str]) -> Server {
        Place::new(kind, options).await.start().await
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("it has ended")
    }

    /// As `kill -9` does.
    pub async fn kill(&mut self) {
        within("the server is gone", self.child.kill()).await.expect("it could not be killed");
    }

    /// Sends a signal, such as "TERM".
    pub async fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status().await;
        assert!(sent.is_ok_and(|status| status.success()), "SIG{name} could not be sent");
    }

    pub async fn ended(&mut self) -> ExitStatus {
        within("the server ends", self.child.wait()).await.expect("its status is not known")
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its status is not known")
    }

    /// Stops it in good order.
    pub async fn stop(&mut self) {
        self.signal("TERM").await;
        let status = self.ended().await;
        assert!(status.success(), "{status} after SIGTERM");
    }

    /// Another server in the same place. The one before must have ended.
    pub async fn restart(mut self) -> Server {
        assert!(self.has_ended().is_some(), "it still runs");
        let empty = Place::with_database(None, &[]);
        std::mem::replace(&mut self.place, empty).start().await
    }

    // ── what clients do ─────────────────────────────────────────────────────────────────────────────────────────────

    /// One request on a connection of its own.
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

    /// Creates an account, with a password.
    pub async fn sign_up(&self, name: &str) -> User {
        let body = json!({"username": name, "email": format!("{name}@example.org"), "password": "correct horse"});
        let answer = self.post("/user/signup", "", body).await.expect(201);
        User { name: name.to_owned(), token: text(&answer["token"]) }
    }

    /// A token of `uproar token`.
    pub async fn mint(&self, name: &str, lifetime_s: &str) -> User {
        let data = self.place.data();
        let data = data.to_str().expect("a UTF-8 path");
        let output = run(&["token", "--user", name, "--lifetime", lifetime_s, "--data", data]).await;
        assert!(output.status.success(), "{output:?}");
        let token = String::from_utf8(output.stdout).expect("a token is ASCII").trim().to_owned();
        User { name: name.to_owned(), token }
    }

    /// A user without a password.
    pub async fn user(&self, name: &str) -> User {
        self.mint(name, "3600").await
    }

    /// Creates a public room.
    pub async fn create_room(&self, owner: &User, name: &str) {
        self.post("/user/createroom", &owner.token, json!({"name": name})).await.expect(201);
    }

    /// A WebSocket in `/ws?<query>`, after its first frame.
    pub async fn join(&self, user: &User, query: &str) -> Ws {
        Ws::join(self.port, &user.token, query)
            .await
            .unwrap_or_else(|error| panic!("{} can't connect to /ws?{query}: {error}", user.name))
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

    /// The sum of the figures in `/metrics` that begin like this.
    pub async fn metric(&self, beginning: &str) -> f64 {
        let answer = self.get("/metrics", "").await;
        assert_eq!(answer.status, 200);
        let text = String::from_utf8(answer.body).expect("UTF-8");
        let values = text.lines().filter(|line| line.starts_with(beginning)).map(|line| line.rsplit(' ').next());
        values.map(|value| value.and_then(|value| value.parse::<f64>().ok()).expect("a figure")).sum()
    }

    /// The last offset of a room.
    pub async fn top(&self, user: &User, room: &str) -> u64 {
        number(&self.get(&format!("/rooms/{room}"), &user.token).await.expect(200)["room"]["offset"])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let log = self.place.log();
        if std::thread::panicking() {
            eprintln!("the server's log:\n{log}");
        } else {
            assert!(!log.contains("internal error"), "the server failed:\n{log}");
        }
    }
}

/// A JSON string.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).to_owned()
}

/// A JSON number.
#[track_caller]
pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no whole number"))
}

/// Waits until it is so: for what can only be asked, not be waited for.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
