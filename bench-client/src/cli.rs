//! The command line.

use crate::client::Cores;
use crate::matrix::rounds::{Bench, Job, Plan};
use crate::matrix::schedule::{ROUND, Times};
use crate::matrix::works::{self, Driver, Subject, Work};
use crate::progress::{Progress, in_a_line};
use crate::report;
use crate::result::{Channel, Load, Machine, Results, Run, Scenario, Shape, Wire};
use crate::server::{Place, Server};
use crate::{machine, scenario};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uproar_http::Tokens;

/// Measures Uproar, alone or beside other servers, and checks all that it receives.
#[derive(Debug, Parser)]
#[command(name = "uproar-bench", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    surroundings: Surroundings,
}

#[derive(Debug, Args)]
struct Surroundings {
    /// The server's binary. Default: beside this program
    #[arg(long, global = true, value_name = "FILE")]
    uproar: Option<PathBuf>,
    /// Folder of the peers, built with its `build`
    #[arg(long, global = true, value_name = "FOLDER", default_value = "bench-client/peers")]
    peers: PathBuf,
    /// Where results are written, and data folders are made for the time of a run
    #[arg(long, global = true, value_name = "FOLDER", default_value = "bench-results")]
    out: PathBuf,
    /// Cores of the server, such as 0 or 0-3. Default: the first one
    #[arg(long, global = true, value_name = "CORES")]
    server_cores: Option<Cores>,
    /// Cores of the load and of PostgreSQL. Default: all others
    #[arg(long, global = true, value_name = "CORES")]
    load_cores: Option<Cores>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures what decides the bars, servers in turn, and writes a report
    Bars(Matrix),
    /// The same, and how costs grow, and storm, mix and connect
    All(Matrix),
    /// Writes the report of results again; the rounds of several files follow one another
    Report {
        /// results.json of earlier calls
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Messages to everybody in a room
    Fanout(Single),
    /// Messages back to who sent them
    Echo(Single),
    /// Connections a second, with tokens
    Connect(Single),
    /// Memory of connections that do nothing
    Idle(Single),
    /// Connections that drop all at once, come back and recover
    Storm(Single),
    /// Acknowledged messages a second in stored rooms
    Durable(Single),
    /// People who read, switch rooms, write and reconnect
    Mix(Single),
}

#[derive(Debug, Args)]
struct Matrix {
    /// How often each server does each work
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Only these works, and those that set their loads
    #[arg(long, value_name = "WORK", value_delimiter = ',')]
    only: Vec<String>,
}

/// One scenario, once or a few times, against one server. What is not said is as usual for the scenario.
#[derive(Debug, Args)]
struct Single {
    /// What is started and measured
    #[arg(long, value_enum, default_value_t = Kind::Uproar)]
    server: Kind,
    /// A server that runs already, instead of one that is started
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "server")]
    at: Option<SocketAddr>,
    /// Key of that server, if it is Uproar: its file `signing.key`
    #[arg(long, value_name = "FILE", requires = "at")]
    key_file: Option<PathBuf>,
    /// Process of that server, to read its CPU time and memory
    #[arg(long, value_name = "ID", requires = "at")]
    process: Option<u32>,
    /// Uproar's driver
    #[arg(long, value_enum, default_value_t = Driver::Auto)]
    driver: Driver,
    /// A further option of Uproar, such as `--with=--lanes=2`; may be given more than once
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true, conflicts_with = "at")]
    with: Vec<String>,
    /// Uproar's shards
    #[arg(long, default_value_t = 1)]
    shards: u32,
    #[arg(long)]
    rooms: Option<u32>,
    /// Connections in each room
    #[arg(long)]
    members: Option<u32>,
    /// How many of them send
    #[arg(long)]
    senders: Option<u32>,
    /// Length of each message
    #[arg(long)]
    payload_bytes: Option<u32>,
    /// Messages of each sender under way at a time
    #[arg(long, conflicts_with = "rate")]
    window: Option<u32>,
    /// Messages a second, of all senders together, at times fixed beforehand
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long, value_enum)]
    wire: Option<Wire>,
    /// Where messages are kept
    #[arg(long, value_enum)]
    channel: Option<Channel>,
    /// What `floor` pads its frames to
    #[arg(long)]
    frame_bytes: Option<u32>,
    /// Sign users up first instead of minting tokens (connect)
    #[arg(long)]
    signup: bool,
    /// Seconds of load before measuring
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Prints the result as JSON instead of as a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Uproar,
    Floor,
    Bun,
    Node,
    Axum,
    Fastwebsockets,
    /// Uproar's store without a server
    Store,
}

