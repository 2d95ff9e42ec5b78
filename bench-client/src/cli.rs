//! The command line.

use crate::abuse;
use crate::client::{Cores, TlsClient, allow_files};
use crate::cluster::{self, Transport};
use crate::matrix::bars::Verdict;
use crate::matrix::runner::{Executor, Job, Plan};
use crate::matrix::schedule::{ROUND, Timing};
use crate::matrix::workloads::{self, Driver, Subject, Workload};
use crate::output::{note, print};
use crate::progress::{Progress, summary_line};
use crate::report;
use crate::result::{Channel, Load, Machine, Results, Run, Scenario, Shape, Wire};
use crate::server::{Environment, Server, check_tls};
use crate::size::{self, Amounts};
use crate::{machine, scenario, webhooks};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uproar_http::Tokens;

/// Measures Uproar, alone or next to other servers, and checks everything that it receives.
#[derive(Debug, Parser)]
#[command(name = "uproar-bench", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: CommonOptions,
}

#[derive(Debug, Args)]
struct CommonOptions {
    /// Uproar's binary. Default: `uproar` in the folder of this program
    #[arg(long, global = true, value_name = "FILE")]
    uproar: Option<PathBuf>,
    /// Folder of the peers. Its script `build` builds them
    #[arg(long, global = true, value_name = "FOLDER", default_value = "bench-client/peers")]
    peers: PathBuf,
    /// Folder for results, and for each run's temporary data folder
    #[arg(long, global = true, value_name = "FOLDER", default_value = "bench-results")]
    out: PathBuf,
    /// Cores for the server, such as 0 or 0-3. Default: the first core
    #[arg(long, global = true, value_name = "CORES")]
    server_cores: Option<Cores>,
    /// Cores for the load and PostgreSQL. Default: all other cores
    #[arg(long, global = true, value_name = "CORES")]
    load_cores: Option<Cores>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks every bar: measures Uproar and its peers in turn and writes a report
    Bars(MatrixOptions),
    /// Does the same as `bars` and also measures growth curves, storm, mix and connect
    All(MatrixOptions),
    /// Writes the report again from earlier results. Several files are joined, round after round
    Report {
        /// results.json files of earlier measurements
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Measures messages to all members of a room
    Fanout(ScenarioOptions),
    /// Measures messages that the server sends back to their sender
    Echo(ScenarioOptions),
    /// Measures connections per second, each with a token
    Connect(ScenarioOptions),
    /// Measures the memory of idle connections
    Idle(ScenarioOptions),
    /// Measures how long it takes until connections that all drop at the same time have reconnected and recovered
    Storm(ScenarioOptions),
    /// Measures acknowledged messages per second in stored rooms
    Durable(ScenarioOptions),
    /// Measures how much hostile clients slow down a well-behaved one. At most 5 times is allowed
    Abuse(AbuseOptions),
    /// Measures what a machine for Uproar needs: memory by connections and rooms, disk by messages
    Size(SizeOptions),
    /// Measures three nodes on one PostgreSQL: their cost, and what failures look like. Checks the bars of a cluster
    Cluster(ClusterOptions),
    /// Measures what a webhook costs: acknowledged messages per second with one and without. At least 0.95 must remain
    Webhooks(WebhooksOptions),
    /// Measures a mix: clients read histories, switch rooms, send messages and reconnect
    Mix(ScenarioOptions),
}

#[derive(Debug, Args)]
struct MatrixOptions {
    /// How many times each server is measured in each workload
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Measures only these workloads, and those that determine their load
    #[arg(long, value_name = "WORKLOAD", value_delimiter = ',')]
    only: Vec<String>,
}

#[derive(Debug, Args)]
struct AbuseOptions {
    /// Runs only these attacks
    #[arg(long, value_name = "ATTACK", value_delimiter = ',')]
    only: Vec<String>,
    /// Seconds without and then with each attack
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Connections of an attack that holds as many as it can
    #[arg(long, default_value_t = 4096)]
    sockets: usize,
    /// I/O driver of Uproar
    #[arg(long, value_enum, default_value_t = Driver::Auto)]
    driver: Driver,
    /// Shards of Uproar
    #[arg(long, default_value_t = 2)]
    shards: u32,
}

#[derive(Debug, Args)]
struct SizeOptions {
    /// Idle connections, in 100 rooms
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    connections: u32,
    /// Rooms with one connection each
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rooms: u32,
    /// Messages on each database
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    messages: u64,
}

#[derive(Debug, Args)]
struct ClusterOptions {
    /// How many times each measurement is repeated
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Makes only these measurements: latency, cut, ghosts, failover, alone, spread
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// What carries announcements between nodes: postgres, nats, or the URL of a running NATS server
    #[arg(long, default_value = "postgres")]
    bus: Transport,
}

#[derive(Debug, Args)]
struct WebhooksOptions {
    /// How many times it is measured with a webhook and without
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Where the server keeps messages
    #[arg(long, value_enum, default_value_t = Channel::Sqlite)]
    channel: Channel,
}

/// Runs one scenario against one server. Sizes that are not given have the scenario's default.
#[derive(Debug, Args)]
struct ScenarioOptions {
    /// The server to start and measure
    #[arg(long, value_enum, default_value_t = ServerKind::Uproar)]
    server: ServerKind,
    /// Measures a server that is already running instead of starting one
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "server")]
    at: Option<SocketAddr>,
    /// The running server's `signing.key`, if it is Uproar. Without it the server is treated as a peer
    #[arg(long, value_name = "FILE", requires = "at")]
    key_file: Option<PathBuf>,
    /// The running server's certificate, if it is to be reached over TLS
    #[arg(long, value_name = "FILE", requires = "at")]
    tls_cert: Option<PathBuf>,
    /// Process id of the running server, to read its CPU time and memory
    #[arg(long, value_name = "ID", requires = "at")]
    process: Option<u32>,
    /// I/O driver of Uproar
    #[arg(long, value_enum, default_value_t = Driver::Auto)]
    driver: Driver,
    /// Passes an option to Uproar, such as `--with=--lanes=2`. May be repeated
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true, conflicts_with = "at")]
    with: Vec<String>,
    /// Shards of Uproar
    #[arg(long, default_value_t = 1)]
    shards: u32,
    /// Measures over TLS, with a full handshake for each connection. Uproar, Bun and Node.js speak it
    #[arg(long, conflicts_with = "at")]
    tls: bool,
    /// Number of rooms
    #[arg(long)]
    rooms: Option<u32>,
    /// Connections in each room
    #[arg(long)]
    members: Option<u32>,
    /// Members of each room that send
    #[arg(long)]
    senders: Option<u32>,
    /// Length of each message in bytes
    #[arg(long)]
    payload_bytes: Option<u32>,
    /// Closed load: how many messages each sender keeps in flight
    #[arg(long, conflicts_with = "rate")]
    window: Option<u32>,
    /// Open load: messages per second of all senders together, sent on a fixed schedule
    #[arg(long)]
    rate: Option<f64>,
    /// Protocol between load and server
    #[arg(long, value_enum)]
    wire: Option<Wire>,
    /// Where the server keeps messages
    #[arg(long, value_enum)]
    channel: Option<Channel>,
    /// Length in bytes to which `floor` pads the payload of its frames
    #[arg(long)]
    frame_bytes: Option<u32>,
    /// Signs users up first instead of minting their tokens (connect)
    #[arg(long)]
    signup: bool,
    /// Seconds of load before the measurement
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds of the measurement
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How many times the scenario runs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Prints all results as JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ServerKind {
    Uproar,
    Floor,
    Bun,
    Node,
    Axum,
    Fastwebsockets,
    /// Uproar's store alone, without a server
    Store,
}

