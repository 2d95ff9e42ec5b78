//! What a run gives: the raw JSON, and what matrix and report are made from.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// All of one call of the program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    pub machine: Machine,
    /// Seconds since the Unix epoch when it began.
    pub begun: u64,
    pub runs: Vec<Run>,
    /// Servers that were not measured, and why.
    #[serde(default)]
    pub skipped: BTreeMap<String, String>,
    /// Runs that could not be carried out.
    #[serde(default)]
    pub failures: Vec<Failure>,
}

/// A run that gave no figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub work: String,
    pub server: String,
    pub round: u32,
    pub error: String,
}

/// What it ran on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
    /// Name to version: uproar, each peer, databases, rustc, node, bun.
    pub versions: BTreeMap<String, String>,
    /// The limits in force: file descriptors and the like, in words.
    pub limits: BTreeMap<String, String>,
}

/// One scenario against one server, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// The matrix's name for the work, such as `fanout-room`; empty outside the matrix.
    #[serde(default)]
    pub work: String,
    pub scenario: Scenario,
    /// Who was measured: `uproar`, `uproar epoll`, `uproar 2 shards`, `floor`, `node ws`, `bun`, `axum`, `fastwebsockets`, `store`.
    pub server: String,
    /// From 1. Servers alternate within a round.
    pub round: u32,
    pub shape: Shape,
    /// The measured part, without warm-up.
    pub seconds: f64,
    /// Messages sent in the measured part.
    pub sent: u64,
    /// Messages that their senders got back, or were told are stored.
    pub acknowledged: u64,
    /// Messages that arrived, at all receivers.
    pub deliveries: u64,
    /// CPU time of the server's process.
    pub server_cpu_seconds: f64,
    /// CPU time of the database's processes, where there are any.
    pub database_cpu_seconds: Option<f64>,
    /// Share of the busiest load thread's core, 0 to 1.
    pub client_cpu_share: f64,
    /// Server's RSS at the end.
    pub rss_bytes: u64,
    /// From the intended send to the sender's acknowledgement.
    pub ack_latency: Option<Latency>,
    /// From the intended send to each receiver.
    pub delivery_latency: Option<Latency>,
    /// From the intended send to the last member.
    pub last_latency: Option<Latency>,
    pub faults: Faults,
    /// What the first fault was, in the words of the server or of the kernel.
    #[serde(default)]
    pub words: Option<String>,
    /// What only this scenario has, by name with the unit in it: `rss_bytes_per_connection`, `recovered_seconds`, …
    pub extra: BTreeMap<String, f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    Fanout,
    Echo,
    Connect,
    Idle,
    Storm,
    Durable,
    Mix,
}

/// The work's size and kind. Two runs may be compared when theirs are equal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    pub rooms: u32,
    /// Connections in each room.
    pub members: u32,
    /// Of which so many send.
    pub senders: u32,
    pub payload_bytes: u32,
    pub load: Load,
    pub wire: Wire,
    pub channel: Channel,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// So many messages of each sender under way.
    Window(u32),
    /// Messages a second, of all senders together, at times fixed beforehand.
    Rate(f64),
    /// Nobody sends.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// Messages verbatim.
    Raw,
    /// Uproar's plain protocol, `format=json`.
    Plain,
    /// The Centrifugo protocol in JSON.
    Centrifugo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// In memory only.
    Live,
    Sqlite,
    Postgres,
}

/// Microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    /// For the plot: pairs of a share in percent and the latency there.
    pub curve: Vec<(f64, f64)>,
}

/// What the server did wrong. With any of them the figures of a run are void.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    pub lost: u64,
    pub repeated: u64,
    pub reordered: u64,
    /// What no sender has sent.
    pub corrupted: u64,
    /// Receivers that saw a room's messages in another order than the rest.
    pub disagreeing: u64,
    pub disconnected: u64,
    /// Errors in answer to what was right.
    pub refused: u64,
}

impl Faults {
    pub fn any(&self) -> bool {
        *self != Faults::default()
    }
}
