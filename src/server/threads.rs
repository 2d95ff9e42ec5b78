//! The threads of the shards and the tasks of everything else: spawns them, waits until one of them or a signal ends
//! the server, and stops them in order.

use super::listeners::{Listeners, OfShard};
use super::parts::{Hooks, Parts};
use super::process::Signals;
use super::watchdog::{self, Watchdog};
use super::{Setup, certificate, clock, generation, http, load, revocations};
use crate::bus::{BusSetup, run_bus};
use crate::chat::{self, Chat};
use crate::driver::{self, Control, Driver, HandOver, ShardHandle, ShardSetup, TlsSetup};
use crate::lanes::{LaneMetrics, LaneSetup, ReaderSetup, run_lane, run_reader};
use crate::mesh::Port;
use crate::outbox::{OutboxSetup, run_outbox};
use crate::webhooks::{WebhooksSetup, run_webhooks};
use anyhow::{Context, Result, anyhow, bail};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use uproar_core::lane::Lane;
use uproar_core::limits::Limits;
use uproar_core::message::Message;
use uproar_core::{Placement, Shard, ShardConfig};
use uproar_http::Service;
use uproar_model::Clock;
use uproar_store::SharedStore;
use uproar_tls::Config;

/// Connections on their way from the shards to the HTTP service.
const HAND_OVER_LIMIT: usize = 1024;

/// How long open HTTP requests may take when the server stops.
const HTTP_STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the last entries of the audit log may take when the server stops.
const AUDIT_STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Everything that runs.
pub(super) struct Threads {
    chat: Arc<Chat>,
    shards: ShardHandle,
    /// The result of each shard that has ended.
    shard_results: mpsc::UnboundedReceiver<Result<()>>,
    http: JoinHandle<()>,
    service: Arc<Service>,
    /// They run until the process ends.
    others: Others,
    /// Connects `chat` to the mesh.
    endpoint: JoinHandle<()>,
    drain_http: watch::Sender<bool>,
    watchdog: Arc<Watchdog>,
    lanes: JoinSet<()>,
    /// Why a lane can commit nothing more.
    broken: mpsc::Receiver<String>,
    reader: JoinHandle<()>,
    stop_writers: watch::Sender<bool>,
    bus: JoinHandle<()>,
    stop_bus: watch::Sender<bool>,
    /// What sends to webhooks.
    webhooks: JoinHandle<()>,
    stop_webhooks: watch::Sender<bool>,
    /// What executes the rows of the outbox.
    outbox: JoinHandle<()>,
    stop_outbox: watch::Sender<bool>,
}

/// The tasks that need no orderly end.
struct Others {
    /// The operators' port.
    admin: JoinHandle<()>,
    /// The port that leads to https.
    redirect: JoinHandle<()>,
    /// Writes the audit log.
    audit: JoinHandle<()>,
    /// The comparison of clocks.
    clock: JoinHandle<()>,
    /// Follows the database's generation.
    generation: JoinHandle<()>,
    /// Learns what other nodes have revoked.
    revocations: JoinHandle<()>,
    /// Fetches the keys of an identity provider.
    keys: JoinHandle<()>,
    /// Tells the other nodes what this one serves.
    load: JoinHandle<()>,
    /// Keeps the certificate up to date.
    certificate: JoinHandle<Result<()>>,
}

