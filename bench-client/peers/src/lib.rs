//! What the peers in Rust have in common: their argument, their listener, and how they end.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::process::ExitCode;

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit};

/// Connections that may wait to be accepted, as far as the kernel's `somaxconn` lets them.
const BACKLOG: i32 = 4096;

/// Runs a peer; an error is one line on stderr that begins with `name`, and exit code 1.
pub fn run(name: &str, peer: impl FnOnce() -> Result<()>) -> ExitCode {
    match peer() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The port from the only argument of the command line.
pub fn port_argument() -> Result<u16> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(port), None) => parse_port(&port),
        _ => anyhow::bail!("expected one argument, the PORT to listen on"),
    }
}

/// A port written in decimal.
pub fn parse_port(text: &str) -> Result<u16> {
    text.parse().with_context(|| format!("{text:?} is no port: expected a number up to 65535"))
}

/// Listens on 127.0.0.1:`port` without blocking, and lets this process open as many files as it may.
pub fn listen(port: u16) -> Result<TcpListener> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("cannot raise the limit of open files to the most that is allowed")?;

    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address).with_context(|| format!("cannot listen on {address}"))?;
    rustix::net::listen(&socket, BACKLOG).with_context(|| format!("cannot listen on {address}"))?;
    Ok(socket.into())
}

/// Tells whoever started the peer that it can be connected to.
pub fn say_listening() {
    println!("listening");
}
