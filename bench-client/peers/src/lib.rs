//! Code that the peers in Rust share: the command line, the listener and error handling.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::process::ExitCode;

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit};

/// How many connections may wait to be accepted. The kernel's `somaxconn` may be lower.
const BACKLOG: i32 = 4096;

/// Runs a peer. An error is printed to stderr in one line that starts with `name`, and the exit code is 1.
pub fn run(name: &str, peer: impl FnOnce() -> Result<()>) -> ExitCode {
    match peer() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!("{name}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The port, which must be the only argument on the command line.
pub fn port_argument() -> Result<u16> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next(), arguments.next()) {
        (Some(port), None) => parse_port(&port),
        _ => anyhow::bail!("expected one argument, the PORT to listen on"),
    }
}

/// A port written in decimal.
pub fn parse_port(text: &str) -> Result<u16> {
    text.parse().with_context(|| format!("{text:?} is not a port: expected a number up to 65535"))
}

/// Listens on 127.0.0.1:`port` with a non-blocking socket, and raises the limit of open files to the hard limit.
pub fn listen(port: u16) -> Result<TcpListener> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("cannot raise the limit of open files to the hard limit")?;

    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address).with_context(|| format!("cannot listen on {address}"))?;
    rustix::net::listen(&socket, BACKLOG).with_context(|| format!("cannot listen on {address}"))?;
    Ok(socket.into())
}

/// Tells the parent process that the peer accepts connections.
pub fn print_listening() {
    let _ = writeln!(io::stdout(), "listening");
}

/// Writes a line to standard error. (`eprintln!` would panic if that fails.)
pub fn note(line: Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
