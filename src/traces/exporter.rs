//! The task that sends spans to the collector, in batches, until the server stops.

use super::collector::{Accepted, Collector, Failure, Retry};
use super::span::{self, Span};
use super::wire::{Request, Resource, ResourceSpans, Scope, ScopeSpans};
use super::{Share, TraceMetrics, Tracer, random_span};
use bytes::Bytes;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use uproar_model::fairness::{LogLimit, Rate};

/// How many spans are sent at once.
const BATCH_LIMIT_SPANS: usize = 512;
/// How long the first span of a batch waits for others.
const BATCH_INTERVAL: Duration = Duration::from_secs(5);
/// The pauses after failures double from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// For how long the same batch is sent again and again. Then newer spans are worth more.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the server waits at its end for the collector to take the last spans.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often failures are logged.
const LOG_RATE: Rate = Rate::per_minute(1, 1);

/// The running task.
pub struct Exporter {
    url: String,
    metrics: Arc<TraceMetrics>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Starts to send to the collector. `database`: the name of the database system, as in spans.
    pub fn start(collector: Collector, share: Share, database: &'static str) -> (Arc<Tracer>, Exporter) {
        let metrics = Arc::new(TraceMetrics::default());
        let (tracer, spans) = Tracer::new(share, Arc::clone(&metrics));
        let (stop, stopped) = oneshot::channel();
        let url = collector.to_string();
        tracing::info!("traces go to {url}");
        let sender = Sender {
            collector,
            resource: resource(random_span()),
            database,
            metrics: Arc::clone(&metrics),
            stopped,
            is_stopping: false,
            pacing: Pacing::new(Instant::now()),
            began: Instant::now(),
            log: LogLimit::new(LOG_RATE),
            has_logged_failure: false,
        };
        let task = tokio::spawn(sender.run(spans));
        (Arc::new(tracer), Exporter { url, metrics, stop, task })
    }

    /// Sends what waits, and stops. It takes `FLUSH_TIMEOUT` at most.
    pub async fn stop(self) {
        let Exporter { url, metrics, stop, mut task } = self;
        let _ = stop.send(());
        if timeout(FLUSH_TIMEOUT, &mut task).await.is_err() {
            task.abort();
        }
        let spans = metrics.give_up_waiting();
        if spans > 0 {
            tracing::warn!(spans, "the last traces were not sent to {url}");
        }
    }
}

/// The task's state.
struct Sender {
    collector: Collector,
    resource: Resource,
    database: &'static str,
    metrics: Arc<TraceMetrics>,
    stopped: oneshot::Receiver<()>,
    is_stopping: bool,
    pacing: Pacing,
    began: Instant,
    log: LogLimit,
    /// Whether the last thing that was logged is a failure.
    has_logged_failure: bool,
}

impl Sender {
    async fn run(mut self, mut spans: mpsc::Receiver<Span>) {
        while !self.is_stopping {
            let batch = self.next_batch(&mut spans).await;
            self.deliver(batch).await;
        }
        // Usually, everything that could make a span has ended. After an error it may not have.
        spans.close();
        loop {
            let mut batch = Vec::new();
            while batch.len() < BATCH_LIMIT_SPANS
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() || !self.deliver(batch).await {
                return;
            }
        }
    }

    /// Waits for spans, until there are enough or they have waited long enough, or the server stops.
    async fn next_batch(&mut self, spans: &mut mpsc::Receiver<Span>) -> Vec<Span> {
        let mut batch = Vec::new();
        let mut full_at = None;
        while batch.len() < BATCH_LIMIT_SPANS {
            let missing = BATCH_LIMIT_SPANS - batch.len();
            tokio::select! {
                received = spans.recv_many(&mut batch, missing) => {
                    if received == 0 {
                        // Nobody is left who could make a span.
                        self.is_stopping = true;
                        break;
                    }
                    full_at.get_or_insert_with(|| Instant::now() + BATCH_INTERVAL);
                }
                () = wait_until(full_at) => break,
                _ = &mut self.stopped => {
                    self.is_stopping = true;
                    break;
                }
            }
        }
        batch
    }

    /// Sends a batch, again and again if that may help. `false`: in vain. Such spans are counted here, except for those
    /// of the end.
    async fn deliver(&mut self, batch: Vec<Span>) -> bool {
        if batch.is_empty() {
            return true;
        }
        let spans = batch.len() as u64;
        let body = self.encode(batch);
        let give_up_at = Instant::now() + BATCH_TIMEOUT;
        loop {
            self.pause().await;
            let Failure { reason, retry } = match self.collector.send(body.clone()).await {
                Ok(accepted) => {
                    self.pacing = Pacing::new(Instant::now());
                    self.on_accepted(spans, &accepted);
                    return true;
                }
                Err(failure) => failure,
            };
            self.log_failure(&reason);
            let now = Instant::now();
            let Some(retry) = retry else {
                self.pacing = Pacing::new(now);
                break;
            };
            self.pacing.slow_down(now, &retry);
            if self.is_stopping || now > give_up_at {
                break;
            }
        }
        if !self.is_stopping {
            self.metrics.failed.fetch_add(spans, Ordering::Relaxed);
        }
        false
    }

