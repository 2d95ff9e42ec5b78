//! The servers that are measured: Uproar, a peer, or a server that is already running.

pub mod certificate;
pub mod http;
mod nats;
mod postgres;
mod process;
pub mod usage;

use crate::client::{Cores, TlsClient};
use crate::matrix::workloads::{Driver, Subject};
use crate::result::{Channel, Scenario, Shape, Wire};
use anyhow::{Context, Result, bail, ensure};
use certificate::Certificate;
use http::Http;
pub use nats::Nats;
use postgres::Postgres;
use process::Process;
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use uproar_http::Tokens;

/// One user stands for many here, so most of a user's limits are off. Most descriptors go to WebSockets, because 15,000
/// connections must fit into a process that may have 20,000.
const BENCH_LIMITS: &[&str] = &[
    "--limit=publish_rate_per_second=0",
    "--limit=sign_up_rate_per_minute=0",
    "--limit=user_connections_limit=1000000",
    "--limit=user_writes_per_minute=0",
    "--limit=joins_per_hour_limit=0",
    "--limit=rejoins_per_minute=0",
    "--limit=rooms_owned_limit=0",
    "--limit=http_connections_limit=500",
    "--limit=heads_per_shard_limit=2500",
];

/// Where programs and folders are, and on which cores processes run.
#[derive(Debug)]
pub struct Environment {
    /// The binary `uproar`.
    pub uproar: PathBuf,
    /// The folder of the peers.
    pub peers: PathBuf,
    /// The folder for results and for temporary data folders.
    pub data: PathBuf,
    /// Additional options for Uproar.
    pub options: Vec<String>,
    /// Uproar keeps its default limits except `join_leave_limit`, instead of those that let a few users make a heavy
    /// load.
    pub has_default_limits: bool,
    pub server_cores: Cores,
    pub load_cores: Cores,
    postgres: Option<Postgres>,
    nats: Option<Nats>,
    certificate: Option<Certificate>,
}

/// A running server. It is stopped on drop if this program started it.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    /// Set if the server speaks TLS.
    pub tls: Option<TlsClient>,
    /// Mints tokens for users of Uproar. `None` for peers, which have no users.
    tokens: Option<Tokens>,
    process: Option<Process>,
    id: Option<u32>,
    /// Prefix of the names of users and rooms. A server that was already running may have those of an earlier run.
    prefix: String,
    /// The id of PostgreSQL's main process, if the server uses it.
    database: Option<u32>,
    is_killed: AtomicBool,
    /// Deleted on drop. The last field, because the server has to stop first.
    _data: Option<TempDir>,
}

impl Environment {
    pub fn new(uproar: PathBuf, peers: PathBuf, data: PathBuf, server_cores: Cores, load_cores: Cores) -> Environment {
        Environment {
            uproar,
            peers,
            data,
            options: Vec::new(),
            has_default_limits: false,
            server_cores,
            load_cores,
            postgres: None,
            nats: None,
            certificate: None,
        }
    }

    /// The reason why a subject can't be started, or `None` if it can.
    pub fn unavailable(&self, subject: Subject) -> Option<String> {
        let (files, fix) = match subject {
            Subject::Store => return None,
            Subject::Uproar { .. } => (vec![self.uproar.clone()], "run cargo build --release".to_owned()),
            _ => {
                let build = self.peers.join("build");
                let (program, script) = self.peer(subject);
                (program.into_iter().chain(script).collect(), format!("run {}", build.display()))
            }
        };
        let missing = files.iter().find(|file| !file.exists())?;
        Some(format!("{} does not exist: {fix}", missing.display()))
    }

    /// A peer's program, and its first argument if it is a script.
    fn peer(&self, subject: Subject) -> (Option<PathBuf>, Option<PathBuf>) {
        let built = |name: &str| (Some(self.peers.join("target/release").join(name)), None);
        match subject {
            Subject::Floor { .. } => built("floor"),
            Subject::Axum => built("axum"),
            Subject::FastWebsockets => built("hyper"),
            Subject::Bun => {
                (Some(self.peers.join("bun/node_modules/.bin/bun")), Some(self.peers.join("bun/server.js")))
            }
            // The package, whose presence shows that the peer was built. The program is the `node` on the path.
            Subject::NodeWs => (Some(self.peers.join("node/node_modules/ws")), Some(self.peers.join("node/server.js"))),
            Subject::Uproar { .. } | Subject::Store => (None, None),
        }
    }

