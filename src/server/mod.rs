//! The server from start to stop: [`run`] prepares the process, `serve` binds, builds, spawns, waits and stops.

mod certificate;
pub(crate) mod clock;
mod generation;
pub(crate) mod holder;
mod http;
mod listeners;
mod load;
mod notify;
mod parts;
mod process;
mod revocations;
pub(crate) mod settings;
mod start;
mod threads;
mod watchdog;

use crate::bus::nats::{self, Nats};
use crate::config::{self, Options, SignUp};
use crate::driver::Driver;
use crate::issuers;
use crate::operator::server::{Office, OperatorSocket};
use crate::traces::{Collector, Exporter, Tracer};
use crate::webhooks::{self, Hook};
use crate::{outbox, outgoing, output};
use anyhow::{Context, Result};
use certificate::Tls;
use listeners::{Addresses, Listeners};
use parts::Parts;
use process::Signals;
use start::overcome;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use threads::Threads;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinSet;
use uproar_core::limits::{Limits, revocations_kept_ms};
use uproar_core::{Bus, BusState};
use uproar_http::Tokens;
use uproar_model::{Lease, Revocations, UnixMillis};
use uproar_store::{DataFolder, DatabaseUrl, OpenOptions, PostgresBus, SharedStore, WriteRates};

/// The nice value of what may wait: of a core that is always busy, it gets a few percent.
const BACKGROUND_PRIORITY: i32 = 15;

/// How long threads that still block get to finish when the process ends.
const BLOCKED_THREADS_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs the server until a signal stops it.
///
/// # Errors
/// If the server can't start, or can't go on. The text is one line.
pub fn run(options: &Options) -> Result<()> {
    warn_of_unknown_variables();
    let mut limits = options.limits()?;
    // A mistake in an option is reported before the server waits for anything.
    let addresses = Addresses::from_options(options)?;
    settings::from_options(options, &limits)?;
    let issuers = issuers::Settings::from_options(options)?;
    let url = options.database_url()?;
    options.node()?;
    options.nats()?;
    outgoing::allowed_networks(options)?;
    webhooks::from_options(options)?;
    outbox::from_options(options)?;
    fit_descriptors(&mut limits, process::raise_file_limit(), shards(options));
    process::make_new_files_private();
    let driver = choose_driver(options)?;
    let tls = certificate::load(options)?;
    let collector = Collector::from_options(options)?;
    let (services, lanes) = (runtime("http")?, runtime("lanes")?);
    let background = background_runtime()?;
    let result = services.block_on(async {
        let mut signals = Signals::catch(tls.is_some())?;
        let opened = tokio::select! {
            opened = open(options, &limits, &url, issuers) => opened?,
            signal = signals.next() => return stopped_early(signal),
        };
        let traces = collector.map(|it| Exporter::start(it, options.otlp_sample, database_name(&url)));
        let (tracer, exporter) = traces.unzip();
        let result = serve(
            options,
            &addresses,
            driver,
            limits,
            tls,
            tracer,
            &opened,
            lanes.handle(),
            background.handle(),
            signals,
        )
        .await;
        let send_last_traces = async {
            if let Some(exporter) = exporter {
                exporter.stop().await;
            }
        };
        tokio::join!(opened.store.close(), send_last_traces);
        result
    });
    background.shutdown_timeout(BLOCKED_THREADS_TIMEOUT);
    services.shutdown_timeout(BLOCKED_THREADS_TIMEOUT);
    // Last, as connections with the database belong to it.
    lanes.shutdown_timeout(BLOCKED_THREADS_TIMEOUT);
    result
}

fn warn_of_unknown_variables() {
    let unknown = config::unknown_variables();
    if !unknown.is_empty() {
        tracing::warn!("no option has the environment variables {}; `uproar --help` lists them", unknown.join(", "));
    }
}

/// The data folder, the key and the database.
struct Opened {
    /// Dropped after the store is closed: then another process may use it.
    folder: DataFolder,
    tokens: Arc<Tokens>,
    /// Whose tokens are accepted besides.
    issuers: issuers::Settings,
    store: SharedStore,
}

/// Waits for what another process still has, and for a database that is away.
async fn open(options: &Options, limits: &Limits, url: &DatabaseUrl, issuers: issuers::Settings) -> Result<Opened> {
    let timeout = Duration::from_millis(limits.start_timeout_ms);
    let folder = overcome(timeout, async || Ok(DataFolder::open(&options.data)?)).await?;
    let tokens = Tokens::from_key_file(&options.key_path())?;
    issuers.require_other_key(&tokens)?;
    let tokens = tokens.with_issuers(issuers.issuers()?);
    let open = OpenOptions {
        lanes: usize::from(options.lanes),
        call_timeout: Duration::from_millis(limits.store_timeout_ms),
        session_age_limit: Duration::from_millis(limits.store_session_age_ms),
        rates: write_rates(limits),
        join_leave_limit: limits.join_leave_limit,
        node: options.node()?,
        key_id: Some(tokens.key_id().to_owned()),
        ..OpenOptions::default()
    };
    let store = overcome(timeout, async || Ok(uproar_store::open(url, &folder, open.clone()).await?)).await?;
    let tokens = Arc::new(tokens.for_database(store.generation()));
    Ok(Opened { folder, tokens, issuers, store })
}

