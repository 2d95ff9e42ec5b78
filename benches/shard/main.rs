//! Measures a shard through the calls that a driver makes: from a publish to the bytes for each subscriber's socket.

mod append;
mod fan_out;
mod recovery;
mod server;

use criterion::{criterion_group, criterion_main};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

criterion_group!(benches, fan_out::to_many, append::room, recovery::from_ring);
criterion_main!(benches);