    /// Starts a server on the server's cores. `frame_bytes` is the length to which `floor` pads the payload of its
    /// frames.
    pub fn start(
        &mut self,
        subject: Subject,
        channel: Channel,
        is_tls: bool,
        frame_bytes: Option<u32>,
    ) -> Result<Server> {
        if is_tls {
            check_tls(subject)?;
        }
        match subject {
            Subject::Uproar { driver, shards } => self.start_uproar(driver, shards, channel, is_tls),
            Subject::Store => bail!("the store alone is not a server"),
            _ => self.start_peer(subject, is_tls, frame_bytes),
        }
    }

    fn start_uproar(&mut self, driver: Driver, shards: u32, channel: Channel, is_tls: bool) -> Result<Server> {
        let data = self.data_folder()?;
        let mut command = self.uproar_command(driver, shards, &data);
        let tls = if is_tls {
            let certificate = self.certificate()?;
            command.args(["--listen", "", "--listen-tls", "127.0.0.1:0"]);
            command.arg("--tls-cert").arg(&certificate.certificate).arg("--tls-key").arg(&certificate.key);
            Some(certificate.client.clone())
        } else {
            command.args(["--listen", "127.0.0.1:0"]);
            None
        };
        // The other servers keep no joins.
        command.args(["--echo", "--limit=join_leave_limit=0"]).args(&self.options);
        let mut database = None;
        if channel == Channel::Postgres {
            let postgres = self.postgres()?;
            command.args(["--database", &postgres.create_database()?]);
            database = postgres.process();
        }
        self.launch(command, data, tls, database)
    }

    /// Starts a node of a cluster on this database. All nodes of a cluster have the same key.
    pub fn start_node(&mut self, name: &str, database: &str, key: &[u8; 32], options: &[&str]) -> Result<Server> {
        let data = self.data_folder()?;
        let folder = data.path().join("data");
        DirBuilder::new().mode(0o700).create(&folder).context("can't create a data folder")?;
        let file = File::options().write(true).create_new(true).mode(0o600).open(folder.join("signing.key"));
        file.and_then(|mut file| file.write_all(key)).context("can't write a key")?;
        let mut command = self.uproar_command(Driver::Auto, 1, &data);
        command.args(["--listen", "127.0.0.1:0", "--public-metrics"]);
        command.args(["--database", database, "--node", name]).args(options);
        let database = self.postgres()?.process();
        self.launch(command, data, None, database)
    }