/// Executes the command line. Fails when a run is void.
pub fn run(cli: Cli) -> Result<()> {
    let CommonOptions { uproar, peers, out, server_cores, load_cores } = cli.common;
    if let Command::Report { files } = &cli.command {
        let results = report::json::read(files)?;
        create_folder(&out)?;
        return write_report(&out, &results);
    }
    let all = Cores::all()?;
    let server_cores = server_cores.unwrap_or_else(|| all.one(0));
    let load_cores = load_cores.unwrap_or_else(|| all.without(&server_cores));
    let next_to_this = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("uproar"));
    create_folder(&out)?;
    // The programs that are started may run in other folders.
    let absolute = |path: PathBuf| std::path::absolute(path).context("can't find the current folder");
    let uproar = absolute(uproar.map_or_else(next_to_this, Ok)?)?;
    load_cores.pin()?;
    let environment = Environment::new(uproar, absolute(peers)?, absolute(out.clone())?, server_cores, load_cores);
    match cli.command {
        Command::Bars(matrix) => run_matrix(environment, &matrix, workloads::for_bars()),
        Command::All(matrix) => {
            run_matrix(environment, &matrix, workloads::for_bars().into_iter().chain(workloads::additional()).collect())
        }
        Command::Report { .. } => Ok(()),
        Command::Fanout(single) => single.run(environment, Scenario::Fanout),
        Command::Echo(single) => single.run(environment, Scenario::Echo),
        Command::Connect(single) => single.run(environment, Scenario::Connect),
        Command::Idle(single) => single.run(environment, Scenario::Idle),
        Command::Storm(single) => single.run(environment, Scenario::Storm),
        Command::Durable(single) => single.run(environment, Scenario::Durable),
        Command::Abuse(abuse) => abuse.run(environment),
        Command::Size(size) => size.run(environment),
        Command::Cluster(cluster) => cluster.run(environment),
        Command::Webhooks(webhooks) => webhooks.run(environment),
        Command::Mix(single) => single.run(environment, Scenario::Mix),
    }
}

fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("can't create the folder {}", folder.display()))
}

/// Writes the report and prints the tables to standard output.
fn write_report(out: &Path, results: &Results) -> Result<()> {
    report::write_pages(out, results)?;
    print(format_args!("\n{}", report::text(results)))?;
    print(format_args!(
        "Report with plots: {}\nRaw results: {}",
        out.join("report.html").display(),
        out.join("results.json").display()
    ))
}

struct ServerRunner(Environment);

impl Executor for ServerRunner {
    fn unavailable(&mut self, subject: Subject) -> Option<String> {
        self.0.unavailable(subject)
    }

    fn run(&mut self, job: &Job) -> Result<Run> {
        scenario::run(&mut self.0, job)
    }
}

fn run_matrix(mut environment: Environment, matrix: &MatrixOptions, all: Vec<Workload>) -> Result<()> {
    let selected = workloads::select(all, &matrix.only)?;
    let bars = workloads::for_bars();
    if let Some(reason) = environment.unavailable(Subject::Uproar { driver: Driver::Auto, shards: 1 }) {
        bail!("{reason}");
    }
    let needs_postgres =
        |workload: &Workload| workload.entrants.iter().any(|entrant| entrant.shape.channel == Channel::Postgres);
    if selected.iter().any(needs_postgres) {
        // Started first, so that a machine without PostgreSQL fails here and not after minutes.
        environment.postgres()?;
    }
    let out = environment.data.clone();
    let mut results = new_results(&environment);
    print_machine(&results.machine);
    // The bars alone determine the durations, so that `--only` and `all` measure for as long as `bars`.
    let timing = Timing::within(ROUND, &bars);
    let plan = Plan { workloads: &selected, rounds: matrix.rounds, timing };
    plan.execute(&mut ServerRunner(environment), &mut Progress::new(out.clone()), &mut results)?;
    write_report(&out, &results)
}

fn new_results(environment: &Environment) -> Results {
    Results {
        machine: machine::describe(environment),
        started_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
        runs: Vec::new(),
        skipped: BTreeMap::new(),
        failures: Vec::new(),
    }
}

fn print_machine(machine: &Machine) {
    note(format_args!("{}, {} cores, {}", machine.cpu, machine.cores, machine.kernel));
    let words = |map: &BTreeMap<String, String>, between: &str| {
        map.iter().map(|(name, value)| format!("{name}{between}{value}")).collect::<Vec<_>>()
    };
    note(format_args!("{}", words(&machine.versions, " ").join(", ")));
    note(format_args!("limits: {}", words(&machine.limits, ": ").join("; ")));
}

