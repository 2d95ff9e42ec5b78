//! The minimal cost of a broadcast: one thread with a level-triggered epoll loop that, in each turn, makes one `send`
//! per member with all messages of its room. The kernel spends nearly all of that time, so no server that uses sockets
//! can cost much less.

mod connection;
mod floor;
mod frame;
mod handshake;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use crate::floor::Floor;

fn main() -> ExitCode {
    peers::run("floor", || {
        let (port, frame_bytes) = arguments()?;
        let mut floor = Floor::new(peers::listen(port)?, frame_bytes)?;
        peers::print_listening();
        loop {
            floor.turn()?;
        }
    })
}

/// The port, and the length to which broadcast payloads are padded.
fn arguments() -> Result<(u16, usize)> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (port, frame_bytes) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [port] => (port, "0"),
        [port, "--frame-bytes", bytes] | ["--frame-bytes", bytes, port] => (port, bytes),
        _ => bail!("expected PORT [--frame-bytes N]"),
    };
    let frame_bytes = frame_bytes.parse().with_context(|| format!("--frame-bytes {frame_bytes:?} is not a number"))?;
    ensure!(frame_bytes <= frame::MAX_PAYLOAD_BYTES, "--frame-bytes must be at most {}", frame::MAX_PAYLOAD_BYTES);
    Ok((peers::parse_port(port)?, frame_bytes))
}