    /// The command that starts Uproar, without where it listens and what it stores.
    fn uproar_command(&self, driver: Driver, shards: u32, data: &TempDir) -> Command {
        let mut command = Command::new(&self.uproar);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("UPROAR_")) {
            command.env_remove(name);
        }
        let driver = match driver {
            Driver::Auto => "auto",
            Driver::Uring => "uring",
            Driver::Epoll => "epoll",
        };
        command
            .args(["--log", "warn", "--driver", driver, "--shards", &shards.to_string()])
            .args(if self.has_default_limits { &[][..] } else { BENCH_LIMITS })
            .arg("--data")
            .arg(data.path().join("data"));
        command
    }

    /// Starts Uproar on the server's cores.
    fn launch(
        &self,
        mut command: Command,
        data: TempDir,
        tls: Option<TlsClient>,
        database: Option<u32>,
    ) -> Result<Server> {
        let find = |line: &str| line.strip_prefix("Uproar listens on ")?.rsplit(':').next()?.parse::<u16>().ok();
        let (process, port) = self.server_cores.while_pinned(|| Process::start("uproar", &mut command, find))??;
        let tokens = Tokens::read_key_file(&data.path().join("data/signing.key"))?;
        Ok(Server {
            address: localhost(port),
            tls,
            tokens: Some(tokens),
            id: Some(process.id()),
            process: Some(process),
            prefix: String::new(),
            database,
            is_killed: AtomicBool::new(false),
            _data: Some(data),
        })
    }

    fn start_peer(&mut self, subject: Subject, is_tls: bool, frame_bytes: Option<u32>) -> Result<Server> {
        let certificate = if is_tls { Some(self.certificate()?) } else { None };
        let files = certificate.map(|certificate| [certificate.certificate.clone(), certificate.key.clone()]);
        let tls = certificate.map(|certificate| certificate.client.clone());
        // Another process may take the free port before the peer listens on it.
        let mut last = None;
        for _ in 0..3 {
            let port = free_port()?;
            let (program, script) = self.peer(subject);
            let program = if subject == Subject::NodeWs { "node".into() } else { program.context("not a peer")? };
            let mut command = Command::new(program);
            command.args(script).arg(port.to_string()).args(files.iter().flatten());
            if let Some(bytes) = frame_bytes {
                command.args(["--frame-bytes", &bytes.to_string()]);
            }
            let find = |line: &str| (line == "listening").then_some(());
            let name = subject_name(subject);
            match self.server_cores.while_pinned(|| Process::start(name, &mut command, find))? {
                Ok((process, ())) => {
                    return Ok(Server {
                        address: localhost(port),
                        tls,
                        tokens: None,
                        id: Some(process.id()),
                        process: Some(process),
                        prefix: String::new(),
                        database: None,
                        is_killed: AtomicBool::new(false),
                        _data: None,
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("each failed attempt left an error"))
    }

    /// PostgreSQL, started on the load's cores at the first call.
    pub fn postgres(&mut self) -> Result<&Postgres> {
        if self.postgres.is_none() {
            self.postgres = Some(self.load_cores.while_pinned(Postgres::start)??);
        }
        Ok(self.postgres.as_ref().expect("it was just started"))
    }

    /// NATS, started on the load's cores at the first call.
    pub fn nats(&mut self) -> Result<&Nats> {
        if self.nats.is_none() {
            self.nats = Some(self.load_cores.while_pinned(Nats::start)??);
        }
        Ok(self.nats.as_ref().expect("it was just started"))
    }

    /// NATS, if it was started.
    pub fn running_nats(&self) -> Option<&Nats> {
        self.nats.as_ref()
    }

    /// PostgreSQL, if it is running.
    pub fn running_postgres(&self) -> Option<&Postgres> {
        self.postgres.as_ref()
    }

    /// The certificate of servers that speak TLS, which is made at the first call.
    fn certificate(&mut self) -> Result<&Certificate> {
        if self.certificate.is_none() {
            self.certificate = Some(Certificate::create(self.data_folder()?)?);
        }
        Ok(self.certificate.as_ref().expect("it was just made"))
    }

    /// PostgreSQL's major version, if it is running.
    pub fn postgres_version(&self) -> Option<String> {
        self.postgres.as_ref()?.version()
    }

    /// Creates an empty folder that is deleted on drop.
    pub fn data_folder(&self) -> Result<TempDir> {
        let made = tempfile::Builder::new().prefix(".data-").tempdir_in(&self.data);
        made.with_context(|| format!("can't create a folder in {}", self.data.display()))
    }
}

impl Server {
    /// A server that is already running. `tls` is set if it speaks TLS, and `id` is its process, if it runs on this
    /// machine.
    pub fn external(address: SocketAddr, tls: Option<TlsClient>, tokens: Option<Tokens>, id: Option<u32>) -> Server {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let prefix = format!("b{now:x}-");
        let is_killed = AtomicBool::new(false);
        Server { address, tls, tokens, process: None, id, prefix, database: None, is_killed, _data: None }
    }

    /// Whether it is Uproar, with users and rooms.
    pub fn has_users(&self) -> bool {
        self.tokens.is_some()
    }

    /// A token for this user, valid for a day.
    pub fn token(&self, user: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        self.tokens.as_ref().map_or(String::new(), |tokens| tokens.mint(user, now, 24 * 3600))
    }

    /// The name of the user with this index.
    pub fn user_name(&self, member: u32) -> String {
        format!("{}u{member}", self.prefix)
    }

    fn room_name(&self, room: u32) -> String {
        format!("{}r{room}", self.prefix)
    }

    /// Creates the rooms of a load. Only Uproar's stored rooms have to be created.
    pub fn create_rooms(&self, shape: &Shape) -> Result<()> {
        if !self.has_users() || shape.channel == Channel::Live {
            return Ok(());
        }
        let mut http = Http::connect(self.address, self.tls.as_ref())?;
        let token = self.token(&format!("{}owner", self.prefix));
        // Room for everybody, because members visit other rooms, and for the owner, who is a member too.
        let size = shape.rooms * shape.members + 1;
        (0..shape.rooms).try_for_each(|room| http.create_room(&token, &self.room_name(room), size.min(100_000)))
    }

    /// CPU time used so far. 0 if the server's process is unknown.
    pub fn cpu_seconds(&self) -> Result<f64> {
        self.id.map_or(Ok(0.0), usage::cpu_seconds)
    }

    /// CPU time that PostgreSQL has used so far, if the server uses it.
    pub fn database_cpu_seconds(&self) -> Result<Option<f64>> {
        self.database.map(usage::process_tree_cpu_seconds).transpose()
    }

    /// 0 if the server's process is unknown.
    pub fn rss_bytes(&self) -> Result<u64> {
        self.id.map_or(Ok(0), usage::rss_bytes)
    }

    /// Stops the server. Fails if it had already exited, unless it was killed.
    pub fn stop(mut self) -> Result<()> {
        let process = self.process.take().filter(|_| !self.is_killed());
        process.map_or(Ok(()), Process::stop)
    }

    /// Kills the server, as `kill -9` does.
    pub fn kill(&self) -> Result<()> {
        self.is_killed.store(true, Ordering::Relaxed);
        self.process.as_ref().map_or(Ok(()), Process::kill)
    }

    pub fn is_killed(&self) -> bool {
        self.is_killed.load(Ordering::Relaxed)
    }

    /// What the members of a room connect to.
    pub fn target(&self, scenario: Scenario, shape: &Shape, room: u32) -> Target {
        let channel = match shape.channel {
            Channel::Live => format!("live:{}", self.room_name(room)),
            _ => self.room_name(room),
        };
        let path = match (scenario, shape.wire) {
            (Scenario::Echo, _) => "/echo".to_owned(),
            _ if !self.has_users() => format!("/?room={}", self.room_name(room)),
            (_, Wire::Raw) => format!("/ws?room={channel}&format=raw"),
            (_, Wire::Plain) => format!("/ws?room={channel}&format=json"),
            (_, Wire::Centrifugo) => "/connection/websocket".to_owned(),
        };
        let channel = if shape.channel == Channel::Live { channel } else { format!("room:{channel}") };
        Target { path, channel }
    }

    /// Checks that the server supports the protocol and channel of a load.
    pub fn check(&self, shape: &Shape) -> Result<()> {
        ensure!(
            self.has_users() || (shape.wire == Wire::Raw && shape.channel == Channel::Live),
            "peers have no stored rooms and only the raw protocol; for Uproar, give its key with --key-file"
        );
        ensure!(
            shape.wire != Wire::Raw || shape.channel == Channel::Live,
            "stored rooms don't support the raw format: choose --wire plain or --wire centrifugo"
        );
        Ok(())
    }
}

/// What a connection connects to: the path, and the channel for protocols that name it in a command.
#[derive(Clone, Debug)]
pub struct Target {
    pub path: String,
    pub channel: String,
}

/// Checks that a subject speaks TLS.
pub fn check_tls(subject: Subject) -> Result<()> {
    let speaks = matches!(subject, Subject::Uproar { .. } | Subject::Bun | Subject::NodeWs);
    ensure!(speaks, "{} does not speak TLS; choose --server uproar, bun or node", subject_name(subject));
    Ok(())
}

/// The name of a subject in results, unless the workload gives it another one.
pub fn subject_name(subject: Subject) -> &'static str {
    match subject {
        Subject::Uproar { .. } => "uproar",
        Subject::Floor { .. } => "floor",
        Subject::Bun => "bun",
        Subject::NodeWs => "node ws",
        Subject::Axum => "axum",
        Subject::FastWebsockets => "fastwebsockets",
        Subject::Store => "store",
    }
}

fn localhost(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?.port())
}