impl Threads {
    /// The lanes and the reader run on `lane_runtime`, and what may wait on `background`.
    pub(super) fn spawn(
        setup: &Setup<'_>,
        parts: Parts,
        listeners: Listeners,
        lane_runtime: &Handle,
        background: &Handle,
    ) -> Result<Threads> {
        let Parts { mesh, shards, controls, chat, calls, surveys, .. } = parts;
        let Parts { lane_metrics, bus_metrics, webhooks, outbox, service, hooks, .. } = parts;
        let others = mesh.lanes.iter().chain([&mesh.reader, &mesh.http, &mesh.bus]);
        let pulses = mesh.shards.iter().chain(others).map(|port| port.inbox.pulse()).collect();
        let (stop_writers, writers_stopped) = watch::channel(false);
        let (lanes, broken) = spawn_lanes(setup, mesh.lanes, &lane_metrics, &writers_stopped, lane_runtime);
        let reader = lane_runtime.spawn(run_reader(ReaderSetup {
            port: mesh.reader,
            store: Arc::clone(&setup.store),
            markers_interval: Duration::from_millis(setup.limits.read_markers_interval_ms),
            stop: writers_stopped,
        }));
        let (stop_bus, bus_stopped) = watch::channel(false);
        let revoked = Arc::new(Notify::new());
        let bus = lane_runtime.spawn(run_bus(BusSetup {
            port: mesh.bus,
            bus: setup.store.bus(),
            nats: setup.nats.clone(),
            store: Arc::clone(&setup.store),
            state: Arc::clone(&setup.bus),
            metrics: bus_metrics,
            placement: Placement::new(setup.seed, setup.shards),
            shards: setup.shards,
            calls_limit: setup.limits.mesh_calls_limit,
            beat_interval: Duration::from_millis(setup.limits.bus_beat_interval_ms),
            revoked: Arc::clone(&revoked),
            surveys,
            survey_timeout_ms: setup.limits.survey_timeout_ms,
            stop: bus_stopped,
        }));
        let (stop_webhooks, webhooks_stopped) = watch::channel(false);
        let webhooks = background.spawn(run_webhooks(WebhooksSetup {
            hooks: setup.webhooks.clone(),
            status: webhooks,
            store: Arc::clone(&setup.store),
            chat: Arc::clone(&chat),
            client: setup.outgoing.clone(),
            limits: setup.limits.clone(),
            writing: lane_runtime.clone(),
            stop: webhooks_stopped,
        }));
        let (stop_outbox, outbox_stopped) = watch::channel(false);
        let outbox = tokio::spawn(run_outbox(OutboxSetup {
            key: setup.outbox.clone(),
            status: outbox,
            store: Arc::clone(&setup.store),
            service: Arc::clone(&service),
            limits: setup.limits.clone(),
            stop: outbox_stopped,
        }));
        let endpoint = tokio::spawn(chat::run(
            mesh.http,
            calls,
            Placement::new(setup.seed, setup.shards),
            setup.shards,
            setup.limits.clone(),
        ));

        let (hand_over, handed_over) = mpsc::channel(HAND_OVER_LIMIT);
        let (drain_http, http_drains) = watch::channel(false);
        let admin = http::serve_admin(Arc::clone(&service), listeners.admin, http_drains.clone());
        let watchdog = Arc::new(Watchdog::new(pulses, hand_over.clone(), http_drains.clone()));
        let limit = setup.limits.http_connections_limit as usize;
        let tls_port = listeners.tls.first().map_or(0, SocketAddr::port);
        let redirect =
            http::serve_redirect(Arc::clone(&service), listeners.redirect, tls_port, limit, http_drains.clone());
        let others = Others {
            admin: tokio::spawn(admin),
            redirect: tokio::spawn(redirect),
            audit: tokio::spawn(Arc::clone(&service).keep_audit()),
            clock: tokio::spawn(clock::watch(setup.store.clock(), setup.is_node)),
            generation: tokio::spawn(generation::follow(
                setup.store.generations(),
                Arc::clone(&setup.tokens),
                Arc::clone(&chat),
            )),
            revocations: lane_runtime.spawn(follow_revocations(setup, &chat, revoked)),
            keys: tokio::spawn(setup.issuers.clone().keep_keys(
                setup.outgoing.clone(),
                setup.store.clock(),
                Duration::from_millis(setup.limits.keys_fetch_interval_ms),
            )),
            load: tokio::spawn(load::report(setup.options.node()?, Arc::clone(&chat), Arc::clone(&setup.store))),
            certificate: tokio::spawn(certificate::watch(setup.tls.clone())),
        };
        let http = tokio::spawn(http::serve(Arc::clone(&service), limit, handed_over, http_drains));
        let ends = mesh.shards.into_iter().zip(controls).zip(listeners.by_shard);
        let ends = ends.map(|((port, control), listeners)| (port, control, listeners));
        let shard_results = spawn_shards(setup, ends, &hooks, &hand_over)?;
        Ok(Threads {
            chat,
            shards,
            shard_results,
            http,
            service,
            others,
            endpoint,
            drain_http,
            watchdog,
            lanes,
            broken,
            reader,
            stop_writers,
            bus,
            stop_bus,
            webhooks,
            stop_webhooks,
            outbox,
            stop_outbox,
        })
    }

    /// Starts to tell the service manager that the server makes progress, if it wants to know. If the task ended
    /// because of a bug, the service manager would restart the server.
    pub(super) fn start_watchdog(&self) {
        if let Some(interval) = watchdog::interval() {
            tokio::spawn(Arc::clone(&self.watchdog).run(interval));
        }
    }