    /// Waits until something may be sent, or until the server stops: then there is one more attempt.
    async fn pause(&mut self) {
        if !self.is_stopping {
            tokio::select! {
                () = sleep_until(self.pacing.next_at) => {}
                _ = &mut self.stopped => self.is_stopping = true,
            }
        }
    }

    fn on_accepted(&mut self, spans: u64, accepted: &Accepted) {
        let rejected = accepted.rejected.min(spans);
        self.metrics.sent.fetch_add(spans - rejected, Ordering::Relaxed);
        self.metrics.failed.fetch_add(rejected, Ordering::Relaxed);
        let warning = &accepted.warning;
        if rejected > 0 {
            self.log_failure(&format!("it took all but {rejected} of {spans} spans: {warning}"));
            return;
        }
        if std::mem::take(&mut self.has_logged_failure) {
            tracing::info!("spans are sent to {} again", self.collector);
        }
        if !warning.is_empty()
            && let Some(unlogged) = self.admit_line()
        {
            tracing::warn!(warning, unlogged, "the collector {} takes the traces, but has a warning", self.collector);
        }
    }

    /// Logs that the collector did not take all spans, unless that was logged a moment ago.
    fn log_failure(&mut self, reason: &str) {
        if let Some(unlogged) = self.admit_line() {
            tracing::warn!(reason, unlogged, "the collector {} does not take the traces", self.collector);
            self.has_logged_failure = true;
        }
    }

    /// Whether a line may be logged, and how many were left out before it.
    fn admit_line(&mut self) -> Option<u64> {
        self.log.admit(self.began.elapsed().as_millis() as u64)
    }

    fn encode(&self, batch: Vec<Span>) -> Bytes {
        let spans = batch.into_iter().map(|span| span.encode(self.database)).collect();
        let scope = Scope { name: "uproar".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
        let resource_spans = vec![ResourceSpans { resource: Some(self.resource.clone()), scope_spans }];
        Request { resource_spans }.encode_to_vec().into()
    }
}

/// When the collector may be asked again, whichever spans it then gets.
struct Pacing {
    next_at: Instant,
    /// The pause after the next failure.
    pause: Duration,
}

impl Pacing {
    fn new(now: Instant) -> Pacing {
        Pacing { next_at: now, pause: FIRST_PAUSE }
    }

    /// The collector has failed for a while.
    fn slow_down(&mut self, now: Instant, retry: &Retry) {
        let wait = match retry {
            // It may ask for no pause at all, each time.
            Retry::After(wait) => self.pause.max(*wait),
            // A random part keeps servers that failed together from trying again together.
            Retry::Anytime => self.pause.mul_f64(0.5 + f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX)),
        };
        self.next_at = now + wait;
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
    }
}

/// Waits; without a time, for ever.
async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What all spans have in common. `instance` is another one at each start.
fn resource(instance: u64) -> Resource {
    Resource {
        attributes: vec![
            span::text("service.name", "uproar"),
            span::text("service.version", env!("CARGO_PKG_VERSION")),
            span::text("service.instance.id", &format!("{instance:016x}")),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Commit, CommitOutcome};
    use super::*;
    use http::HeaderMap;

    #[tokio::test]
    async fn spans_that_are_left_at_the_end_have_failed() {
        // Nobody listens there.
        let collector = Collector::new("http://127.0.0.1:1", HeaderMap::new()).unwrap();
        let (tracer, exporter) = Exporter::start(collector, "1".parse().unwrap(), "sqlite");
        let outcome = CommitOutcome::Answered { stored: 1 };
        for _ in 0..BATCH_LIMIT_SPANS + 1 {
            tracer.committed(Commit { lane: 0, took: Duration::ZERO, items: 1, outcome }, std::iter::empty());
        }
        exporter.stop().await;
        let metrics = tracer.metrics();
        let counts = [&metrics.failed, &metrics.sent, &metrics.dropped].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts, [BATCH_LIMIT_SPANS as u64 + 1, 0, 0]);
    }

    #[test]
    fn the_pause_is_what_the_collector_asks_for_but_never_shorter_than_the_servers_own() {
        let now = Instant::now();
        let mut pacing = Pacing::new(now);
        assert_eq!(pacing.next_at, now);
        for (asked, pause) in [(0, 1), (0, 2), (60, 60), (7, 8), (0, 8)] {
            pacing.slow_down(now, &Retry::After(Duration::from_secs(asked)));
            assert_eq!(pacing.next_at - now, Duration::from_secs(pause));
        }
        pacing.slow_down(now, &Retry::Anytime);
        assert!((4..=12).contains(&(pacing.next_at - now).as_secs()));
    }
}
