//! Who is measured: Uproar, a peer, or a server that somebody else has started.

pub mod http;
mod postgres;
mod process;
pub mod usage;

use crate::client::Cores;
use crate::matrix::works::{Driver, Subject};
use crate::result::{Channel, Scenario, Shape, Wire};
use anyhow::{Context, Result, bail, ensure};
use http::Http;
use postgres::Postgres;
use process::Process;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use uproar_http::Tokens;

/// Where programs and folders are, and who runs where.
#[derive(Debug)]
pub struct Place {
    /// The binary `uproar`.
    pub uproar: PathBuf,
    /// The folder of the peers.
    pub peers: PathBuf,
    /// Data folders are made in it.
    pub data: PathBuf,
    /// Of Uproar, beside those that every run needs.
    pub options: Vec<String>,
    pub server_cores: Cores,
    pub load_cores: Cores,
    postgres: Option<Postgres>,
}

/// A server that runs. Dropped, it is stopped, unless it is somebody else's.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    /// Signs for its users. `None`: whoever comes is let in.
    tokens: Option<Tokens>,
    process: Option<Process>,
    id: Option<u32>,
    /// Of the names of users and rooms: a server that was there before may have those of an earlier run.
    prefix: String,
    /// PostgreSQL's first process, where it is part of the work.
    database: Option<u32>,
    /// Goes last.
    _data: Option<TempDir>,
}

impl Place {
    pub fn new(uproar: PathBuf, peers: PathBuf, data: PathBuf, server_cores: Cores, load_cores: Cores) -> Place {
        Place { uproar, peers, data, options: Vec::new(), server_cores, load_cores, postgres: None }
    }

    /// Why a subject can't be had, where it can't.
    pub fn missing(&self, subject: Subject) -> Option<String> {
        let (files, mend) = match subject {
            Subject::Store => return None,
            Subject::Uproar { .. } => (vec![self.uproar.clone()], "cargo build --release".to_owned()),
            _ => {
                let build = self.peers.join("build");
                let (program, script) = self.peer(subject);
                (program.into_iter().chain(script).collect(), format!("run {}", build.display()))
            }
        };
        let missing = files.iter().find(|file| !file.exists())?;
        Some(format!("there is no {}: {mend}", missing.display()))
    }

    /// A peer's program where it is a file of ours, and what it is given before the port.
    fn peer(&self, subject: Subject) -> (Option<PathBuf>, Option<PathBuf>) {
        let built = |name: &str| (Some(self.peers.join("target/release").join(name)), None);
        match subject {
            Subject::Floor { .. } => built("floor"),
            Subject::Axum => built("axum"),
            Subject::FastWebsockets => built("hyper"),
            Subject::Bun => {
                (Some(self.peers.join("bun/node_modules/.bin/bun")), Some(self.peers.join("bun/server.js")))
            }
            // Its packages are what may be missing; node itself is on the path.
            Subject::NodeWs => (Some(self.peers.join("node/node_modules/ws")), Some(self.peers.join("node/server.js"))),
            Subject::Uproar { .. } | Subject::Store => (None, None),
        }
    }

    /// Starts a server on the server's cores. `frame_bytes`: what `floor` pads its frames to.
    pub fn start(&mut self, subject: Subject, channel: Channel, frame_bytes: Option<u32>) -> Result<Server> {
        match subject {
            Subject::Uproar { driver, shards } => self.start_uproar(driver, shards, channel),
            Subject::Store => bail!("the store alone is no server"),
            _ => self.start_peer(subject, frame_bytes),
        }
    }

    fn start_uproar(&mut self, driver: Driver, shards: u32, channel: Channel) -> Result<Server> {
        let data = self.data_folder()?;
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
            .args(["--listen", "127.0.0.1:0", "--echo", "--log", "warn", "--driver", driver])
            .args(["--shards", &shards.to_string(), "--limit", "publish_rate_per_second=0"])
            .arg("--data")
            .arg(data.path().join("data"))
            .args(&self.options);
        let mut database = None;
        if channel == Channel::Postgres {
            let postgres = self.postgres()?;
            command.args(["--database", &postgres.create_database()?]);
            database = postgres.process();
        }
        let find = |line: &str| line.strip_prefix("Uproar listens on http://")?.rsplit(':').next()?.parse::<u16>().ok();
        let (process, port) = self.server_cores.while_pinned(|| Process::start("uproar", &mut command, find))??;
        let tokens = Tokens::read_key_file(&data.path().join("data/signing.key"))?;
        Ok(Server {
            address: local(port),
            tokens: Some(tokens),
            id: Some(process.id()),
            process: Some(process),
            prefix: String::new(),
            database,
            _data: Some(data),
        })
    }