    /// Waits for the first signal and returns its name.
    ///
    /// # Errors
    /// If something makes it impossible to go on: another process has taken the database, the database can't be
    /// trusted, or a thread or task has ended.
    pub(super) async fn wait(&mut self, signals: &mut Signals, store: &SharedStore) -> Result<&'static str> {
        let Others { admin, redirect, audit, clock, generation, revocations, keys, load, certificate } =
            &mut self.others;
        tokio::select! {
            // In this order: a lane that finds the database broken reports it first, and then ends.
            biased;
            signal = signals.next() => Ok(signal),
            reason = store.ended() => bail!(reason),
            Some(reason) = self.broken.recv() => bail!(reason),
            Some(result) = self.shard_results.recv() => {
                result?;
                bail!("a shard ended unexpectedly");
            }
            // These end only because of a bug, which the panic hook has reported. Without them, the server would only
            // appear to work.
            _ = self.lanes.join_next() => bail!("a lane ended unexpectedly"),
            _ = &mut self.reader => bail!("the reader ended unexpectedly"),
            _ = &mut self.bus => bail!("the bus ended unexpectedly"),
            _ = &mut self.webhooks => bail!("what sends to webhooks ended unexpectedly"),
            _ = &mut self.outbox => bail!("what empties the outbox ended unexpectedly"),
            _ = &mut self.endpoint => bail!("the connection between HTTP and the shards ended unexpectedly"),
            _ = &mut self.http => bail!("the HTTP service ended unexpectedly"),
            _ = admin => bail!("the operators' port ended unexpectedly"),
            _ = redirect => bail!("the port that leads to https ended unexpectedly"),
            _ = audit => bail!("the task that writes the audit log ended unexpectedly"),
            _ = clock => bail!("the comparison of clocks ended unexpectedly"),
            _ = generation => bail!("the task that follows the database's generation ended unexpectedly"),
            _ = revocations => bail!("the search for revoked tokens ended unexpectedly"),
            _ = keys => bail!("the task that fetches the keys of the identity provider ended unexpectedly"),
            _ = load => bail!("the task that tells the other nodes what this one serves ended unexpectedly"),
            result = certificate => match result {
                Ok(Err(error)) => Err(error),
                _ => bail!("the task that keeps the certificate up to date ended unexpectedly"),
            },
        }
    }

    /// Stops HTTP, the shards, and then the tasks that write to the database, within `stop_timeout_ms`.
    ///
    /// # Errors
    /// If a shard fails while it drains.
    pub(super) async fn stop(mut self, limits: &Limits) -> Result<()> {
        self.chat.set_stopping();
        let timeout = Duration::from_millis(limits.stop_timeout_ms);
        match tokio::time::timeout(timeout, self.stop_in_order()).await {
            Ok(result) => result?,
            Err(_) => tracing::warn!(
                "stopped before everything was finished, after {} ms (stop_timeout_ms)",
                limits.stop_timeout_ms
            ),
        }
        self.reader.abort();
        self.bus.abort();
        self.webhooks.abort();
        self.outbox.abort();
        self.endpoint.abort();
        Ok(())
    }

    async fn stop_in_order(&mut self) -> Result<()> {
        // What is not delivered is sent after the next start, or by another node.
        let _ = self.stop_webhooks.send(true);
        let _ = self.stop_outbox.send(true);
        // HTTP comes first, because its publishes need the shards, and likewise the outbox.
        let _ = self.drain_http.send(true);
        let requests = async { tokio::join!(&mut self.http, &mut self.outbox) };
        let _ = tokio::time::timeout(HTTP_STOP_TIMEOUT, requests).await;
        let _ = tokio::time::timeout(AUDIT_STOP_TIMEOUT, self.service.finish_audit()).await;
        self.shards.drain();
        while let Some(result) = self.shard_results.recv().await {
            result?;
        }
        // Lanes and reader stop at the same time, as neither needs the other.
        let _ = self.stop_writers.send(true);
        while self.lanes.join_next().await.is_some() {}
        let _ = (&mut self.reader).await;
        let _ = (&mut self.webhooks).await;
        // It has announced what the shards told it, and says goodbye: the others then look at the heads themselves.
        let _ = self.stop_bus.send(true);
        let _ = (&mut self.bus).await;
        Ok(())
    }
}

/// The task of a node that learns what the others have revoked. A lone server has no such task.
fn follow_revocations(
    setup: &Setup<'_>,
    chat: &Arc<Chat>,
    revoked: Arc<Notify>,
) -> impl Future<Output = ()> + Send + 'static {
    let poll = setup.is_node.then(|| revocations::Poll {
        store: Arc::clone(&setup.store),
        chat: Arc::clone(chat),
        lease: setup.lease.clone(),
        interval: Duration::from_millis(setup.limits.lease_ms / 2),
        revoked,
        known_until: setup.revocations_read_at,
    });
    async {
        match poll {
            Some(poll) => poll.run().await,
            None => std::future::pending().await,
        }
    }
}

