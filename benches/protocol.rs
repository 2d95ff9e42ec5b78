//! Measures decoding a publish and encoding a publication in each format. Both happen once per publication, whatever
//! the number of subscribers.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use uproar_core::protocol::centrifuge::{Encoding, Request, next_command};
use uproar_core::protocol::{Entry, Format, Frames, data, plain};
use uproar_model::{Kind, Publication, User, UserId};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ID: &str = "01931f6e-0000-7000-8000-000000000000";
const CHANNEL: &str = "room:lobby";
const TEXT_LIMIT_BYTES: usize = 16 * 1024;

/// A message whose text has `text_bytes` bytes.
fn message(text_bytes: usize) -> Entry {
    Entry::Stored(Publication {
        offset: 123_456,
        number: 100_000,
        kind: Kind::Message,
        user: User { id: UserId(42), username: "ann".into() },
        id: ID.into(),
        time: 1_700_000_000_000,
        target: None,
        body: Some("x".repeat(text_bytes).into()),
        edited: None,
        deleted: None,
        meta: None,
    })
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let shapes = [("32", vec![message(32)]), ("128", vec![message(128)]), ("1024", vec![message(1024)])];
    // All publications that a room shows in one turn are encoded together.
    let segment = ("128 each, 64 in a run", vec![message(128); 64]);
    for (shape, entries) in shapes.into_iter().chain([segment]) {
        for (name, format) in [("plain", Format::Plain), ("json", Format::Json), ("protobuf", Format::Protobuf)] {
            let frames = Frames::encode(&entries, format, CHANNEL);
            let count = frames.bytes().windows(ID.len()).filter(|window| *window == ID.as_bytes()).count();
            assert_eq!(count, entries.len(), "every message is in a frame");
            let (elements, bytes) = (entries.len() as u64, frames.bytes().len() as u64);
            group.throughput(Throughput::ElementsAndBytes { elements, bytes });
            group.bench_function(format!("{name}/{shape}"), |bencher| {
                bencher.iter(|| Frames::encode(black_box(&entries), format, CHANNEL));
            });
        }
    }
    group.finish();
}

/// Appends a Protobuf field that holds fewer than 128² bytes.
fn push_field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag << 3 | 2);
    push_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn push_length(out: &mut Vec<u8>, length: usize) {
    if length >= 128 {
        out.push(length as u8 | 128);
    }
    out.push(if length >= 128 { (length >> 7) as u8 } else { length as u8 });
}

/// The payload of a frame with command 7, which publishes `data` in [`CHANNEL`].
fn publish(encoding: Encoding, data: &str) -> Vec<u8> {
    match encoding {
        Encoding::Json => format!(r#"{{"id":7,"publish":{{"channel":"{CHANNEL}","data":{data}}}}}"#).into_bytes(),
        Encoding::Protobuf => {
            let mut publish = Vec::new();
            push_field(&mut publish, 1, CHANNEL.as_bytes());
            push_field(&mut publish, 2, data.as_bytes());
            let mut command = vec![1 << 3, 7];
            push_field(&mut command, 7, &publish);
            let mut frame = Vec::new();
            push_length(&mut frame, command.len());
            frame.extend_from_slice(&command);
            frame
        }
    }
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let text = "x".repeat(128);
    let published = format!(r#"{{"text":"{text}","id":"{ID}"}}"#);
    for (name, encoding) in [("json", Encoding::Json), ("protobuf", Encoding::Protobuf)] {
        let frame = publish(encoding, &published);
        let command = next_command(encoding, &mut &frame[..]).expect("a command").expect("a valid command");
        let Request::Publish { channel, data, .. } = &command.request else { panic!("{command:?}") };
        assert_eq!((command.id, &**channel, &**data), (7, CHANNEL, published.as_bytes()));
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: frame.len() as u64 });
        group.bench_function(format!("command/{name}"), |bencher| {
            bencher.iter(|| next_command(encoding, &mut black_box(&frame[..])));
        });
    }

    let publish = data::decode(published.as_bytes(), TEXT_LIMIT_BYTES).expect("a message");
    assert_eq!((publish.id.as_deref(), publish.body.as_deref()), (Some(ID), Some(&*text)));
    group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: published.len() as u64 });
    group.bench_function("data", |bencher| {
        bencher.iter(|| data::decode(black_box(published.as_bytes()), TEXT_LIMIT_BYTES));
    });
    for (name, input, frame) in
        [("text", plain::InputFormat::Text, &text), ("json", plain::InputFormat::Json, &published)]
    {
        let publish = plain::decode(frame, input, TEXT_LIMIT_BYTES).expect("a message");
        assert_eq!(publish.body.as_deref(), Some(&*text));
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: frame.len() as u64 });
        group.bench_function(format!("plain/{name}"), |bencher| {
            bencher.iter(|| plain::decode(black_box(frame), input, TEXT_LIMIT_BYTES));
        });
    }
    group.finish();
}

criterion_group!(benches, encode, decode);
criterion_main!(benches);
