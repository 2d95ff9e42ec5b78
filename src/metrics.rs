//! Figures in the Prometheus text format.

use crate::lanes::LaneFigures;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::atomic::Ordering;
use uproar_core::figures::{BUCKETS_MS, Figures, Histogram};

/// All metrics: one series a shard where it helps to see imbalance.
pub fn text(of_shards: &[Figures], lanes: &LaneFigures) -> String {
    let mut out = Text(String::with_capacity(8192));
    let by_shard = |figure: fn(&Figures) -> u64| {
        of_shards.iter().enumerate().map(move |(shard, figures)| (format!("{{shard=\"{shard}\"}}"), figure(figures)))
    };
    out.family("uproar_connections", "gauge", "Open connections.", by_shard(|f| f.connections));
    out.family("uproar_subscriptions", "gauge", "Connections in a channel.", by_shard(|f| f.subscriptions));
    out.family("uproar_homes", "gauge", "Rooms and live: channels at home on the shard.", by_shard(|f| f.homes));
    let waiting = "Bytes that wait to be written, shared buffers counted once.";
    out.family("uproar_outbound_bytes", "gauge", waiting, by_shard(|f| f.outbound_bytes));
    out.family("uproar_received_total", "counter", "WebSocket messages received.", by_shard(|f| f.received));
    out.family("uproar_publications_total", "counter", "Publications shown.", by_shard(|f| f.publications));
    let deliveries = "Publications put into the queues of subscribers.";
    out.family("uproar_deliveries_total", "counter", deliveries, by_shard(|f| f.deliveries));
    out.family("uproar_sent_bytes_total", "counter", "Bytes written to WebSockets.", by_shard(|f| f.sent_bytes));
    let sum = |map: fn(&Figures) -> &BTreeMap<u16, u64>, label: &'static str| {
        let mut all: BTreeMap<u16, u64> = BTreeMap::new();
        for (key, count) in of_shards.iter().flat_map(map) {
            *all.entry(*key).or_default() += count;
        }
        all.into_iter().map(move |(key, count)| (format!("{{{label}=\"{key}\"}}"), count))
    };
    let ended = "Connections ended by the server, by close code: 3008 are slow readers.";
    out.family("uproar_ended_total", "counter", ended, sum(|f| &f.ended, "code"));
    out.family("uproar_upgrades_refused_total", "counter", "Upgrades refused.", sum(|f| &f.refused, "status"));
    out.family("uproar_errors_total", "counter", "Messages refused, by error code.", sum(|f| &f.errors, "code"));
    let mut clients: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, count) in of_shards.iter().flat_map(|figures| &figures.clients) {
        *clients.entry(name).or_default() += count;
    }
    let clients = clients.into_iter().map(|(name, count)| (format!("{{sdk=\"{name}\"}}"), count));
    let connects = "Clients of the Centrifugo protocol that showed a good token, by the name of their SDK.";
    out.family("uproar_connects_total", "counter", connects, clients);
    let committed = "From a publish's arrival to its commit.";
    out.histogram("uproar_commit_seconds", committed, of_shards.iter().map(|f| &f.committed_ms));
    let written = "From a publication's being shown to its being written to the last socket of a shard.";
    out.histogram("uproar_written_seconds", written, of_shards.iter().map(|f| &f.written_ms));

    let read = |value: &std::sync::atomic::AtomicU64| [(String::new(), value.load(Ordering::Relaxed))];
    out.family("uproar_batches_total", "counter", "Batches that the database has answered.", read(&lanes.batches));
    out.family("uproar_batch_items_total", "counter", "Items in those batches.", read(&lanes.items));
    out.family("uproar_stored_total", "counter", "Items that those batches stored.", read(&lanes.stored));
    let micros = lanes.commit_micros.load(Ordering::Relaxed);
    out.family("uproar_batch_seconds_total", "counter", "Time in them.", [(String::new(), micros as f64 / 1e6)]);
    let unknown = "Attempts at a batch that ended without an answer.";
    out.family("uproar_batches_unknown_total", "counter", unknown, read(&lanes.unknown));
    out.0
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

    fn histogram<'a>(&mut self, name: &str, help: &str, of_shards: impl Iterator<Item = &'a Histogram>) {
        let mut all = Histogram::default();
        for histogram in of_shards {
            all.counts.iter_mut().zip(histogram.counts).for_each(|(sum, count)| *sum += count);
            all.sum_ms += histogram.sum_ms;
        }
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} histogram");
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

    #[test]
    fn metrics_are_in_the_text_format() {
        let mut figures = Figures { connections: 3, ..Figures::default() };
        figures.ended.insert(3008, 2);
        figures.clients.insert("js".into(), 4);
        figures.committed_ms.add(3);
        let other = Figures { ended: [(3008, 1)].into(), ..Figures::default() };
        let text = text(&[figures, other], &LaneFigures::default());
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
}
