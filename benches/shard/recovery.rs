//! A subscriber comes back to a room that its shard still has in memory, and is given what it missed: from its request
//! until all of it has been written.

use crate::server::{Client, Server, count, upgrade_since};
use criterion::{Criterion, Throughput};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many publications were missed.
const MISSED: u64 = 100;

pub fn from_ring(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recovery");
    // How many were shown in one turn: what is one run, is one buffer.
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
        let sent = server.run_and_tell();
        assert_eq!((sent.len(), sent[0].slot), (1, slot));
        assert_eq!((count(&sent[0].bytes, r#""recovered":true"#), count(&sent[0].bytes, &text)), (1, MISSED as usize));
        let bytes = sent[0].bytes.len() as u64;
        server.hang_up(slot);

        let (before, mut rounds) = (server.figures(), 0);
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
                    // It goes away again beside the measurement.
                    server.hang_up(slot);
                }
                taken
            });
        });
        let after = server.figures();
        assert_eq!(after.deliveries - before.deliveries, rounds * MISSED);
        assert_eq!(after.sent_bytes - before.sent_bytes, rounds * bytes);
    }
    group.finish();
}
