//! Renders all metrics in the Prometheus text format.

mod process;

use crate::lanes::LaneMetrics;
use crate::outbox;
use crate::output;
use crate::traces::TraceMetrics;
use crate::webhooks;
pub use process::Process;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use uproar_core::BusMetrics;
use uproar_core::limits::Limits;
use uproar_core::metrics::{BUCKETS_MS, Histogram, ShardMetrics};

/// What the shards answered when they were asked for their metrics.
pub struct ShardAnswers {
    /// Empty: one of them did not answer in time. Its metrics are then left out, as zeros would look like a restart.
    pub by_shard: Vec<ShardMetrics>,
    /// How long the slowest one took, or was waited for.
    pub delay: Duration,
}

/// All metrics. Those that show whether shards are balanced have one series per shard; the others are sums.
/// Without traces, nothing has happened to spans.
#[expect(clippy::too_many_arguments, reason = "they have nothing in common")]
pub fn text(
    answers: &ShardAnswers,
    lanes: &LaneMetrics,
    bus: &BusMetrics,
    webhooks: &webhooks::Status,
    outbox: Option<&outbox::Status>,
    limits: &Limits,
    process: &Process,
    traces: Option<&TraceMetrics>,
) -> String {
    let ShardAnswers { by_shard: shards, delay } = answers;
    let mut out = Text(String::with_capacity(8192));
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    out.family("uproar_build_info", "gauge", "Always 1; the label has the version.", [(version, 1)]);
    process.write(&mut out);
    let delayed = "Time that the slowest shard took to answer for these metrics; 1 if it did not answer.";
    out.family("uproar_shard_delay_seconds", "gauge", delayed, [(String::new(), delay.as_secs_f64())]);
    let limit = "The limit connections_per_shard_limit, lowered to what the open files allow.";
    let most = limits.connections_per_shard_limit;
    out.family("uproar_connections_per_shard_limit", "gauge", limit, [(String::new(), most)]);
    let limit = "The limit shard_outbound_limit_bytes.";
    let most = limits.shard_outbound_limit_bytes;
    out.family("uproar_shard_outbound_limit_bytes", "gauge", limit, [(String::new(), most)]);
    let by_shard = |metric: fn(&ShardMetrics) -> u64| {
        shards.iter().enumerate().map(move |(shard, metrics)| (format!("{{shard=\"{shard}\"}}"), metric(metrics)))
    };
    out.family("uproar_connections", "gauge", "Open connections.", by_shard(|f| f.connections));
    out.family(
        "uproar_subscriptions",
        "gauge",
        "Subscriptions of connections to channels.",
        by_shard(|f| f.subscriptions),
    );
    out.family("uproar_homes", "gauge", "Rooms and live: channels whose home is on the shard.", by_shard(|f| f.homes));
    let waiting = "Bytes waiting to be written; shared buffers count once.";
    out.family("uproar_outbound_bytes", "gauge", waiting, by_shard(|f| f.outbound_bytes));
    out.family("uproar_received_total", "counter", "WebSocket messages received.", by_shard(|f| f.received));
    out.family(
        "uproar_publications_total",
        "counter",
        "Publications shown to subscribers.",
        by_shard(|f| f.publications),
    );
    let deliveries = "Publications put into the queues of subscribers.";
    out.family("uproar_deliveries_total", "counter", deliveries, by_shard(|f| f.deliveries));
    out.family("uproar_sent_bytes_total", "counter", "Bytes written to WebSockets.", by_shard(|f| f.sent_bytes));
    let sum = |map: fn(&ShardMetrics) -> &BTreeMap<u16, u64>, label: &'static str| {
        let mut all: BTreeMap<u16, u64> = BTreeMap::new();
        for (key, count) in shards.iter().flat_map(map) {
            *all.entry(*key).or_default() += count;
        }
        all.into_iter().map(move |(key, count)| (format!("{{{label}=\"{key}\"}}"), count))
    };
    let ended = "Connections closed by the server, by close code; 3008 stands for slow readers.";
    out.family("uproar_ended_total", "counter", ended, sum(|f| &f.closed, "code"));
    out.family("uproar_upgrades_refused_total", "counter", "Upgrades refused.", sum(|f| &f.rejected, "status"));
    out.family("uproar_errors_total", "counter", "Messages refused, by error code.", sum(|f| &f.errors, "code"));
    let mut clients: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, count) in shards.iter().flat_map(|metrics| &metrics.clients) {
        *clients.entry(name).or_default() += count;
    }
    let clients = clients.into_iter().map(|(name, count)| (format!("{{sdk=\"{name}\"}}"), count));
    let connects = "Clients of the Centrifugo protocol that connected with a valid token, by the name of their SDK.";
    out.family("uproar_connects_total", "counter", connects, clients);
    let committed = "Time from the arrival of a publish to its commit.";
    out.histogram("uproar_commit_seconds", committed, shards.iter().map(|f| &f.committed_ms));
    let written = "Time from showing a publication to writing it to the last socket of a shard.";
    out.histogram("uproar_written_seconds", written, shards.iter().map(|f| &f.written_ms));

    let read = |value: &std::sync::atomic::AtomicU64| [(String::new(), value.load(Ordering::Relaxed))];
    out.family("uproar_batches_total", "counter", "Batches that the database has answered.", read(&lanes.batches));
    out.family("uproar_batch_items_total", "counter", "Items in answered batches.", read(&lanes.items));
    out.family("uproar_stored_total", "counter", "Items stored by answered batches.", read(&lanes.stored));
    let micros = lanes.commit_micros.load(Ordering::Relaxed);
    out.family(
        "uproar_batch_seconds_total",
        "counter",
        "Time that answered batches took.",
        [(String::new(), micros as f64 / 1e6)],
    );
    let unknown = "Attempts to write a batch whose outcome is unknown.";
    out.family("uproar_batches_unknown_total", "counter", unknown, read(&lanes.unknown));
    let dropped = "Lines of the log that were dropped because they could not be written.";
    out.family("uproar_log_lines_dropped_total", "counter", dropped, [(String::new(), output::lines_dropped())]);
    if bus.exists.load(Ordering::Relaxed) {
        write_bus(&mut out, bus);
    }
    if !webhooks.hooks.is_empty() {
        write_webhooks(&mut out, webhooks);
    }
    if let Some(outbox) = outbox {
        write_outbox(&mut out, outbox);
    }
    let none = TraceMetrics::default();
    let traces = traces.unwrap_or(&none);
    out.family("uproar_spans_sent_total", "counter", "Spans that the collector has taken.", read(&traces.sent));
    let failed = "Spans that the collector refused, or that could not be sent for too long.";
    out.family("uproar_spans_failed_total", "counter", failed, read(&traces.failed));
    let dropped = "Spans that were dropped because too many waited to be sent.";
    out.family("uproar_spans_dropped_total", "counter", dropped, read(&traces.dropped));
    out.0
}