/// Spawns one task per lane. The receiver gets the reason if a lane can commit nothing more.
fn spawn_lanes(
    setup: &Setup<'_>,
    ports: Vec<Port<Message>>,
    metrics: &Arc<LaneMetrics>,
    stop: &watch::Receiver<bool>,
    runtime: &Handle,
) -> (JoinSet<()>, mpsc::Receiver<String>) {
    let (broken, is_broken) = mpsc::channel(1);
    let mut lanes = JoinSet::new();
    for (number, port) in ports.into_iter().enumerate() {
        let lane = run_lane(LaneSetup {
            lane: Lane::new(setup.limits.clone()),
            port,
            store: Arc::clone(&setup.store),
            placement: Placement::new(setup.seed, setup.shards),
            metrics: Arc::clone(metrics),
            stop: stop.clone(),
            broken: broken.clone(),
            number: number as u16,
            tracer: setup.tracer.clone(),
        });
        lanes.spawn_on(lane, runtime);
    }
    (lanes, is_broken)
}

/// Starts one thread per shard. The receiver gets the result of each shard that ends.
fn spawn_shards(
    setup: &Setup<'_>,
    ends: impl Iterator<Item = (Port<Message>, Control, OfShard)>,
    hooks: &Hooks,
    http: &mpsc::Sender<HandOver>,
) -> Result<mpsc::UnboundedReceiver<Result<()>>> {
    let (results, shard_results) = mpsc::unbounded_channel();
    let cores = driver::cores();
    for (id, (port, control, listeners)) in ends.enumerate() {
        let config = ShardConfig {
            id: id as u16,
            shards: setup.shards,
            lanes: setup.lanes,
            limits: setup.limits.clone(),
            verify: Arc::clone(&hooks.verify),
            echo: setup.options.echo,
            query_token: setup.options.query_token,
            allow_origin: Arc::clone(&hooks.allow_origin),
            seed: setup.seed,
            revocations: setup.revocations.clone(),
            bus: Arc::clone(&setup.bus),
            lease: setup.lease.clone(),
        };
        let core = setup.core_of(id, &cores);
        let tls = setup.tls.as_ref().map(|tls| tls.config.clone());
        let http = http.clone();
        let clock = setup.store.clock();
        let may_use_epoll = setup.options.driver.requested().is_none();
        let thread = ShardThread {
            driver: setup.driver,
            config,
            clock,
            listeners,
            tls,
            port,
            control,
            http,
            may_use_epoll,
            core,
        };
        thread.spawn(results.clone()).context("can't start a shard's thread")?;
    }
    Ok(shard_results)
}

/// Everything that a shard's thread needs. The thread creates the shard itself, as a shard can't move between threads.
struct ShardThread {
    driver: Driver,
    config: ShardConfig,
    clock: Clock,
    listeners: OfShard,
    tls: Option<Config>,
    port: Port<Message>,
    control: Control,
    http: mpsc::Sender<HandOver>,
    may_use_epoll: bool,
    core: Option<usize>,
}

impl ShardThread {
    /// Starts the thread, which sends its result to `results` when it ends.
    fn spawn(self, results: mpsc::UnboundedSender<Result<()>>) -> std::io::Result<()> {
        let id = self.config.id;
        std::thread::Builder::new().name(format!("shard-{id}")).spawn(move || {
            // The panic hook logs a panic. Here it becomes an error that ends the process.
            let result = catch_unwind(AssertUnwindSafe(|| self.run()));
            let _ = results.send(result.unwrap_or_else(|_| Err(anyhow!("shard {id} failed; see the line above"))));
        })?;
        Ok(())
    }

