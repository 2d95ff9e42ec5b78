//! Servers of PostgreSQL and NATS for tests and benchmarks, on free ports. They end with the process that started them.

mod nats;

pub use nats::TestNats;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor};
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The folder of `initdb` and `postgres`, or the URL of a server to use as it is.
const VARIABLE: &str = "UPROAR_TEST_POSTGRES";
const DEBIAN_FOLDER: &str = "/usr/lib/postgresql";
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// A server that has no PID file after this time has given up.
const GIVEN_UP: Duration = Duration::from_secs(5);
const START_PAUSE: Duration = Duration::from_millis(20);
/// Root can't run PostgreSQL. This user is created by the package.
const SERVER_USER: &str = "postgres";

// This shell outlives the test process, however that ends. When the pipe from the process closes, it stops the server
// and deletes the folder. A line on the pipe names the signal with which to stop the server: INT is an orderly
// shutdown, and QUIT has the effect of a crash.
const WATCHER: &str = r#"
trap "" INT
"$@" <&- >>"$UPROAR_FOLDER/log" 2>&1 &
server=$!
read -r signal || signal=
kill -"${signal:-QUIT}" "$server" 2>/dev/null
wait "$server"
if [ -z "$signal" ]; then rm -rf "$UPROAR_FOLDER"; fi
"#;

/// A server that runs until it is stopped or dropped, or until this process ends, however that happens.
#[derive(Debug)]
pub struct TestPostgres {
    server: Server,
    databases: AtomicU32,
}

#[derive(Debug)]
enum Server {
    /// A server that the environment names.
    Given {
        url: String,
    },
    Own(OwnServer),
}

#[derive(Debug)]
struct OwnServer {
    binaries: PathBuf,
    folder: PathBuf,
    port: u16,
    /// `NAME=VALUE`, where the value is not PostgreSQL's default.
    settings: &'static [&'static str],
    watcher: Option<Child>,
}

impl TestPostgres {
    /// Starts a server, or uses the one that `UPROAR_TEST_POSTGRES` names. An error is one line that says what is
    /// missing.
    pub async fn start() -> Result<TestPostgres, String> {
        TestPostgres::start_with(&["fsync=off", "max_connections=300", "shared_buffers=64MB"]).await
    }

    /// The same with PostgreSQL's default settings, with which a commit is on disk. For benchmarks.
    pub async fn start_durable() -> Result<TestPostgres, String> {
        TestPostgres::start_with(&[]).await
    }

    /// Starts a server from which standbys can copy. `None`: the tests use a server that is not their own.
    pub async fn start_primary() -> Result<Option<TestPostgres>, String> {
        let server = TestPostgres::start_with(&["fsync=off", "max_connections=100", "wal_keep_size=1GB"]).await?;
        Ok(matches!(server.server, Server::Own(_)).then_some(server))
    }

    /// Starts a server that other hosts can connect to without a password. `None`: the tests use a server that is not
    /// their own.
    pub async fn start_for_network() -> Result<Option<TestPostgres>, String> {
        let server = TestPostgres::start_with(&["fsync=off", "listen_addresses=*"]).await?;
        let Server::Own(own) = &server.server else { return Ok(None) };
        let file = own.folder.join("data/pg_hba.conf");
        let opened = fs::OpenOptions::new().append(true).open(file);
        opened
            .and_then(|mut file| io::Write::write_all(&mut file, b"host all all all trust\n"))
            .map_err(|error| failed("permitting connections", error))?;
        let reloaded = async {
            let options: PgConnectOptions = server.url("postgres").parse()?;
            options.connect().await?.execute("SELECT pg_reload_conf()").await
        };
        reloaded.await.map_err(|error: sqlx::Error| format!("can't reload PostgreSQL's settings: {error}"))?;
        Ok(Some(server))
    }

