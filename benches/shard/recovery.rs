//! Measures a recovery from memory: a subscriber returns to a room that its shard still holds and gets everything it
//! missed. The time runs from its request until all of that has been written.

use crate::server::{Client, Server, count, upgrade_since};
use criterion::{Criterion, Throughput};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The number of publications that the subscriber missed.
const MISSED: u64 = 100;

pub fn from_ring(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recovery");
    // Publications shown in one turn form one segment, which is one buffer.
    for per_turn in [1, MISSED] {
        let mut server = Server::new();
        server.subscribe(Client::Plain, 1);
        let text: Arc<str> = "all is well ".repeat(10).into();
        for _ in 0..2 * MISSED / per_turn {
            (0..per_turn).for_each(|_| server.learn(&text));
            server.run();
        }
        let request = upgrade_since(2, server.head() - MISSED);

        let slot = server.open(&request);
        let sent = server.run_and_collect();
        assert_eq!((sent.len(), sent[0].slot), (1, slot));
        assert_eq!((count(&sent[0].bytes, r#""recovered":true"#), count(&sent[0].bytes, &text)), (1, MISSED as usize));
        let bytes = sent[0].bytes.len() as u64;
        server.disconnect(slot);

        let (before, mut rounds) = (server.metrics(), 0);
        group.throughput(Throughput::ElementsAndBytes { elements: MISSED, bytes });
        group.bench_function(format!("{MISSED} missed, shown {per_turn} a turn"), |bencher| {
            bencher.iter_custom(|iterations| {
                rounds += iterations;
                let mut taken = Duration::ZERO;
                for _ in 0..iterations {
                    let begin = Instant::now();
                    let slot = server.open(&request);
                    server.run();
                    taken += begin.elapsed();
                    // Disconnecting is not part of the measurement.
                    server.disconnect(slot);
                }
                taken
            });
        });
        let after = server.metrics();
        assert_eq!(after.deliveries - before.deliveries, rounds * MISSED);
        assert_eq!(after.sent_bytes - before.sent_bytes, rounds * bytes);
    }
    group.finish();
}