/// What only a node of a cluster has.
fn write_bus(out: &mut Text, bus: &BusMetrics) {
    let read = |value: &AtomicU64| [(String::new(), value.load(Ordering::Relaxed))];
    let connected = u64::from(bus.connected.load(Ordering::Relaxed));
    let help = "1 if what this node sends on the bus comes back, otherwise 0.";
    out.family("uproar_bus_connected", "gauge", help, [(String::new(), connected)]);
    out.family("uproar_bus_peers", "gauge", "Other nodes that are heard on the bus.", read(&bus.peers));
    let help = "Time that the last beat took to come back over the bus.";
    let lag = bus.lag_micros.load(Ordering::Relaxed) as f64 / 1e6;
    out.family("uproar_bus_lag_seconds", "gauge", help, [(String::new(), lag)]);
    out.family("uproar_bus_announced_total", "counter", "Announcements of this node.", read(&bus.announced));
    let help = "Announcements of this node that were dropped because too many waited.";
    out.family("uproar_bus_dropped_total", "counter", help, read(&bus.dropped));
    out.family("uproar_bus_received_total", "counter", "Announcements of other nodes.", read(&bus.received));
    let help = "Announcements of other nodes that did not arrive; what they were about was read from the database.";
    out.family("uproar_bus_missed_total", "counter", help, read(&bus.missed));
    let help = "Messages on the bus that were no announcements of this cluster.";
    out.family("uproar_bus_ignored_total", "counter", help, read(&bus.ignored));
}