    /// Starts a standby of this server, on a port of its own.
    pub async fn start_standby(&self) -> Result<TestPostgres, String> {
        let Server::Own(primary) = &self.server else { return Err("only a server of our own has standbys".to_owned()) };
        let server = OwnServer::start_copy(primary).await?;
        Ok(TestPostgres { server: Server::Own(server), databases: AtomicU32::new(0) })
    }

    /// Makes a server that has been stopped a standby of another one. Its data is replaced.
    pub async fn follow(&mut self, primary: &TestPostgres) -> Result<(), String> {
        let Server::Own(primary) = &primary.server else {
            return Err("only a server of our own has standbys".to_owned());
        };
        let server = self.own()?;
        server.end("QUIT");
        server.copy(primary)?;
        server.run()?;
        server.wait().await
    }

    async fn start_with(settings: &'static [&'static str]) -> Result<TestPostgres, String> {
        let server = match std::env::var(VARIABLE) {
            Ok(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => Server::Given { url },
            _ => Server::Own(OwnServer::start(settings).await?),
        };
        Ok(TestPostgres { server, databases: AtomicU32::new(0) })
    }

    /// The URL of a database of the server.
    pub fn url(&self, database: &str) -> String {
        match &self.server {
            Server::Given { url } => with_database(url, database),
            Server::Own(server) => format!("postgres://{SERVER_USER}@127.0.0.1:{}/{database}", server.port),
        }
    }

    /// Creates an empty database and returns its URL.
    pub async fn create_database(&self) -> Result<String, String> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("uproar_test_{}_{number}", std::process::id());
        let create = async {
            let options: PgConnectOptions = self.url("postgres").parse()?;
            let mut connection = options.disable_statement_logging().connect().await?;
            // A server that is not our own may still have the database of an earlier process with the same id.
            for sql in [
                format!("DROP DATABASE IF EXISTS {name}"),
                format!("CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0"),
            ] {
                connection.execute(sqlx::AssertSqlSafe(sql)).await?;
            }
            connection.close().await
        };
        let created: Result<(), sqlx::Error> = create.await;
        created.map_err(|error| format!("can't create a test database: {error}"))?;
        Ok(self.url(&name))
    }

    /// Runs statements in the database of this URL.
    pub async fn execute(&self, url: &str, sql: &str) -> Result<(), String> {
        let run = async {
            let mut connection = url.parse::<PgConnectOptions>()?.disable_statement_logging().connect().await?;
            connection.execute(sqlx::AssertSqlSafe(sql)).await?;
            connection.close().await
        };
        run.await.map_err(|error: sqlx::Error| format!("can't change a test database: {error}"))
    }

    /// What the database of this URL takes on disk, in bytes.
    pub async fn database_bytes(&self, url: &str) -> Result<u64, String> {
        let size = async {
            let mut connection = url.parse::<PgConnectOptions>()?.disable_statement_logging().connect().await?;
            let sql = "SELECT pg_database_size(current_database())";
            let bytes: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
            connection.close().await?;
            Ok(bytes.cast_unsigned())
        };
        size.await.map_err(|error: sqlx::Error| format!("can't measure a test database: {error}"))
    }

    /// Shuts the server down in an orderly way. Fails if it is not our own.
    pub fn stop(&mut self) -> Result<(), String> {
        self.own()?.end("INT");
        Ok(())
    }

    /// Ends the server like a crash: without a checkpoint, and with all connections cut. The next start recovers what
    /// was committed.
    pub fn kill(&mut self) -> Result<(), String> {
        self.own()?.end("QUIT");
        Ok(())
    }

    /// The port of a server of our own.
    pub fn port(&self) -> Option<u16> {
        let Server::Own(server) = &self.server else { return None };
        Some(server.port)
    }

    /// The id of the main process of a server of our own.
    pub fn process(&self) -> Option<u32> {
        let Server::Own(server) = &self.server else { return None };
        fs::read_to_string(server.folder.join("data/postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
    }

    /// The major version of a server of our own.
    pub fn version(&self) -> Option<String> {
        let Server::Own(server) = &self.server else { return None };
        Some(fs::read_to_string(server.folder.join("data/PG_VERSION")).ok()?.trim().to_owned())
    }

    /// Starts the server again, on the same port and with its data.
    pub async fn restart(&mut self) -> Result<(), String> {
        let server = self.own()?;
        server.end("INT");
        server.run()?;
        server.wait().await
    }

    fn own(&mut self) -> Result<&mut OwnServer, String> {
        match &mut self.server {
            Server::Own(server) => Ok(server),
            Server::Given { .. } => {
                Err(format!("the server that {VARIABLE} names does not belong to this test, so it can't be stopped"))
            }
        }
    }
}

impl OwnServer {
    async fn start(settings: &'static [&'static str]) -> Result<OwnServer, String> {
        let binaries = find_binaries()?;
        let folder = new_folder().map_err(|error| failed("making a folder", error))?;
        let mut server = OwnServer { binaries, folder, port: 0, settings, watcher: None };
        let initdb = server
            .command("initdb")
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username", SERVER_USER, "--pgdata"])
            .arg(server.folder.join("data"))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed("initdb", error))?;
        if !initdb.status.success() {
            return Err(failed("initdb", io::Error::other(String::from_utf8_lossy(&initdb.stderr).into_owned())));
        }
        server.run_on_free_port().await?;
        Ok(server)
    }

    /// Starts a standby.
    async fn start_copy(primary: &OwnServer) -> Result<OwnServer, String> {
        let folder = new_folder().map_err(|error| failed("making a folder", error))?;
        let (binaries, settings) = (primary.binaries.clone(), primary.settings);
        let mut server = OwnServer { binaries, folder, port: 0, settings, watcher: None };
        server.copy(primary)?;
        server.run_on_free_port().await?;
        Ok(server)
    }

    /// Replaces the data by a copy of the primary's, with which the server starts as its standby.
    fn copy(&self, primary: &OwnServer) -> Result<(), String> {
        let data = self.folder.join("data");
        match fs::remove_dir_all(&data) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("removing its data", error)),
            _ => {}
        }
        let output = self
            .command("pg_basebackup")
            .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--host", "127.0.0.1"])
            .args(["--username", SERVER_USER, "--port", &primary.port.to_string(), "--pgdata"])
            .arg(&data)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| failed("pg_basebackup", error))?;
        match output.status.success() {
            true => Ok(()),
            false => {
                Err(failed("pg_basebackup", io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())))
            }
        }
    }

    async fn run_on_free_port(&mut self) -> Result<(), String> {
        // Another program may take the port before the server does.
        let mut last = String::new();
        for _ in 0..5 {
            self.port = free_port().map_err(|error| failed("finding a port", error))?;
            self.run()?;
            match self.wait().await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
            self.end("QUIT");
        }
        Err(last)
    }

    fn run(&mut self) -> Result<(), String> {
        let mut server = self.command("postgres");
        server
            .arg("-D")
            .arg(self.folder.join("data"))
            .arg("-k")
            .arg(&self.folder)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(self.settings.iter().flat_map(|setting| ["-c", setting]));
        let mut watcher = Command::new("sh");
        watcher.args(["-c", WATCHER, "sh"]).arg(server.get_program()).args(server.get_args()).current_dir(&self.folder);
        watcher.env_remove("PGDATA").env("LC_ALL", "C");
        watcher.env("UPROAR_FOLDER", &self.folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let spawned = watcher.spawn().map_err(|error| format!("can't start PostgreSQL for the tests: {error}"))?;
        self.watcher = Some(spawned);
        Ok(())
    }

    /// A PostgreSQL program, run as a user who may run it.
    fn command(&self, program: &str) -> Command {
        let mut program = self.binaries.join(program);
        // A folder on the PATH may have links to some of the programs only.
        if !program.is_file()
            && let Ok(postgres) = fs::canonicalize(self.binaries.join("postgres"))
            && let Some(name) = program.file_name()
        {
            program = postgres.with_file_name(name);
        }
        let mut command;
        if is_root() {
            command = Command::new("setpriv");
            command.args(["--reuid", SERVER_USER, "--regid", SERVER_USER, "--init-groups"]).arg(program);
        } else {
            command = Command::new(program);
        }
        // That user may not be able to read the current folder.
        command.current_dir(&self.folder).env_remove("PGDATA").env("LC_ALL", "C");
        command
    }

    async fn wait(&mut self) -> Result<(), String> {
        let url = format!("postgres://{SERVER_USER}@127.0.0.1:{}/postgres", self.port);
        let options: PgConnectOptions = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let started = Instant::now();
        loop {
            let error = match options.clone().disable_statement_logging().connect().await {
                Ok(connection) => {
                    let _ = connection.close().await;
                    return Ok(());
                }
                Err(error) => error,
            };
            // The server creates this file first of all, and removes it when it gives up.
            let has_ended = started.elapsed() > GIVEN_UP && !self.folder.join("data/postmaster.pid").exists();
            if started.elapsed() > START_TIMEOUT || has_ended {
                let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(format!("PostgreSQL for the tests did not start: {error}\n{log}"));
            }
            tokio::time::sleep(START_PAUSE).await;
        }
    }

    /// Stops the server with this signal, and waits until it is gone.
    fn end(&mut self, signal: &str) {
        if let Some(mut watcher) = self.watcher.take() {
            if let Some(mut pipe) = watcher.stdin.take() {
                // The watcher may be gone already.
                let _ = io::Write::write_all(&mut pipe, format!("{signal}\n").as_bytes());
            }
            let _ = watcher.wait();
        }
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.end("QUIT");
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn failed(what: &str, error: io::Error) -> String {
    format!("can't start PostgreSQL for the tests: {what}: {error}")
}

fn with_database(url: &str, database: &str) -> String {
    let (url, parameters) = url.split_once('?').map_or((url, None), |(url, parameters)| (url, Some(parameters)));
    let authority_at = url.find("://").map_or(0, |at| at + 3);
    let path_at = url[authority_at..].find('/').map_or(url.len(), |at| authority_at + at);
    let parameters = parameters.map_or(String::new(), |parameters| format!("?{parameters}"));
    format!("{}/{database}{parameters}", &url[..path_at])
}

fn find_binaries() -> Result<PathBuf, String> {
    let has_programs = |folder: &Path| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    if let Ok(folder) = std::env::var(VARIABLE) {
        let folder = PathBuf::from(folder);
        return match has_programs(&folder) {
            true => Ok(folder),
            false => Err(format!("{VARIABLE}={} must be a folder with initdb and postgres", folder.display())),
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(folder) = std::env::split_paths(&path).find(|folder| has_programs(folder)) {
        return Ok(folder);
    }
    let versions = fs::read_dir(DEBIAN_FOLDER).into_iter().flatten().flatten();
    let mut folders: Vec<_> =
        versions.map(|entry| entry.path().join("bin")).filter(|folder| has_programs(folder)).collect();
    // All versions have two digits, so the last one is the newest.
    folders.sort();
    folders.pop().ok_or_else(|| {
        format!(
            "the tests need PostgreSQL: install the Debian package postgresql, or set {VARIABLE} to the \
             folder of its programs or to a postgres:// URL"
        )
    })
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A new folder that belongs to the server's user.
fn new_folder() -> io::Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Short, because the path of a socket must not be longer than 107 bytes.
        let folder = std::env::temp_dir().join(format!("uproar-pg-{}-{number}", std::process::id()));
        match fs::create_dir(&folder) {
            // It was left by a process with the same id that was killed.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            made => made?,
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        if is_root() {
            let id = |option: &str| -> io::Result<u32> {
                let output = Command::new("id").args([option, SERVER_USER]).output()?;
                let text = String::from_utf8_lossy(&output.stdout);
                text.trim().parse().map_err(|_| io::Error::other(format!("there is no user {SERVER_USER}")))
            };
            chown(&folder, Some(id("-u")?), Some(id("-g")?))?;
        }
        return Ok(folder);
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
