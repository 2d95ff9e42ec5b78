//! The floor of a broadcast: one thread, one level-triggered epoll loop, and per loop turn one `send` to each member of
//! what was said in its room in that turn. What this costs is the kernel's; no server on sockets is much below it.

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
        peers::say_listening();
        loop {
            floor.turn()?;
        }
    })
}

/// The port, and the bytes to which a broadcast payload is filled up.
fn arguments() -> Result<(u16, usize)> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (port, frame_bytes) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [port] => (port, "0"),
        [port, "--frame-bytes", bytes] | ["--frame-bytes", bytes, port] => (port, bytes),
        _ => bail!("expected PORT [--frame-bytes N]"),
    };
    let frame_bytes = frame_bytes.parse().with_context(|| format!("--frame-bytes {frame_bytes:?} is no number"))?;
    ensure!(frame_bytes <= frame::MAX_PAYLOAD_BYTES, "--frame-bytes is at most {}", frame::MAX_PAYLOAD_BYTES);
    Ok((peers::parse_port(port)?, frame_bytes))
}