impl AbuseOptions {
    fn run(&self, mut environment: Environment) -> Result<()> {
        let is_known = |name: &String| abuse::ATTACKS.iter().any(|attack| attack.name == name);
        if let Some(unknown) = self.only.iter().find(|name| !is_known(name)) {
            let known: Vec<_> = abuse::ATTACKS.iter().map(|attack| attack.name).collect();
            bail!("there is no attack '{unknown}'; there are {}", known.join(", "));
        }
        allow_files(self.sockets + 1_000)?;
        environment.has_default_limits = true;
        let subject = Subject::Uproar { driver: self.driver, shards: self.shards };
        if let Some(reason) = environment.unavailable(subject) {
            bail!("{reason}");
        }
        print_machine(&machine::describe(&environment));
        let mut all = Vec::new();
        for attack in abuse::ATTACKS {
            if !self.only.is_empty() && !self.only.iter().any(|name| name == attack.name) {
                continue;
            }
            note(format_args!("{}: {}", attack.name, attack.what));
            let server = environment.start(subject, Channel::Sqlite, false, None)?;
            let mint = |user: &str| server.token(user);
            let arena = abuse::Arena::new(server.address, &mint, self.sockets, Duration::from_secs(10));
            let victim = abuse::Victim::sign_up(&arena)?;
            all.push(abuse::measure(&arena, &victim, attack, Duration::from_secs(self.seconds)));
            server.stop()?;
        }
        print(format_args!("{}", abuse::summary(&all)))?;
        let degrading = abuse::degrading(&all);
        ensure!(degrading.is_empty(), "these attacks degraded the service for others: {}", degrading.join(", "));
        Ok(())
    }
}

impl SizeOptions {
    fn run(&self, mut environment: Environment) -> Result<()> {
        let subject = Subject::Uproar { driver: Driver::Auto, shards: 1 };
        if let Some(reason) = environment.unavailable(subject) {
            bail!("{reason}");
        }
        // Started first, so that a machine without PostgreSQL fails here and not after minutes.
        environment.postgres()?;
        print_machine(&machine::describe(&environment));
        let amounts = Amounts { connections: self.connections, rooms: self.rooms, messages: self.messages };
        let size = size::measure(&mut environment, subject, amounts)?;
        print(format_args!("\n{}", size.to_markdown()))
    }
}

impl ClusterOptions {
    fn run(&self, mut environment: Environment) -> Result<()> {
        let rows = cluster::select(&self.only)?;
        if let Some(reason) = environment.unavailable(Subject::Uproar { driver: Driver::Auto, shards: 1 }) {
            bail!("{reason}");
        }
        // Started first, so that a machine without them fails here.
        environment.postgres()?;
        self.bus.option(&mut environment)?;
        print_machine(&machine::describe(&environment));
        note(format_args!("three nodes, bus: {}", self.bus.name()));
        let outcomes = cluster::measure(&mut environment, &self.bus, &rows, self.rounds);
        let table = report::table::bars_table(&outcomes);
        let file = environment.data.join("cluster.md");
        fs::write(&file, table.to_markdown()).with_context(|| format!("can't write {}", file.display()))?;
        print(format_args!("\n{}", table.to_text()))?;
        let missed: Vec<&str> =
            outcomes.iter().filter(|outcome| outcome.verdict != Verdict::Met).map(|outcome| outcome.key).collect();
        ensure!(missed.is_empty(), "these bars are not met: {}", missed.join(", "));
        Ok(())
    }
}

impl WebhooksOptions {
    fn run(&self, mut environment: Environment) -> Result<()> {
        if let Some(reason) = environment.unavailable(Subject::Uproar { driver: Driver::Auto, shards: 1 }) {
            bail!("{reason}");
        }
        print_machine(&machine::describe(&environment));
        let measured = Duration::from_secs(self.seconds);
        let ratios = webhooks::measure(&mut environment, self.channel, self.rounds, measured)?;
        let median = webhooks::median(&ratios);
        let all: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.3}")).collect();
        print(format_args!("with a webhook / without: {median:.3} ({}); at least {}", all.join(", "), webhooks::BAR))?;
        ensure!(median >= webhooks::BAR, "a webhook costs too much: {median:.3} of the throughput remains");
        Ok(())
    }
}