fn stopped_early(signal: &str) -> Result<()> {
    tracing::info!(signal, "stopped before the start was complete");
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "what `run` has prepared, which nothing else uses")]
async fn serve(
    options: &Options,
    addresses: &Addresses,
    driver: Driver,
    limits: Limits,
    tls: Option<Tls>,
    tracer: Option<Arc<Tracer>>,
    opened: &Opened,
    lane_runtime: &Handle,
    background: &Handle,
    mut signals: Signals,
) -> Result<()> {
    let setup = Setup::load(options, driver, limits, tls, tracer, opened).await?;
    let Opened { folder, tokens, store, .. } = opened;
    let listeners = tokio::select! {
        bound = Listeners::bind(addresses, &setup) => bound?,
        signal = signals.next() => return stopped_early(signal),
    };
    if let Some(tls) = &setup.tls {
        tls.use_stored();
    }
    let (plain, tls) = (listeners.plain.clone(), listeners.tls.clone());
    let parts = Parts::build(&setup)?;
    let office = Office { store: Arc::clone(store), tokens: Arc::clone(tokens), chat: parts.chat.clone() };
    let mut threads = Threads::spawn(&setup, parts, listeners, lane_runtime, background)?;
    let operators = serve_operators(folder, office);
    tracing::info!(shards = setup.shards, lanes = setup.lanes, "started");
    tell_who_signs_up(options, plain.iter().chain(&tls));
    print_addresses(&plain, &tls);
    notify::ready();
    threads.start_watchdog();

    let signal = threads.wait(&mut signals, store).await?;
    tracing::info!(signal, "stopping");
    notify::stopping();
    // No command may change something while the server stops.
    drop(operators);
    signals.exit_on_second();
    threads.stop(&setup.limits).await?;
    tracing::info!("stopped");
    Ok(())
}

/// Everything that is decided before the server binds its addresses.
struct Setup<'a> {
    options: &'a Options,
    driver: Driver,
    limits: Limits,
    tls: Option<Tls>,
    /// If there is none, there are no traces.
    tracer: Option<Arc<Tracer>>,
    tokens: Arc<Tokens>,
    issuers: issuers::Settings,
    store: SharedStore,
    shards: u16,
    lanes: u16,
    /// Decides which shard a room lives on, among others.
    seed: u64,
    /// Whether other nodes may use the same database.
    is_node: bool,
    lease: Lease,
    revocations: Revocations,
    /// When they were read, by the database's clock.
    revocations_read_at: UnixMillis,
    bus: Arc<BusState>,
    /// The bus, if it is not PostgreSQL.
    nats: Option<Nats>,
    /// Sends requests to other servers.
    outgoing: outgoing::Client,
    webhooks: Vec<Hook>,
    /// The name of the key whose rights the rows of the outbox have.
    outbox: Option<String>,
}

impl<'a> Setup<'a> {
    async fn load(
        options: &'a Options,
        driver: Driver,
        limits: Limits,
        tls: Option<Tls>,
        tracer: Option<Arc<Tracer>>,
        Opened { tokens, issuers, store, .. }: &Opened,
    ) -> Result<Setup<'a>> {
        let shards = shards(options);
        let lanes = store.lanes() as u16;
        let longest_lifetime_ms = store.longest_token_lifetime_ms(limits.token_lifetime_ms).await?;
        let kept_ms = revocations_kept_ms(longest_lifetime_ms);
        let read_at = store.clock().unix_ms();
        let revocations = Revocations::new(kept_ms, store.revoked_since(read_at.saturating_sub(kept_ms)).await?);
        let is_node = options.node()?.is_some();
        let lease = if is_node { Lease::new(limits.lease_ms) } else { Lease::unlimited() };
        let nats = options.nats()?;
        let live_limit_bytes = if nats.is_some() { nats::LIVE_LIMIT_BYTES } else { PostgresBus::LIVE_LIMIT_BYTES };
        let seed = getrandom::u64().context("the system can't provide random numbers")?;
        let (tokens, store) = (Arc::clone(tokens), Arc::clone(store));
        Ok(Setup {
            options,
            driver,
            limits,
            tls,
            tracer,
            tokens,
            issuers: issuers.clone(),
            store,
            shards,
            lanes,
            seed,
            is_node,
            lease,
            revocations,
            revocations_read_at: read_at,
            bus: Arc::new(BusState::new(if is_node { Bus::Disconnected } else { Bus::Alone }, live_limit_bytes)),
            nats,
            outgoing: outgoing::Client::from_options(options)?,
            webhooks: webhooks::from_options(options)?,
            outbox: outbox::from_options(options)?,
        })
    }

    /// The core for each shard's thread, if there are enough cores to pin the threads.
    fn core_of(&self, shard: usize, cores: &[usize]) -> Option<usize> {
        let is_pinned = usize::from(self.shards) <= available_cores();
        is_pinned.then(|| cores.get(shard).copied()).flatten()
    }
}