/// Does what the command line says.
pub fn run(cli: Cli) -> Result<()> {
    let Surroundings { uproar, peers, out, server_cores, load_cores } = cli.surroundings;
    if let Command::Report { files } = &cli.command {
        let results = report::json::read(files)?;
        make_folder(&out)?;
        return finish(&out, &results);
    }
    let all = Cores::all()?;
    let server_cores = server_cores.unwrap_or_else(|| all.one(0));
    let load_cores = load_cores.unwrap_or_else(|| all.without(&server_cores));
    let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("uproar"));
    make_folder(&out)?;
    // What is started runs in other folders.
    let absolute = |path: PathBuf| std::path::absolute(path).context("can't find the folder this runs in");
    let uproar = absolute(uproar.map_or_else(beside, Ok)?)?;
    load_cores.pin()?;
    let place = Place::new(uproar, absolute(peers)?, absolute(out.clone())?, server_cores, load_cores);
    match cli.command {
        Command::Bars(matrix) => side_by_side(place, &matrix, works::of_bars()),
        Command::All(matrix) => {
            side_by_side(place, &matrix, works::of_bars().into_iter().chain(works::of_curves()).collect())
        }
        Command::Report { .. } => Ok(()),
        Command::Fanout(single) => single.run(place, Scenario::Fanout),
        Command::Echo(single) => single.run(place, Scenario::Echo),
        Command::Connect(single) => single.run(place, Scenario::Connect),
        Command::Idle(single) => single.run(place, Scenario::Idle),
        Command::Storm(single) => single.run(place, Scenario::Storm),
        Command::Durable(single) => single.run(place, Scenario::Durable),
        Command::Mix(single) => single.run(place, Scenario::Mix),
    }
}

fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("can't make the folder {}", folder.display()))
}

/// The report, and the bars on standard output.
fn finish(out: &Path, results: &Results) -> Result<()> {
    report::write_pages(out, results)?;
    println!("\n{}", report::text(results));
    println!(
        "{} shows it with plots; {} has the raw figures",
        out.join("report.html").display(),
        out.join("results.json").display()
    );
    Ok(())
}

struct Servers(Place);

impl Bench for Servers {
    fn missing(&mut self, subject: Subject) -> Option<String> {
        self.0.missing(subject)
    }

    fn run(&mut self, job: &Job) -> Result<Run> {
        scenario::run(&mut self.0, job)
    }
}

fn side_by_side(mut place: Place, matrix: &Matrix, all: Vec<Work>) -> Result<()> {
    let chosen = works::only(all, &matrix.only)?;
    let bars = works::of_bars();
    if let Some(why) = place.missing(Subject::Uproar { driver: Driver::Auto, shards: 1 }) {
        bail!("{why}");
    }
    let needs_postgres = |work: &Work| work.entrants.iter().any(|entrant| entrant.shape.channel == Channel::Postgres);
    if chosen.iter().any(needs_postgres) {
        // Now, so that a machine without it is told so before minutes have passed.
        place.postgres()?;
    }
    let out = place.data.clone();
    let mut results = begin(&place);
    print_limits(&results.machine);
    // The windows are those of the bars, whatever else is measured.
    let times = Times::within(ROUND, &bars);
    let plan = Plan { works: &chosen, rounds: matrix.rounds, times };
    plan.carry_out(&mut Servers(place), &mut Progress::new(out.clone()), &mut results)?;
    finish(&out, &results)
}

fn begin(place: &Place) -> Results {
    Results {
        machine: machine::describe(place),
        begun: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
        runs: Vec::new(),
        skipped: BTreeMap::new(),
        failures: Vec::new(),
    }
}

