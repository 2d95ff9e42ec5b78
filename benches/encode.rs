//! What a publication costs to encode in each format, and what a publish costs to read: once for each publication,
//! whatever the number of subscribers.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use uproar::core::run::{Entry, Frames};
use uproar::protocol::centrifuge::{Encoding, next_command};
use uproar::protocol::{Format, data};
use uproar_model::{Kind, Publication, User, UserId};

/// A message with a text of so many bytes.
fn message(text_bytes: usize) -> Entry {
    Entry::Stored(Publication {
        offset: 123_456,
        number: 100_000,
        kind: Kind::Message,
        user: User { id: UserId(42), username: "ann".into() },
        id: "01931f6e-0000-7000-8000-000000000000".into(),
        time: 1_700_000_000_000,
        target: None,
        body: Some("x".repeat(text_bytes).into()),
        edited: None,
        deleted: None,
    })
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for text_bytes in [32, 128, 1024] {
        let entries = [message(text_bytes)];
        for (name, format) in [("plain", Format::Plain), ("json", Format::Json), ("protobuf", Format::Protobuf)] {
            group.throughput(Throughput::Elements(1));
            group.bench_function(format!("{name}/{text_bytes}"), |bencher| {
                bencher.iter(|| Frames::encode(black_box(&entries), format, "room:lobby"));
            });
        }
    }
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let text = "x".repeat(128);
    let published = format!(r#"{{"text":"{text}","id":"01931f6e-0000-7000-8000-000000000000"}}"#);
    let frame = format!(r#"{{"id":7,"publish":{{"channel":"room:lobby","data":{published}}}}}"#);
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("command/json", |bencher| {
        bencher.iter(|| next_command(Encoding::Json, &mut black_box(frame.as_bytes())));
    });
    group.throughput(Throughput::Bytes(published.len() as u64));
    group.bench_function("data", |bencher| bencher.iter(|| data::decode(black_box(published.as_bytes()), 16_384)));
    group.finish();
}

criterion_group!(benches, encode, decode);
criterion_main!(benches);