impl ScenarioOptions {
    fn run(&self, mut environment: Environment, scenario: Scenario) -> Result<()> {
        let job = self.job(scenario)?;
        let external = self.at.map(|address| {
            let tokens = self.key_file.as_ref().map(|file| Tokens::read_key_file(file)).transpose()?;
            let tls = self.tls_cert.as_ref().map(|file| TlsClient::trusting(file)).transpose()?;
            anyhow::Ok(Server::external(address, tls, tokens, self.process))
        });
        let external = external.transpose()?;
        if let Some(server) = &external {
            server.check(&job.shape)?;
        }
        if external.is_none()
            && let Some(reason) = environment.unavailable(job.subject)
        {
            bail!("{reason}");
        }
        if !self.json {
            print_machine(&machine::describe(&environment));
        }
        environment.options.clone_from(&self.with);
        let mut runs = Vec::new();
        for round in 1..=self.rounds {
            let mut run = match &external {
                Some(server) => {
                    let run = scenario::measure(server, &environment.load_cores, &job)?;
                    Run { server: server.address.to_string(), ..run }
                }
                None => scenario::run(&mut environment, &job)?,
            };
            run.round = round;
            note(format_args!("{}", summary_line(&run)));
            runs.push(run);
        }
        if self.json {
            print(format_args!("{}", serde_json::to_string_pretty(&runs)?))?;
        } else if let Some(run) = runs.last() {
            print(format_args!("\n{}", report::table::run_table(run).to_text()))?;
        }
        let void = runs.iter().filter(|run| run.faults.any()).count();
        ensure!(
            void == 0,
            "{void} of {} runs are void: the server lost, repeated or reordered messages, or closed connections",
            runs.len()
        );
        Ok(())
    }

    fn job(&self, scenario: Scenario) -> Result<Job> {
        let default = workloads::default_shape(scenario);
        let load = match (self.window, self.rate) {
            (Some(messages), _) => Load::Window(messages),
            (_, Some(rate)) => Load::Rate(rate),
            _ => default.load,
        };
        let seconds = |seconds: f64, what: &str| {
            Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|time| *time <= Duration::from_secs(3600))
                .with_context(|| format!("{what} must be between 0 and 3600 seconds"))
        };
        let subject = match self.server {
            ServerKind::Uproar => Subject::Uproar { driver: self.driver, shards: self.shards },
            ServerKind::Floor => Subject::Floor { frames_of_uproar: self.frame_bytes.is_some() },
            ServerKind::Bun => Subject::Bun,
            ServerKind::Node => Subject::NodeWs,
            ServerKind::Axum => Subject::Axum,
            ServerKind::Fastwebsockets => Subject::FastWebsockets,
            ServerKind::Store => Subject::Store,
        };
        let is_peer = !matches!(self.server, ServerKind::Uproar | ServerKind::Store)
            || (self.at.is_some() && self.key_file.is_none());
        let (wire, channel) = if is_peer { (Wire::Raw, Channel::Live) } else { (default.wire, default.channel) };
        let channel = self.channel.unwrap_or(channel);
        // Stored rooms don't support the raw format.
        let wire = if wire == Wire::Raw && channel != Channel::Live { Wire::Plain } else { wire };
        let shape = Shape {
            rooms: self.rooms.unwrap_or(default.rooms),
            members: self.members.unwrap_or(default.members),
            senders: self.senders.unwrap_or(default.senders),
            payload_bytes: self.payload_bytes.unwrap_or(default.payload_bytes),
            load,
            wire: self.wire.unwrap_or(wire),
            channel,
            tls: self.tls || self.tls_cert.is_some(),
        };
        if self.tls {
            check_tls(subject)?;
        }
        scenario::validate(&shape, scenario)?;
        Ok(Job {
            scenario,
            subject,
            shape,
            frame_bytes: self.frame_bytes,
            signup: self.signup,
            warm_up: seconds(self.warm_up, "--warm-up")?,
            measured: seconds(self.seconds, "--seconds")?,
        })
    }
}
