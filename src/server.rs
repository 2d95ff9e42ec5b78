//! Starts the shards and the service threads, waits for a signal, drains and stops them.

use crate::chat::{self, Chat};
use crate::config::Options;
use crate::driver::{self, Driver, HandOver, ShardHandle, ShardSetup, listen};
use crate::lanes::{LaneFigures, LaneSetup, ReaderSetup, run_lane, run_reader};
use crate::mesh::{Mesh, Port};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use std::net::{SocketAddr, TcpListener};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use uproar_core::lane::Lane;
use uproar_core::limits::Limits;
use uproar_core::message::{Endpoint, Message, reserved_places};
use uproar_core::{AllowOrigin, Shard, ShardConfig, Verify, lane_calls_limit, placing};
use uproar_http::addresses::Network;
use uproar_http::{Origins, Service, Settings, Tokens};
use uproar_store::{DataFolder, OpenOptions, SharedStore};

/// Connections that the HTTP service has at once; further ones are told to come back.
const HTTP_CONNECTIONS_LIMIT: usize = 4_096;

/// The same for the operators' port.
const ADMIN_CONNECTIONS_LIMIT: usize = 64;

/// A signal that follows the first one this closely is the same one.
const SECOND_SIGNAL_AFTER: Duration = Duration::from_millis(200);

