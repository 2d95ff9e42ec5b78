//! Measures splitting a client's bytes into frames, unmasking and validating them, and compares it with the parser of
//! fastwebsockets on the same bytes. Both start by copying the bytes into their buffer, as a read from a socket would.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket, unmask};
use futures_util::FutureExt;
use std::hint::black_box;
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use uproar_core::websocket::{Decoder, Event};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LIMIT_BYTES: usize = 64 * 1024;

/// A masked text frame of `payload_bytes` bytes, as fastwebsockets writes it.
fn frame(payload_bytes: usize) -> Vec<u8> {
    let mask = [0x9d, 0x31, 0xe2, 0x57];
    let mut payload = text(payload_bytes).into_bytes();
    unmask(&mut payload, mask);
    Frame::new(true, OpCode::Text, Some(mask), Payload::Owned(payload)).write(&mut Vec::new()).to_vec()
}

fn text(bytes: usize) -> String {
    "all is well ".chars().cycle().take(bytes).collect()
}

/// Decodes `stream` in pieces of the length of `buffer`. Returns the number of texts and their length in bytes, summed.
fn decode(decoder: &mut Decoder, stream: &[u8], buffer: &mut [u8]) -> (usize, usize) {
    let (mut count, mut bytes) = (0, 0);
    let read_bytes = buffer.len();
    for piece in stream.chunks(read_bytes) {
        let buffer = &mut buffer[..piece.len()];
        buffer.copy_from_slice(piece);
        decoder.feed(buffer, LIMIT_BYTES, |event| {
            if let Event::Text(text) = black_box(event) {
                count += 1;
                bytes += text.len();
            }
            ControlFlow::Continue(())
        });
    }
    (count, bytes)
}

/// A socket that yields the same bytes over and over.
struct Endless<'a> {
    stream: &'a [u8],
    at: usize,
}

impl AsyncRead for Endless<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let rest = &self.stream[self.at..];
        let taken = rest.len().min(into.remaining());
        into.put_slice(&rest[..taken]);
        self.at = (self.at + taken) % self.stream.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Decodes the next `frames` frames with fastwebsockets. Returns the same as [`decode`].
fn decode_with_fastwebsockets(socket: &mut WebSocket<Endless<'_>>, frames: usize) -> (usize, usize) {
    let (mut count, mut bytes) = (0, 0);
    for _ in 0..frames {
        let frame = socket.read_frame().now_or_never().expect("bytes are always available").expect("a valid frame");
        if let Ok(text) = std::str::from_utf8(black_box(&frame.payload)) {
            count += 1;
            bytes += text.len();
        }
    }
    (count, bytes)
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frames");
    // A single frame, which is the usual case, and many frames in one read.
    for (payload_bytes, count) in [(16, 1), (128, 1), (1024, 1), (16_384, 1), (128, 64)] {
        let stream = frame(payload_bytes).repeat(count);
        let expected = (count, count * payload_bytes);
        let shape = format!("{count} of {payload_bytes}");
        group.throughput(Throughput::ElementsAndBytes { elements: count as u64, bytes: stream.len() as u64 });

        let (mut decoder, mut buffer) = (Decoder::default(), vec![0; stream.len()]);
        assert_eq!(decode(&mut decoder, &stream, &mut buffer), expected);
        group.bench_function(format!("decoder/{shape}"), |bencher| {
            bencher.iter(|| decode(&mut decoder, black_box(&stream), &mut buffer));
        });

        let mut socket = WebSocket::after_handshake(Endless { stream: &stream, at: 0 }, Role::Server);
        assert_eq!(decode_with_fastwebsockets(&mut socket, count), expected);
        group.bench_function(format!("fastwebsockets/{shape}"), |bencher| {
            bencher.iter(|| decode_with_fastwebsockets(&mut socket, count));
        });
    }

    // Every read ends inside a frame, so the decoder has to keep the frame's beginning.
    let stream = frame(128).repeat(64);
    let (mut decoder, mut buffer) = (Decoder::default(), vec![0; 1000]);
    assert_eq!(decode(&mut decoder, &stream, &mut buffer), (64, 64 * 128));
    group.throughput(Throughput::ElementsAndBytes { elements: 64, bytes: stream.len() as u64 });
    group.bench_function("decoder/64 of 128, cut every 1000 bytes", |bencher| {
        bencher.iter(|| decode(&mut decoder, black_box(&stream), &mut buffer));
    });
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