/// Lets commands such as `uproar password` reach this server until the set is dropped. It works without them too.
fn serve_operators(folder: &DataFolder, office: Office) -> JoinSet<()> {
    let mut task = JoinSet::new();
    match OperatorSocket::bind(folder) {
        Ok(socket) => _ = task.spawn(socket.serve(office)),
        Err(error) => {
            tracing::warn!("commands such as `uproar password` can't reach this server: {}", output::one_line(&error));
        }
    }
    task
}

fn shards(options: &Options) -> u16 {
    options.shards.unwrap_or(available_cores().min(1024) as u16)
}

fn fit_descriptors(limits: &mut Limits, descriptors: u64, shards: u16) {
    let wanted = limits.http_connections_limit;
    limits.fit_descriptors(descriptors, u64::from(shards));
    if limits.http_connections_limit < wanted {
        let (http, of_shard) = (limits.http_connections_limit, limits.connections_per_shard_limit);
        tracing::warn!(
            descriptors,
            "the limit of open files allows only {http} HTTP connections and {of_shard} WebSockets per shard; raise it \
             (ulimit -n, LimitNOFILE)"
        );
    }
}

/// The database system, as OpenTelemetry's semantic conventions name it.
fn database_name(url: &DatabaseUrl) -> &'static str {
    match url {
        DatabaseUrl::Sqlite(_) => "sqlite",
        DatabaseUrl::Postgres(_) => "postgresql",
    }
}

fn write_rates(limits: &Limits) -> WriteRates {
    WriteRates {
        writes: limits.user_writes_rate(),
        joins: limits.joins_rate(),
        joins_of_one_room: limits.rejoins_rate(),
        additions: limits.additions_rate(),
        direct_rooms: limits.direct_rooms_rate(),
        rooms_owned: Some(limits.rooms_owned_limit).filter(|limit| *limit > 0),
    }
}

fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn choose_driver(options: &Options) -> Result<Driver> {
    let (driver, reason) =
        Driver::choose(options.driver.requested()).map_err(|error| anyhow::anyhow!("--driver: {error}"))?;
    tracing::info!(driver = driver.name(), reason, "driver chosen");
    Ok(driver)
}

/// A runtime with two threads. Lanes and reader have one of their own, so that messages don't wait for HTTP requests.
fn runtime(thread_name: &str) -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(thread_name)
        .enable_all()
        .build()
        .with_context(|| format!("can't start the {thread_name} threads"))
}

/// A runtime for what may wait, such as webhooks: one thread, which runs when nothing else does.
fn background_runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("background")
        // On Linux this is about the thread alone. Where it is forbidden, messages may become a little slower.
        .on_thread_start(|| _ = rustix::process::setpriority_process(None, BACKGROUND_PRIORITY))
        .enable_all()
        .build()
        .context("can't start the background thread")
}

/// Says who can create an account, and warns if that may be the whole internet.
fn tell_who_signs_up<'a>(options: &Options, mut addresses: impl Iterator<Item = &'a SocketAddr>) {
    let who = match options.sign_up {
        _ if !options.password_sign_in => "nobody, as --password-sign-in is off",
        SignUp::Open if addresses.any(|address| !address.ip().is_loopback()) => {
            tracing::warn!(
                "everybody who reaches this server can sign up; with --sign-up invite or --sign-up closed, only those \
                 can whom you want"
            );
            return;
        }
        SignUp::Open => "everybody",
        SignUp::Invite => "those who have an invite",
        SignUp::Closed => "nobody",
    };
    tracing::info!(who, "who can sign up with a password");
}

fn print_addresses(plain: &[SocketAddr], tls: &[SocketAddr]) {
    let plain = plain.iter().map(|address| format!("http://{}", for_browser(*address)));
    let tls = tls.iter().map(|address| format!("https://{}", for_browser(*address)));
    let mut shown: Vec<String> = plain.chain(tls).collect();
    shown.dedup();
    output::announce(shown.iter().map(|address| format!("Uproar listens on {address}\n")).collect());
}

/// An address as a user types it into a browser.
fn for_browser(address: SocketAddr) -> String {
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        format!("localhost:{}", address.port())
    } else {
        address.to_string()
    }
}