/// Runs the server until it is told to stop.
pub fn run(options: &Options) -> Result<()> {
    let limits = options.limits()?;
    let addresses = options.addresses()?;
    raise_file_limit();
    // Everything below is private: the key, the database, the lock.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let (driver, why) =
        Driver::choose(options.driver.wanted()).map_err(|error| anyhow::anyhow!("--driver: {error}"))?;
    tracing::info!(driver = driver.name(), why, "driver chosen");
    let folder = DataFolder::open(&options.data)?;
    let tokens = Arc::new(Tokens::from_key_file(&options.key_path())?);
    let url = options.database_url()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("service")
        .enable_all()
        .build()
        .context("the service threads can't be started")?;
    {
        // Once handled it stays so: a file that would grow beyond its limit (`ulimit -f`) is a failed write then, as one on
        // a broken disk, and not the end of the process without a word.
        let _context = runtime.enter();
        let too_large = tokio::signal::unix::SignalKind::from_raw(libc::SIGXFSZ);
        let _signals = tokio::signal::unix::signal(too_large).context("signals can't be listened to")?;
    }
    let timeout = Duration::from_millis(limits.store_timeout_ms);
    let open = OpenOptions { lanes: usize::from(options.lanes), call_timeout: timeout, ..OpenOptions::default() };
    let result = runtime.block_on(async {
        let store = uproar_store::open(&url, &folder, open).await?;
        let result = serve(options, driver, limits, &addresses, tokens, &store).await;
        store.close().await;
        result
    });
    // What still blocks a thread there must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

async fn serve(
    options: &Options,
    driver: Driver,
    limits: Limits,
    addresses: &[SocketAddr],
    tokens: Arc<Tokens>,
    store: &SharedStore,
) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let shards = options.shards.unwrap_or(cores.min(1024) as u16);
    let lanes = store.lanes() as u16;
    let lifetime = Duration::from_millis(limits.token_lifetime_ms);
    let since = driver::now().unix_ms.saturating_sub(limits.revocations_kept_ms());
    let revocations = store.revoked_since(since).await?;
    let seed = getrandom::u64().context("the system has no random numbers")?;

    let (mut listeners, mut bound) = ((0..shards).map(|_| Vec::new()).collect::<Vec<Vec<TcpListener>>>(), Vec::new());
    for address in addresses {
        let (at, of_shards) = listen::bind(*address, usize::from(shards), &limits)?;
        bound.push(at);
        listeners.iter_mut().zip(of_shards).for_each(|(of_shard, listener)| of_shard.push(listener));
    }

    let mesh = Mesh::new(shards, lanes, |from, to| places(&limits, shards, from, to))
        .context("the queues between threads can't be made")?;
    let (handle, controls) = ShardHandle::new(mesh.shards.iter().map(|port| port.inbox.waker()).collect());
    let figures = Arc::new(LaneFigures::default());
    let (chat, calls) = Chat::new(handle.clone(), shards, seed, limits.clone(), Arc::clone(&figures), &revocations);
    let chat = Arc::new(chat);
    let settings = settings(options, &limits, lifetime)?;
    let origins = settings.origins.clone();
    let allow_origin: AllowOrigin = Arc::new(move |origin, host| origins.allow_upgrade(origin.as_bytes(), host));
    let service = Service::new(Arc::clone(store), Arc::clone(&tokens), chat.clone(), settings)
        .context("the password threads can't be started")?;

    // The service threads.
    let (stop_writers, writers_stopped) = watch::channel(false);
    let (broken, mut is_broken) = mpsc::channel(1);
    let mut lane_tasks = JoinSet::new();
    for port in mesh.lanes {
        lane_tasks.spawn(run_lane(LaneSetup {
            lane: Lane::new(limits.clone()),
            port,
            store: Arc::clone(store),
            placing: placing(seed),
            shards,
            figures: Arc::clone(&figures),
            stop: writers_stopped.clone(),
            broken: broken.clone(),
        }));
    }
    let mut reader = tokio::spawn(run_reader(ReaderSetup {
        port: mesh.reader,
        store: Arc::clone(store),
        markers_interval: Duration::from_millis(limits.read_markers_interval_ms),
        stop: writers_stopped,
    }));
    let mut endpoint = tokio::spawn(chat::run(mesh.http, calls, placing(seed), shards, limits.clone()));
    let (hand_over, handed_over) = mpsc::channel(1024);
    let (drain_http, http_drains) = watch::channel(false);
    if let Some(address) = options.admin_address()? {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|error| anyhow::anyhow!("--admin-listen: cannot listen on {address}: {error}"))?;
        tracing::info!(address = %listener.local_addr()?, "operators' port");
        tokio::spawn(serve_admin(Arc::clone(&service), listener, http_drains.clone()));
    }
    let http = tokio::spawn(serve_http(service, handed_over, http_drains));

    // The shards.
    let verify: Verify = Arc::new(move |token, now| tokens.verify(token, now));
    let (ended, mut has_ended) = mpsc::unbounded_channel();
    let pinned = usize::from(shards) <= cores;
    let cores = driver::cores();
    for (id, ((port, control), listeners)) in mesh.shards.into_iter().zip(controls).zip(listeners).enumerate() {
        let config = ShardConfig {
            id: id as u16,
            shards,
            lanes,
            limits: limits.clone(),
            verify: Arc::clone(&verify),
            echo: options.echo,
            query_token: !options.no_query_token,
            allow_origin: Arc::clone(&allow_origin),
            seed,
            revocations: revocations.clone(),
        };
        let thread = ShardThread {
            driver,
            config,
            listeners,
            port,
            control,
            http: hand_over.clone(),
            core: pinned.then(|| cores.get(id).copied()).flatten(),
        };
        let ended = ended.clone();
        let spawned = std::thread::Builder::new().name(format!("shard-{id}")).spawn(move || {
            // A panic is reported by the panic hook, in one line; here it becomes the end of the process.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| thread.run()));
            let _ = ended.send(match result {
                Ok(result) => result,
                Err(_) => Err(anyhow::anyhow!("shard {id} failed; see the line above")),
            });
        });
        spawned.context("a shard's thread can't be started")?;
    }
    drop((hand_over, ended));
    // Whoever reads that it listens may stop it at once.
    let mut signals = Signals::new()?;
    tracing::info!(shards, lanes, "started");
    let mut places: Vec<String> = bound.iter().map(|address| shown(*address)).collect();
    places.dedup();
    for place in places {
        println!("Uproar listens on http://{place}");
    }

    // Until something ends it.
    tokio::select! {
        // In this order: a lane that finds the database broken ends after it has said so.
        biased;
        name = signals.next() => tracing::info!(signal = name, "stopping"),
        () = store.taken() => {
            bail!("another uproar has taken the database while this one had lost its lock; stop one of them, or give it a database of its own")
        }
        Some(text) = is_broken.recv() => {
            bail!("the database can't be trusted any more: {text}; what is on disk decides, start the server again")
        }
        Some(result) = has_ended.recv() => {
            result?;
            bail!("a shard ended by itself");
        }
        // None of these ends but by a bug, which the panic hook has reported; without them the server only seems alive.
        _ = lane_tasks.join_next() => bail!("a lane ended by itself"),
        _ = &mut reader => bail!("the reader ended by itself"),
        _ = &mut endpoint => bail!("the HTTP service's way to the shards ended by itself"),
    }
    tokio::spawn(async move {
        // Some that stop a process signal it and then its group: that is still the first time.
        let first = Instant::now();
        loop {
            signals.next().await;
            if first.elapsed() >= SECOND_SIGNAL_AFTER {
                break;
            }
        }
        tracing::warn!("stopped at once by a second signal");
        std::process::exit(1);
    });
    chat.stopping();
    let patience = Duration::from_millis(limits.stop_timeout_ms);
    let stopped = tokio::time::timeout(patience, async {
        // First what speaks HTTP: its publishes need the shards.
        let _ = drain_http.send(true);
        let _ = tokio::time::timeout(Duration::from_secs(2), http).await;
        handle.drain();
        while let Some(result) = has_ended.recv().await {
            result?;
        }
        // Both at once: neither has to wait for what the other still tries.
        let _ = stop_writers.send(true);
        while lane_tasks.join_next().await.is_some() {}
        let _ = (&mut reader).await;
        Ok::<(), anyhow::Error>(())
    });
    match stopped.await {
        Ok(result) => result?,
        Err(_) => tracing::warn!("not everything was finished in {} ms (stop_timeout_ms)", limits.stop_timeout_ms),
    }
    reader.abort();
    endpoint.abort();
    tracing::info!("stopped");
    Ok(())
}