fn write_webhooks(out: &mut Text, webhooks: &webhooks::Status) {
    let label = |name: &str| format!("{{webhook=\"{name}\"}}");
    let count = |count: fn(&webhooks::HookStatus) -> &AtomicU64| {
        webhooks.hooks.iter().map(move |hook| (label(&hook.name), count(hook).load(Ordering::Relaxed)))
    };
    // Of several nodes, the one that sends knows the lag.
    let current: Vec<_> = webhooks.hooks.iter().map(|hook| (label(&hook.name), hook.lock().clone())).collect();
    let sending = || current.iter().filter(|(_, current)| current.state != webhooks::State::Standby);
    let help = "Publications that wait for the webhook's receiver, at least.";
    let lag = sending().map(|(label, current)| (label.clone(), current.lag.publications));
    out.family("uproar_webhook_lag_publications", "gauge", help, lag);
    let help = "Age of the oldest publication that waits for the webhook's receiver.";
    let age = sending().map(|(label, current)| (label.clone(), webhooks.lag_seconds(&current.lag)));
    out.family("uproar_webhook_lag_seconds", "gauge", help, age);
    let help = "1 if the webhook is paused because its receiver has answered 410, otherwise 0.";
    let is_paused = |current: &webhooks::Current| u64::from(current.state == webhooks::State::Paused);
    let paused = current.iter().map(|(label, current)| (label.clone(), is_paused(current)));
    out.family("uproar_webhook_paused", "gauge", help, paused);
    let help = "Publications that the webhook's receiver has accepted.";
    out.family("uproar_webhook_delivered_total", "counter", help, count(|hook| &hook.delivered));
    let help = "POSTs that the webhook's receiver has accepted.";
    out.family("uproar_webhook_posts_total", "counter", help, count(|hook| &hook.posts));
    let help = "POSTs that the webhook's receiver has not accepted.";
    out.family("uproar_webhook_failures_total", "counter", help, count(|hook| &hook.failures));
    let help = "Publications that were given up because the webhook's receiver did not accept them for too long.";
    out.family("uproar_webhook_given_up_total", "counter", help, count(|hook| &hook.given_up));
}

fn write_outbox(out: &mut Text, outbox: &outbox::Status) {
    let read = |count: &AtomicU64| [(String::new(), count.load(Ordering::Relaxed))];
    // Of several nodes, the one that empties the outbox knows how full it is.
    let state = outbox.state();
    let gauge = |value: u64| state.map(|_| (String::new(), value));
    let known = state.unwrap_or_default();
    out.family("uproar_outbox_rows", "gauge", "Rows of the outbox that wait.", gauge(known.waiting));
    let help = "Age of the first row of the outbox that waits.";
    let age = state.map(|state| (String::new(), outbox.age_seconds(&state)));
    out.family("uproar_outbox_age_seconds", "gauge", help, age);
    let help = "Rows that were set aside, because their commands were refused, and are still in the outbox.";
    out.family("uproar_outbox_failed_rows", "gauge", help, gauge(known.failed));
    out.family("uproar_outbox_done_total", "counter", "Rows of the outbox that were executed.", read(&outbox.done));
    let help = "Rows of the outbox that were set aside.";
    out.family("uproar_outbox_failed_total", "counter", help, read(&outbox.failed));
    let help = "Rows of the outbox that must be tried again, each time that it is so.";
    out.family("uproar_outbox_retries_total", "counter", help, read(&outbox.retries));
}