fn print_limits(machine: &Machine) {
    eprintln!("{}, {} cores, {}", machine.cpu, machine.cores, machine.kernel);
    let words = |map: &BTreeMap<String, String>, between: &str| {
        map.iter().map(|(name, value)| format!("{name}{between}{value}")).collect::<Vec<_>>()
    };
    eprintln!("{}", words(&machine.versions, " ").join(", "));
    eprintln!("limits in force: {}", words(&machine.limits, ": ").join("; "));
}

impl Single {
    fn run(&self, mut place: Place, scenario: Scenario) -> Result<()> {
        let job = self.job(scenario)?;
        let given = self.at.map(|address| {
            let tokens = self.key_file.as_ref().map(|file| Tokens::read_key_file(file)).transpose()?;
            anyhow::Ok(Server::given(address, tokens, self.process))
        });
        let given = given.transpose()?;
        if let Some(server) = &given {
            server.check(&job.shape)?;
        }
        if given.is_none()
            && let Some(why) = place.missing(job.subject)
        {
            bail!("{why}");
        }
        if !self.json {
            print_limits(&machine::describe(&place));
        }
        place.options.clone_from(&self.with);
        let mut runs = Vec::new();
        for round in 1..=self.rounds {
            let mut run = match &given {
                Some(server) => {
                    let run = scenario::measure(server, &place.load_cores, &job)?;
                    Run { server: server.address.to_string(), ..run }
                }
                None => scenario::run(&mut place, &job)?,
            };
            run.round = round;
            eprintln!("{}", in_a_line(&run));
            runs.push(run);
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&runs)?);
        } else if let Some(run) = runs.last() {
            println!("\n{}", report::table::of_run(run).to_text());
        }
        let void = runs.iter().filter(|run| run.faults.any()).count();
        ensure!(
            void == 0,
            "{void} of {} runs are void: the server lost, repeated or mixed up messages, or ended connections",
            runs.len()
        );
        Ok(())
    }

    fn job(&self, scenario: Scenario) -> Result<Job> {
        let usual = works::usual(scenario);
        let load = match (self.window, self.rate) {
            (Some(messages), _) => Load::Window(messages),
            (_, Some(rate)) => Load::Rate(rate),
            _ => usual.load,
        };
        let seconds = |seconds: f64, what: &str| {
            Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|time| *time <= Duration::from_secs(3600))
                .with_context(|| format!("{what} takes seconds, 0 to 3600"))
        };
        let subject = match self.server {
            Kind::Uproar => Subject::Uproar { driver: self.driver, shards: self.shards },
            Kind::Floor => Subject::Floor { frames_of_uproar: self.frame_bytes.is_some() },
            Kind::Bun => Subject::Bun,
            Kind::Node => Subject::NodeWs,
            Kind::Axum => Subject::Axum,
            Kind::Fastwebsockets => Subject::FastWebsockets,
            Kind::Store => Subject::Store,
        };
        let is_peer =
            !matches!(self.server, Kind::Uproar | Kind::Store) || (self.at.is_some() && self.key_file.is_none());
        let (wire, channel) = if is_peer { (Wire::Raw, Channel::Live) } else { (usual.wire, usual.channel) };
        let channel = self.channel.unwrap_or(channel);
        // Stored rooms have no raw format.
        let wire = if wire == Wire::Raw && channel != Channel::Live { Wire::Plain } else { wire };
        let shape = Shape {
            rooms: self.rooms.unwrap_or(usual.rooms),
            members: self.members.unwrap_or(usual.members),
            senders: self.senders.unwrap_or(usual.senders),
            payload_bytes: self.payload_bytes.unwrap_or(usual.payload_bytes),
            load,
            wire: self.wire.unwrap_or(wire),
            channel,
        };
        scenario::check(&shape, scenario)?;
        Ok(Job {
            scenario,
            subject,
            shape,
            frame_bytes: self.frame_bytes,
            signup: self.signup,
            warm_up: seconds(self.warm_up, "--warm-up")?,
            window: seconds(self.seconds, "--seconds")?,
        })
    }
}
