//! Listening sockets: one per shard on the same address (`SO_REUSEPORT`). The kernel spreads connections among them.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use uproar_core::limits::Limits;

/// Connections that the kernel queues until they are accepted. `net.core.somaxconn` may lower it.
const BACKLOG: i32 = 4096;

/// Why an address can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "can't listen on {address}: the port is in use; stop the program that uses it, or choose another with {option}"
    )]
    InUse { address: SocketAddr, option: &'static str },
    #[error("can't listen on {address}: {source}")]
    Other { address: SocketAddr, source: io::Error },
}

/// Binds one non-blocking listener per shard. Returns them with the bound address, which for port 0 has a free port.
///
/// With `SO_REUSEPORT` alone, a second server would silently take half of the first one's connections. The first
/// socket therefore binds and listens without the option, which fails if another process listens there. It sets the
/// option only afterwards: the kernel checks it when the other sockets bind, so they can join. A second server has no
/// moment to get in between, and there is no probe socket whose connections would be lost.
pub fn bind(
    address: SocketAddr,
    shards: usize,
    limits: &Limits,
) -> Result<(SocketAddr, Vec<TcpListener>), ListenError> {
    bind_among(&[], address, "--listen", shards, limits)
}

/// Like [`bind`], for one of several addresses. `option`: where the operator has named it. An IPv6 address leaves IPv4
/// alone if another address has it: `[::]` alone stands for both.
pub fn bind_among(
    addresses: &[SocketAddr],
    address: SocketAddr,
    option: &'static str,
    shards: usize,
    limits: &Limits,
) -> Result<(SocketAddr, Vec<TcpListener>), ListenError> {
    let is_v6_only = is_v6_only(addresses, address);
    bind_all(address, is_v6_only, shards, limits).map_err(|source| explain(address, option, source))
}

fn is_v6_only(addresses: &[SocketAddr], address: SocketAddr) -> bool {
    address.is_ipv6() && addresses.iter().any(|a| a.is_ipv4() && a.port() == address.port())
}

/// Binds an address as [`bind_among`] does, and gives it up at once, without having listened.
pub fn try_bind(addresses: &[SocketAddr], address: SocketAddr, option: &'static str) -> Result<(), ListenError> {
    let is_v6_only = is_v6_only(addresses, address);
    let bound = socket(address, is_v6_only, &Limits::default()).and_then(|socket| socket.bind(&address.into()));
    bound.map_err(|source| explain(address, option, source))
}

fn explain(address: SocketAddr, option: &'static str, source: io::Error) -> ListenError {
    match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { address, option },
        _ => ListenError::Other { address, source },
    }
}

fn bind_all(
    address: SocketAddr,
    is_v6_only: bool,
    shards: usize,
    limits: &Limits,
) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let first = socket(address, is_v6_only, limits)?;
    first.bind(&address.into())?;
    first.listen(BACKLOG)?;
    first.set_reuse_port(true)?;
    first.set_nonblocking(true)?;
    let first = TcpListener::from(first);
    let bound = first.local_addr()?;

    let mut listeners = vec![first];
    for _ in 1..shards {
        let next = socket(address, is_v6_only, limits)?;
        next.set_reuse_port(true)?;
        next.bind(&bound.into())?;
        next.listen(BACKLOG)?;
        next.set_nonblocking(true)?;
        listeners.push(next.into());
    }
    Ok((bound, listeners))
}

/// Creates a socket with the options that accepted connections inherit.
fn socket(address: SocketAddr, is_v6_only: bool, limits: &Limits) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if is_v6_only {
        socket.set_only_v6(true)?;
    }
    // Lingering connections of an earlier server must not keep this one from starting.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    // Otherwise the kernel lets the buffer grow to 4 MiB for each stalled reader, beyond our own limits.
    socket.set_send_buffer_size(limits.socket_send_buffer_bytes as usize)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn a_port_that_any_program_uses_is_refused() {
        let any_port = "127.0.0.1:0".parse().unwrap();
        for shards in [1, 3] {
            let (address, _ours) = bind(any_port, shards, &Limits::default()).unwrap();
            let error = bind(address, 2, &Limits::default()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "can't listen on {address}: the port is in use; stop the program that uses it, or choose another \
                     with --listen"
                )
            );
        }
        let plain = TcpListener::bind(any_port).unwrap();
        let error = bind(plain.local_addr().unwrap(), 2, &Limits::default()).unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }));
        let error = bind("192.0.2.1:1".parse().unwrap(), 2, &Limits::default()).unwrap_err();
        assert!(error.to_string().starts_with("can't listen on 192.0.2.1:1: "), "{error}");
    }

    #[test]
    fn listeners_share_connections_and_pass_on_their_options() {
        for any_port in ["127.0.0.1:0", "[::1]:0"] {
            let (address, listeners) = bind(any_port.parse().unwrap(), 2, &Limits::default()).unwrap();
            assert_ne!(address.port(), 0);
            let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
            let mut accepted = Vec::new();
            for listener in &listeners {
                assert_eq!(listener.local_addr().unwrap(), address);
                let before = accepted.len();
                accepted.extend(std::iter::from_fn(|| listener.accept().ok()));
                assert!(accepted.len() > before, "one listener got none of 100 connections");
            }
            assert_eq!(accepted.len(), clients.len());
            let (stream, _) = &accepted[0];
            assert!(stream.nodelay().unwrap());
            let kernel_counts_twice = 2 * Limits::default().socket_send_buffer_bytes as usize;
            assert_eq!(socket2::SockRef::from(stream).send_buffer_size().unwrap(), kernel_counts_twice);
        }
    }

    #[test]
    fn all_addresses_of_ipv4_and_ipv6_can_be_listened_on_together() {
        let free = bind("127.0.0.1:0".parse().unwrap(), 1, &Limits::default()).unwrap().0.port();
        let v4: SocketAddr = ([0, 0, 0, 0], free).into();
        let v6: SocketAddr = ([0_u16; 8], free).into();
        if TcpListener::bind("[::1]:0").is_err() {
            return; // A machine without IPv6.
        }
        for addresses in [[v4, v6], [v6, v4]] {
            let bound: Vec<_> = addresses
                .iter()
                .map(|a| bind_among(&addresses, *a, "--listen", 2, &Limits::default()).unwrap())
                .collect();
            assert_eq!(bound.len(), 2);
            TcpStream::connect(("127.0.0.1", free)).unwrap();
            TcpStream::connect(("::1", free)).unwrap();
        }
        let _alone = bind_among(&[v6], v6, "--listen", 1, &Limits::default()).unwrap();
        TcpStream::connect(("127.0.0.1", free)).unwrap();
    }

    #[test]
    fn a_port_is_free_immediately_after_closing() {
        let (address, listeners) = bind("127.0.0.1:0".parse().unwrap(), 2, &Limits::default()).unwrap();
        let client = TcpStream::connect(address).unwrap();
        // The server's side closes first, and lingers in TIME_WAIT.
        for listener in &listeners {
            drop(listener.accept());
        }
        drop((listeners, client));
        bind(address, 2, &Limits::default()).unwrap();
    }
}