struct Text(String);

impl Text {
    /// One metric with its series: labels in braces (or nothing) and value.
    fn family<V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        series: impl IntoIterator<Item = (String, V)>,
    ) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in series {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    /// The sum of the shards' histograms; without shards, no series.
    fn histogram<'a>(&mut self, name: &str, help: &str, by_shard: impl Iterator<Item = &'a Histogram>) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} histogram");
        let all = by_shard.cloned().reduce(|mut all, histogram| {
            all.counts.iter_mut().zip(histogram.counts).for_each(|(sum, count)| *sum += count);
            all.sum_ms += histogram.sum_ms;
            all
        });
        let Some(all) = all else { return };
        let mut so_far = 0;
        for (bound, count) in BUCKETS_MS.iter().zip(all.counts) {
            so_far += count;
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{}\"}} {so_far}", *bound as f64 / 1000.0);
        }
        let _ = writeln!(self.0, "{name}_bucket{{le=\"+Inf\"}} {}", all.count());
        let _ = writeln!(self.0, "{name}_sum {}\n{name}_count {}", all.sum_ms as f64 / 1000.0, all.count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(by_shard: Vec<ShardMetrics>) -> String {
        let answers = ShardAnswers { by_shard, delay: Duration::from_millis(20) };
        text(
            &answers,
            &LaneMetrics::default(),
            &BusMetrics::default(),
            &webhooks::Status::new(&[], uproar_model::Clock::of_machine()),
            None,
            &Limits::default(),
            &Process::new(".".into(), None),
            None,
        )
    }

    #[test]
    fn the_output_is_in_the_text_format() {
        let mut first = ShardMetrics { connections: 3, ..ShardMetrics::default() };
        first.closed.insert(3008, 2);
        first.clients.insert("js".into(), 4);
        first.committed_ms.add(3);
        let other = ShardMetrics { closed: [(3008, 1)].into(), ..ShardMetrics::default() };
        let text = rendered(vec![first, other]);
        assert!(text.contains("# TYPE uproar_connections gauge\nuproar_connections{shard=\"0\"} 3\n"));
        assert!(text.contains("uproar_ended_total{code=\"3008\"} 3\n"));
        assert!(text.contains("uproar_connects_total{sdk=\"js\"} 4\n"));
        assert!(text.contains("uproar_commit_seconds_bucket{le=\"0.002\"} 0\n"));
        assert!(text.contains("uproar_commit_seconds_bucket{le=\"0.005\"} 1\n"));
        assert!(text.contains("uproar_commit_seconds_sum 0.003\nuproar_commit_seconds_count 1\n"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok()), "{line}");
        }
    }

    /// They were zeros, which Prometheus takes for a restart: after the next answer all events seemed to be new.
    #[test]
    fn what_the_shards_do_not_answer_is_left_out() {
        let text = rendered(Vec::new());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(!line.starts_with("uproar_commit_seconds") && !line.starts_with("uproar_errors_total"), "{line}");
        }
        assert!(text.contains("\nuproar_shard_delay_seconds 0.02\n"), "{text}");
        assert!(text.contains("\nuproar_batches_total 0\n"), "{text}");
    }

    #[test]
    fn the_process_reports_its_memory_its_cpu_time_and_its_disk() {
        let text = rendered(Vec::new());
        for name in [
            "process_resident_memory_bytes",
            "process_cpu_seconds_total",
            "process_start_time_seconds",
            "uproar_data_free_bytes",
        ] {
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            assert!(value.is_some_and(|value| value.parse::<f64>().is_ok_and(|value| value > 0.0)), "{name}: {text}");
        }
    }
}