    fn start_peer(&self, subject: Subject, frame_bytes: Option<u32>) -> Result<Server> {
        // A port that is free now may be taken before the server has it.
        let mut last = None;
        for _ in 0..3 {
            let port = free_port()?;
            let (program, script) = self.peer(subject);
            let program = if subject == Subject::NodeWs { "node".into() } else { program.context("it is no peer")? };
            let mut command = Command::new(program);
            command.args(script).arg(port.to_string());
            if let Some(bytes) = frame_bytes {
                command.args(["--frame-bytes", &bytes.to_string()]);
            }
            let find = |line: &str| (line == "listening").then_some(());
            let name = name(subject);
            match self.server_cores.while_pinned(|| Process::start(name, &mut command, find))? {
                Ok((process, ())) => {
                    return Ok(Server {
                        address: local(port),
                        tokens: None,
                        id: Some(process.id()),
                        process: Some(process),
                        prefix: String::new(),
                        database: None,
                        _data: None,
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("three tries fail for a reason"))
    }

    /// PostgreSQL on the load's cores, started when it is first needed.
    pub fn postgres(&mut self) -> Result<&Postgres> {
        if self.postgres.is_none() {
            self.postgres = Some(self.load_cores.while_pinned(Postgres::start)??);
        }
        Ok(self.postgres.as_ref().expect("it was just started"))
    }

    /// Its main version, where it runs.
    pub fn postgres_version(&self) -> Option<String> {
        self.postgres.as_ref()?.version()
    }

    /// An empty folder that goes when it is dropped.
    pub fn data_folder(&self) -> Result<TempDir> {
        let made = tempfile::Builder::new().prefix(".data-").tempdir_in(&self.data);
        made.with_context(|| format!("can't make a folder in {}", self.data.display()))
    }
}

impl Server {
    /// One that runs already. `id`: its process, where it runs on this machine.
    pub fn given(address: SocketAddr, tokens: Option<Tokens>, id: Option<u32>) -> Server {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        Server { address, tokens, process: None, id, prefix: format!("b{now:x}-"), database: None, _data: None }
    }

    /// Whether it is Uproar, with users and rooms.
    pub fn has_users(&self) -> bool {
        self.tokens.is_some()
    }

    /// A token for this user, good for the length of any run.
    pub fn token(&self, user: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        self.tokens.as_ref().map_or(String::new(), |tokens| tokens.mint(user, now, 24 * 3600))
    }

    /// Of the member with this number.
    pub fn user_name(&self, member: u32) -> String {
        format!("{}u{member}", self.prefix)
    }

    fn room_name(&self, room: u32) -> String {
        format!("{}r{room}", self.prefix)
    }

    /// Makes the rooms of a work, where rooms have to be made.
    pub fn create_rooms(&self, shape: &Shape) -> Result<()> {
        if !self.has_users() || shape.channel == Channel::Live {
            return Ok(());
        }
        let mut http = Http::connect(self.address)?;
        let token = self.token(&format!("{}owner", self.prefix));
        // Its owner is a member too, and people visit each other.
        let size = shape.rooms * shape.members + 1;
        (0..shape.rooms).try_for_each(|room| http.create_room(&token, &self.room_name(room), size.min(100_000)))
    }

    /// CPU seconds used so far. 0 for a server whose process is not known.
    pub fn cpu_seconds(&self) -> Result<f64> {
        self.id.map_or(Ok(0.0), usage::cpu_seconds)
    }

    pub fn database_cpu_seconds(&self) -> Result<Option<f64>> {
        self.database.map(usage::family_cpu_seconds).transpose()
    }

    pub fn rss_bytes(&self) -> Result<u64> {
        self.id.map_or(Ok(0), usage::rss_bytes)
    }

    /// Ends it. An error where it had ended before.
    pub fn stop(mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), Process::stop)
    }

    /// Where a connection of a work goes: the path, and the channel for protocols that name it in a command.
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

    /// Whether it can do such a work at all.
    pub fn check(&self, shape: &Shape) -> Result<()> {
        ensure!(
            self.has_users() || (shape.wire == Wire::Raw && shape.channel == Channel::Live),
            "only Uproar has stored rooms and other protocols than raw"
        );
        ensure!(
            shape.wire != Wire::Raw || shape.channel == Channel::Live,
            "stored rooms have no raw format: choose --wire plain or --wire centrifugo"
        );
        Ok(())
    }
}

/// What a connection connects to.
#[derive(Clone, Debug)]
pub struct Target {
    pub path: String,
    pub channel: String,
}

/// A subject in results, where the matrix has no other name for it.
pub fn name(subject: Subject) -> &'static str {
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

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?.port())
}
