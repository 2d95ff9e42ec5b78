//! Measures a publication from the moment a room's home learns it until it has been written to every subscriber.

use crate::server::{Client, Server, count};
use criterion::{Criterion, Throughput};
use std::sync::Arc;

pub fn to_many(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan_out");
    let shapes = [
        (Client::Plain, 10, 1),
        (Client::Plain, 1_000, 1),
        (Client::Plain, 10_000, 1),
        (Client::Sdk, 1_000, 1),
        // All ten form one segment.
        (Client::Plain, 1_000, 10),
    ];
    for (client, subscribers, publications) in shapes {
        let mut server = Server::new();
        let slots = server.subscribe_all(client, subscribers);
        let text: Arc<str> = "all is well ".repeat(10).into();
        let show = |server: &mut Server| (0..publications).for_each(|_| server.learn(&text));

        show(&mut server);
        let mut sent = server.run_and_collect();
        sent.sort_by_key(|sent| sent.slot);
        assert!(sent.iter().map(|sent| sent.slot).eq(slots), "exactly the subscribers receive it");
        assert!(sent.iter().all(|of| of.bytes == sent[0].bytes && count(&of.bytes, &text) == publications));

        let deliveries = (subscribers * publications) as u64;
        let bytes = (subscribers * sent[0].bytes.len()) as u64;
        let (before, mut rounds) = (server.metrics(), 0);
        group.throughput(Throughput::ElementsAndBytes { elements: deliveries, bytes });
        group.bench_function(format!("{client:?}/{publications} to {subscribers}").to_lowercase(), |bencher| {
            bencher.iter(|| {
                rounds += 1;
                show(&mut server);
                server.run();
            });
        });
        let after = server.metrics();
        assert_eq!(after.deliveries - before.deliveries, rounds * deliveries);
        // Frames grow when offsets gain a digit.
        assert!(after.sent_bytes - before.sent_bytes >= rounds * bytes);
    }
    group.finish();
}
