//! Traces (OpenTelemetry): spans of HTTP calls and of commits, for a collector. Without `--otlp` none of this exists.
//!
//! [`Tracer`] takes spans from the HTTP service and the lanes, and never waits: what does not fit into its queue is
//! dropped and counted. The [`Exporter`] sends them from a task of its own. No span holds text that a client has
//! written, so that the number of spans bounds their memory.

mod collector;
mod exporter;
mod span;
mod wire;

pub use collector::Collector;
pub use exporter::Exporter;
pub use span::{Commit, CommitOutcome};

use span::Span;
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use uproar_http::{Call, Caller, SpanContext, Traces};

/// Spans that may wait to be sent.
const WAITING_LIMIT_SPANS: usize = 2048;

/// Which share of the traces is recorded, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
        share.map(Share).ok_or_else(|| "it takes a number from 0 to 1, such as 0.1".to_owned())
    }
}

/// What happened to spans.
#[derive(Debug, Default)]
pub struct TraceMetrics {
    /// They have found a place in the queue.
    pub queued: AtomicU64,
    /// The collector has taken them.
    pub sent: AtomicU64,
    /// The collector has refused them, or could not be reached for too long.
    pub failed: AtomicU64,
    /// There was no place for them, because the collector is slow or away.
    pub dropped: AtomicU64,
}

impl TraceMetrics {
    /// Counts all spans that are neither sent nor given up as failed, and returns how many these are.
    fn give_up_waiting(&self) -> u64 {
        let [queued, sent, failed] = [&self.queued, &self.sent, &self.failed].map(|it| it.load(Ordering::Relaxed));
        let waiting = queued.saturating_sub(sent + failed);
        self.failed.fetch_add(waiting, Ordering::Relaxed);
        waiting
    }
}

/// Takes spans from everywhere.
pub struct Tracer {
    spans: mpsc::Sender<Span>,
    share: Share,
    metrics: Arc<TraceMetrics>,
    /// The spans of the calls whose message is on its way to the database, by the number of the call.
    publishing: Mutex<HashMap<u64, SpanContext>>,
}

impl Tracer {
    /// A tracer, and the other end of its queue.
    fn new(share: Share, metrics: Arc<TraceMetrics>) -> (Tracer, mpsc::Receiver<Span>) {
        let (spans, receiver) = mpsc::channel(WAITING_LIMIT_SPANS);
        (Tracer { spans, share, metrics, publishing: Mutex::default() }, receiver)
    }

    pub fn metrics(&self) -> &TraceMetrics {
        &self.metrics
    }

    /// Expects the commit of a call's message, until the guard is dropped. `number` identifies the call.
    pub fn publishing(&self, number: u64, call: SpanContext) -> Publishing<'_> {
        self.publishing.lock().unwrap_or_else(PoisonError::into_inner).insert(number, call);
        Publishing { tracer: self, number }
    }

    /// Takes the span of a commit that has just ended. `calls`: the numbers of the calls that sent messages in it. It
    /// belongs to the trace of the first one that has a span, and is linked to the others.
    pub fn committed(&self, commit: Commit, calls: impl Iterator<Item = u64>) {
        let mut calls = calls.peekable();
        let mut spans = Vec::new();
        if calls.peek().is_some() {
            let publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
            spans.extend(calls.filter_map(|number| publishing.get(&number)).take(span::LINKS_LIMIT));
        }
        let mut spans = spans.into_iter();
        let parent = spans.next();
        let context = match parent {
            Some(parent) => Some(SpanContext { span: random_span(), ..parent }),
            None => self.new_trace(),
        };
        if let Some(context) = context {
            let began = SystemTime::now().checked_sub(commit.took).unwrap_or(UNIX_EPOCH);
            self.take(Span::Commit { context, parent, links: spans.collect(), began, commit });
        }
    }

    /// The first span of a trace, if it is one of those that are recorded.
    fn new_trace(&self) -> Option<SpanContext> {
        let trace = random_trace();
        // The lower half decides, as in OpenTelemetry's TraceIdRatioBased.
        let is_recorded = self.share.0 >= 1.0 || (trace as u64 as f64) < self.share.0 * u64::MAX as f64;
        is_recorded.then(|| SpanContext { trace, span: random_span() })
    }

    fn take(&self, span: Span) {
        let count = if self.spans.try_send(span).is_ok() { &self.metrics.queued } else { &self.metrics.dropped };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Traces for Tracer {
    /// A trusted caller decides whether its trace is recorded. Anyone else begins a new trace, so that strangers can
    /// neither add to the traces of others nor have more recorded than the operator wants.
    fn begin(&self, caller: Option<Caller>) -> Option<SpanContext> {
        match caller.filter(|caller| caller.is_trusted) {
            Some(caller) => caller.is_sampled.then(|| SpanContext { span: random_span(), ..caller.context }),
            None => self.new_trace(),
        }
    }

    fn end(&self, call: Call) {
        self.take(Span::Call(call));
    }
}

/// While it exists, the commit of a call's message is connected with the call.
pub struct Publishing<'a> {
    tracer: &'a Tracer,
    number: u64,
}

