//! The results of runs. `results.json` has them in this form; bars and reports are computed from them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that one invocation of the program measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    pub machine: Machine,
    /// When the measurement began, in seconds since the Unix epoch.
    #[serde(rename = "begun")]
    pub started_unix_s: u64,
    pub runs: Vec<Run>,
    /// Servers that were not measured, each with the reason.
    #[serde(default)]
    pub skipped: BTreeMap<String, String>,
    /// Runs that could not be completed.
    #[serde(default)]
    pub failures: Vec<Failure>,
}

/// A run that ended with an error instead of a result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    #[serde(rename = "work")]
    pub workload: String,
    pub server: String,
    pub round: u32,
    pub error: String,
}

/// The machine that a measurement ran on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
    /// Versions by name: uproar, each peer, databases, rustc, node, bun.
    pub versions: BTreeMap<String, String>,
    /// Limits and settings by name, as text: open files, socket buffers, cores.
    pub limits: BTreeMap<String, String>,
}

/// The result of running one scenario against one server once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// The name of the workload, such as `fanout-room`. Empty when a scenario was run by itself.
    #[serde(default, rename = "work")]
    pub workload: String,
    pub scenario: Scenario,
    /// The server that was measured: `uproar`, `uproar epoll`, `uproar 2 shards`, `floor`, `node ws`, `bun`, `axum`,
    /// `fastwebsockets`, `store`. For a server that was already running, its address.
    pub server: String,
    /// Counted from 1. In each round, every server of a workload is measured once.
    pub round: u32,
    pub shape: Shape,
    /// Length of the measurement, without warm-up.
    pub seconds: f64,
    /// Messages that were due during the measurement.
    pub sent: u64,
    /// Messages that were acknowledged during the measurement: by a reply, or by coming back to their sender. In
    /// `connect`, connections that were made.
    pub acknowledged: u64,
    /// Messages that arrived during the measurement, summed over all receivers.
    pub deliveries: u64,
    /// CPU time of the server's process during the measurement.
    pub server_cpu_seconds: f64,
    /// CPU time of PostgreSQL's processes during the measurement.
    pub database_cpu_seconds: Option<f64>,
    /// Share of its core that the busiest load thread used, 0 to 1.
    pub client_cpu_share: f64,
    /// The server's RSS at the end of the measurement.
    pub rss_bytes: u64,
    /// From the time a message was due to its acknowledgement.
    pub ack_latency: Option<Latency>,
    /// From the time a message was due to its arrival at each receiver.
    pub delivery_latency: Option<Latency>,
    /// From the time a message was due to its arrival at the last receiver.
    pub last_latency: Option<Latency>,
    pub faults: Faults,
    /// Describes the first fault, often with the message of the server or the kernel.
    #[serde(default, rename = "words")]
    pub first_fault: Option<String>,
    /// Values that only some scenarios have. Names include the unit: `rss_bytes_per_connection`,
    /// `recovered_p50_seconds`, …
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

/// Size and kind of the load. Two runs can be compared when their shapes are equal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    pub rooms: u32,
    /// Connections in each room.
    pub members: u32,
    /// Members of each room that send.
    pub senders: u32,
    pub payload_bytes: u32,
    pub load: Load,
    pub wire: Wire,
    pub channel: Channel,
    /// Whether the connections use TLS. Each makes a full handshake.
    #[serde(default)]
    pub tls: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Closed load: each sender keeps this many messages in flight.
    Window(u32),
    /// Open load: messages per second of all senders together, sent on a fixed schedule.
    Rate(f64),
    /// No messages, only idle connections.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// Each frame is the text of one message.
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

/// A latency distribution, in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    /// Points for plots: pairs of a percentile and its latency.
    pub curve: Vec<(f64, f64)>,
}

/// What the server did wrong. Any fault makes a run void.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Messages or acknowledgements that never arrived, and connections that were never let in.
    pub lost: u64,
    /// Messages or acknowledgements that arrived more than once.
    pub repeated: u64,
    /// Messages that arrived after a later one of the same sender.
    pub reordered: u64,
    /// Messages that no sender sent.
    pub corrupted: u64,
    /// Receivers that saw a room's messages in another order than the majority, or wrong offsets.
    pub disagreeing: u64,
    /// Connections that the server closed, or a server that exited.
    pub disconnected: u64,
    /// Errors in reply to valid commands, and positions that were not recovered.
    pub refused: u64,
}

impl Faults {
    pub fn any(&self) -> bool {
        *self != Faults::default()
    }
}