    fn run(self) -> Result<()> {
        let ShardThread {
            driver,
            config,
            clock,
            listeners: OfShard { plain, tls: encrypted },
            tls,
            port,
            control,
            http,
            may_use_epoll,
            core,
        } = self;
        let limits = config.limits.clone();
        let shard = Shard::new(config);
        let tls = tls.map(|config| TlsSetup { config, listeners: encrypted });
        let listeners = plain;
        Ok(driver.run(ShardSetup { shard, limits, clock, listeners, tls, port, control, http, may_use_epoll, core })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cli;
    use crate::issuers;
    use crate::server::Opened;
    use crate::server::listeners::Addresses;
    use clap::Parser;
    use std::path::Path;
    use std::pin::pin;
    use uproar_http::Tokens;
    use uproar_store::{DataFolder, OpenOptions};

    async fn spawn(folder: &Path) -> (Threads, SharedStore) {
        let data = DataFolder::open(folder.join("data")).unwrap();
        let options = Cli::parse_from(["uproar", "--shards", "1"]).options;
        let url = uproar_store::DatabaseUrl::Sqlite(data.database_path());
        let store = uproar_store::open(&url, &data, OpenOptions::default()).await.unwrap();
        let tokens = Arc::new(Tokens::from_key(&[7; 32]).unwrap());
        let limits = Limits { stop_timeout_ms: 100, ..Limits::default() };
        let issuers = issuers::Settings::default();
        let opened = Opened { folder: data, tokens, issuers, store: Arc::clone(&store) };
        let setup = Setup::load(&options, Driver::Epoll, limits, None, None, &opened).await.unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let addresses = Addresses { plain: vec![any], tls: Vec::new(), admin: Some(any), redirect: Some(any) };
        let listeners = Listeners::bind(&addresses, &setup).await.unwrap();
        let (parts, runtime) = (Parts::build(&setup).unwrap(), Handle::current());
        let threads = Threads::spawn(&setup, parts, listeners, &runtime, &runtime).unwrap();
        (threads, store)
    }

    /// A panic would have the same effect. Without one of its tasks, the server would only appear to work.
    #[tokio::test]
    async fn the_server_ends_when_one_of_its_tasks_has_ended() {
        type End = fn(&mut Threads);
        let tasks: [(End, &str); 13] = [
            (|threads| threads.http.abort(), "HTTP service"),
            (|threads| threads.others.admin.abort(), "operators' port"),
            (|threads| threads.others.redirect.abort(), "leads to https"),
            (|threads| threads.others.audit.abort(), "audit log"),
            (|threads| threads.others.clock.abort(), "clocks"),
            (|threads| threads.others.generation.abort(), "generation"),
            (|threads| threads.others.revocations.abort(), "revoked tokens"),
            (|threads| threads.others.certificate.abort(), "certificate"),
            (|threads| threads.endpoint.abort(), "between HTTP and the shards"),
            (|threads| threads.reader.abort(), "reader"),
            (|threads| threads.bus.abort(), "bus"),
            (|threads| threads.webhooks.abort(), "webhooks"),
            (|threads| threads.lanes.abort_all(), "lane"),
        ];
        for (end, reason) in tasks {
            let folder = tempfile::tempdir().unwrap();
            let (mut threads, store) = spawn(folder.path()).await;
            end(&mut threads);
            let mut signals = Signals::catch(false).unwrap();
            let wait = threads.wait(&mut signals, &store);
            let error = tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap().unwrap_err().to_string();
            assert!(error.contains(reason) && error.ends_with("ended unexpectedly"), "{error}");
            threads.shards.drain();
        }
    }

    #[tokio::test]
    async fn the_watchdog_notices_each_part_that_makes_no_progress() {
        type Stop = fn(&mut Threads);
        let parts: [(Stop, &str); 6] = [
            (|threads| threads.shards.drain(), "Shard(0)"),
            (|threads| threads.lanes.abort_all(), "Lane(0)"),
            (|threads| threads.reader.abort(), "Reader"),
            (|threads| threads.endpoint.abort(), "Http"),
            (|threads| threads.bus.abort(), "Bus"),
            (|threads| threads.http.abort(), "HTTP"),
        ];
        for (stop, name) in parts {
            let folder = tempfile::tempdir().unwrap();
            let (mut threads, _store) = spawn(folder.path()).await;
            let watchdog = Arc::clone(&threads.watchdog);
            let asked = tokio::time::timeout(Duration::from_secs(60), watchdog.ask_all()).await;
            assert!(asked.is_ok(), "{} does not answer although it runs", watchdog.awaited());
            stop(&mut threads);
            // What was stopped may take a last turn meanwhile.
            let awaits_it = async {
                let mut asks = pin!(watchdog.ask_all());
                loop {
                    let asked = tokio::time::timeout(Duration::from_millis(200), asks.as_mut()).await;
                    match asked {
                        Ok(()) => asks.set(watchdog.ask_all()),
                        Err(_) if watchdog.awaited() == name => return,
                        Err(_) => {}
                    }
                }
            };
            let noticed = tokio::time::timeout(Duration::from_secs(60), awaits_it).await;
            assert!(noticed.is_ok(), "the watchdog awaits {} instead of {name}", watchdog.awaited());
            threads.shards.drain();
        }
    }
}