impl Drop for Publishing<'_> {
    fn drop(&mut self) {
        self.tracer.publishing.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// Ids must be unique and are not secret, so it does not matter if the system has no random numbers for a moment.
fn random_span() -> u64 {
    getrandom::u64().unwrap_or_default().max(1)
}

fn random_trace() -> u128 {
    u128::from(random_span()) << 64 | u128::from(random_span())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const CALLER: SpanContext = SpanContext { trace: 5, span: 6 };

    fn tracer(share: f64) -> (Tracer, mpsc::Receiver<Span>) {
        Tracer::new(Share(share), Arc::default())
    }

    fn commit() -> Commit {
        let took = Duration::from_millis(1);
        Commit { lane: 0, took, items: 3, outcome: CommitOutcome::Answered { stored: 3 } }
    }

    #[test]
    fn a_share_of_the_traces_is_recorded() {
        for (share, least, most) in [(0.0, 0, 0), (0.5, 300, 700), (1.0, 1000, 1000)] {
            let (tracer, _spans) = tracer(share);
            let recorded = (0..1000).filter(|_| tracer.begin(None).is_some()).count();
            assert!((least..=most).contains(&recorded), "{recorded} of 1000 with {share}");
        }
        for text in ["", "2", "-0.1", "NaN", "half"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_trusted_caller_decides_and_others_do_not() {
        let caller = |is_sampled, is_trusted| Some(Caller { context: CALLER, is_sampled, is_trusted });
        let (none, all) = (tracer(0.0).0, tracer(1.0).0);
        let continued = none.begin(caller(true, true)).unwrap();
        assert!(continued.trace == CALLER.trace && continued.span != CALLER.span);
        assert_eq!(all.begin(caller(false, true)), None);
        assert_eq!(none.begin(caller(true, false)), None);
        assert_ne!(all.begin(caller(false, false)).unwrap().trace, CALLER.trace);
    }

    #[test]
    fn a_commit_belongs_to_the_first_call_with_a_span_and_is_linked_to_the_others() {
        // What calls have recorded is recorded whole.
        let (tracer, mut spans) = tracer(0.0);
        let call = |trace| SpanContext { trace, span: 7 };
        let guards = [(2, call(2)), (3, call(3)), (4, call(4))].map(|(number, call)| tracer.publishing(number, call));
        tracer.committed(commit(), [1, 2, 3].into_iter());
        let Ok(Span::Commit { context, parent, links, .. }) = spans.try_recv() else { panic!("no span") };
        assert_eq!((context.trace, parent, links), (2, Some(call(2)), vec![call(3)]));
        drop(guards);
        tracer.committed(commit(), [2].into_iter());
        assert!(spans.try_recv().is_err(), "it would be a trace of its own, of which none is recorded");
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (tracer, _spans) = tracer(1.0);
        for _ in 0..WAITING_LIMIT_SPANS + 3 {
            tracer.committed(commit(), std::iter::empty());
        }
        assert_eq!(tracer.metrics().dropped.load(Ordering::Relaxed), 3);
    }
}