/// What a shard's thread begins with: a shard itself can't change threads.
struct ShardThread {
    driver: Driver,
    config: ShardConfig,
    listeners: Vec<TcpListener>,
    port: Port<Message>,
    control: driver::Control,
    http: mpsc::Sender<HandOver>,
    core: Option<usize>,
}

impl ShardThread {
    fn run(self) -> Result<()> {
        let ShardThread { driver, config, listeners, port, control, http, core } = self;
        let limits = config.limits.clone();
        let shard = Shard::new(config);
        driver.run(ShardSetup { shard, limits, listeners, port, control, http, core })?;
        Ok(())
    }
}

/// Places in the queue between two endpoints: what calls and answers need, and what publications may have besides.
fn places(limits: &Limits, shards: u16, from: Endpoint, to: Endpoint) -> usize {
    let calls = limits.mesh_calls_limit as usize;
    let lane_calls = lane_calls_limit(limits, shards) as usize;
    match (from, to) {
        (Endpoint::Shard(_), Endpoint::Shard(_)) => {
            reserved_places(limits.mesh_calls_limit) + limits.mesh_publications_limit as usize
        }
        (_, Endpoint::Lane(_)) => lane_calls,
        (Endpoint::Lane(_), _) | (_, Endpoint::Http) => 2 * lane_calls.max(calls),
        _ => calls,
    }
}

/// Serves what the shards hand over, until `drains` turns true and the last connection has ended.
async fn serve_http(service: Arc<Service>, mut handed_over: mpsc::Receiver<HandOver>, drains: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let mut draining = drains.clone();
    loop {
        let handed = tokio::select! {
            handed = handed_over.recv() => handed,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            _ = draining.wait_for(|drain| *drain) => None,
        };
        let Some(HandOver { stream, peer, bytes }) = handed else { break };
        if connections.len() >= HTTP_CONNECTIONS_LIMIT {
            // Closed without an answer; the client tries again.
            continue;
        }
        match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => drop(connections.spawn(Arc::clone(&service).serve(stream, peer, bytes, drains.clone()))),
            Err(error) => tracing::warn!(%error, "a connection could not be handed to the HTTP service"),
        }
    }
    connections.join_all().await;
}

/// Serves the operators' port for as long as the process lives: it answers while the rest stops.
async fn serve_admin(service: Arc<Service>, listener: tokio::net::TcpListener, drains: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok((stream, peer)) if connections.len() < ADMIN_CONNECTIONS_LIMIT => {
                connections.spawn(Arc::clone(&service).serve_admin(stream, peer, Bytes::new(), drains.clone()));
            }
            Ok(_) => {}
            // Out of descriptors, mostly: the next attempt would fail at once.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn settings(options: &Options, limits: &Limits, lifetime: Duration) -> Result<Settings> {
    let origins = Origins::parse(&options.allow_origin).map_err(|error| anyhow::anyhow!("--allow-origin: {error}"))?;
    let trusted_proxies = options.trusted_proxy.iter().map(|network| Network::from_str(network.trim()));
    let trusted_proxies: Result<Vec<Network>, _> = trusted_proxies.collect();
    let ms = Duration::from_millis;
    Ok(Settings {
        origins,
        own_admin_port: options.admin_listen.is_some(),
        trusted_proxies: trusted_proxies.map_err(|error| anyhow::anyhow!("--trusted-proxy: {error}"))?,
        limits: uproar_http::Limits {
            head_limit_bytes: limits.head_limit_bytes as usize,
            body_limit_bytes: limits.body_limit_bytes as usize,
            text_limit_bytes: limits.text_limit_bytes as usize,
            room_size_limit: limits.room_size_limit as u32,
            history_page_limit: limits.history_page_limit as usize,
            publish_rate_per_second: limits.publish_rate_per_second as u32,
            publish_burst_limit: limits.publish_burst_limit as u32,
            write_timeout: ms(limits.write_timeout_ms),
            ..uproar_http::Limits::default()
        },
        token_lifetime: lifetime,
        session_lifetime: ms(limits.session_lifetime_ms),
        expired_grace: ms(limits.expired_grace_ms),
        token_in_query: !options.no_query_token,
        echo: options.echo,
        ..Settings::default()
    })
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).context("signals can't be listened to");
        Ok(Signals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// As many open files as this process may have: each connection is one.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// An address as one types it into a browser.
fn shown(address: SocketAddr) -> String {
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        format!("localhost:{}", address.port())
    } else {
        address.to_string()
    }
}
