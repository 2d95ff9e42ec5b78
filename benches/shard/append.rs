//! Measures a publish from the text of its frame through session, home and lane until its sender has received it. The
//! database answers immediately.

use crate::server::{Client, Server, count};
use criterion::{Criterion, Throughput};

pub fn room(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    // All publishes of one turn share a batch and a segment.
    for (client, senders) in [(Client::Plain, 1), (Client::Plain, 64), (Client::Sdk, 1)] {
        let mut server = Server::new();
        let slots = server.subscribe_all(client, senders);
        let text = "all is well ".repeat(10);
        let data = format!(r#"{{"text":"{text}","id":"01931f6e-0000-7000-8000-000000000000"}}"#);
        let frame = match client {
            Client::Plain => data,
            Client::Sdk => format!(r#"{{"id":3,"publish":{{"channel":"room:lobby","data":{data}}}}}"#),
        };
        let publish = |server: &mut Server| slots.iter().for_each(|slot| server.send_text(*slot, &frame));

        publish(&mut server);
        let sent = server.run_and_collect();
        assert_eq!((sent.len(), server.head()), (senders, senders as u64));
        assert!(sent.iter().all(|sent| count(&sent.bytes, &text) == senders));

        let (before, head, mut rounds) = (server.metrics(), server.head(), 0);
        let (elements, bytes) = (senders as u64, (senders * frame.len()) as u64);
        group.throughput(Throughput::ElementsAndBytes { elements, bytes });
        group.bench_function(format!("{client:?}/{senders} in a batch").to_lowercase(), |bencher| {
            bencher.iter(|| {
                rounds += 1;
                publish(&mut server);
                server.run();
            });
        });
        let after = server.metrics();
        assert_eq!(server.head() - head, rounds * elements);
        assert_eq!(after.publications - before.publications, rounds * elements);
        assert_eq!(after.deliveries - before.deliveries, rounds * elements * elements);
    }
    group.finish();
}
