//! Listening sockets: one for each shard on the same address (`SO_REUSEPORT`), among which the kernel spreads
//! connections.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use uproar_core::limits::Limits;

/// Connections that the kernel holds until they are accepted. It takes no more than `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Why an address can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {0}: the port is in use; stop what uses it, or choose another with --listen")]
    InUse(SocketAddr),
    #[error("cannot listen on {address}: {source}")]
    Other { address: SocketAddr, source: io::Error },
}

/// Binds one listener, non-blocking, for each of `shards`, and says on which address: with port 0, on a free one.
///
/// With `SO_REUSEPORT` alone a second server would silently take half of the first one's connections. So the first
/// socket binds and listens without it, which fails if anyone else listens there. Only then does it admit others, and
/// as the kernel looks at the option when those bind, they join it. At no moment can a second server come between, and
/// no connection is lost with a socket that was only a probe.
pub fn bind(
    address: SocketAddr,
    shards: usize,
    limits: &Limits,
) -> Result<(SocketAddr, Vec<TcpListener>), ListenError> {
    bind_all(address, shards, limits).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(address),
        _ => ListenError::Other { address, source },
    })
}

fn bind_all(address: SocketAddr, shards: usize, limits: &Limits) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let first = socket(address, limits)?;
    first.bind(&address.into())?;
    first.listen(BACKLOG)?;
    first.set_reuse_port(true)?;
    first.set_nonblocking(true)?;
    let first = TcpListener::from(first);
    let bound = first.local_addr()?;

    let mut listeners = vec![first];
    for _ in 1..shards {
        let next = socket(address, limits)?;
        next.set_reuse_port(true)?;
        next.bind(&bound.into())?;
        next.listen(BACKLOG)?;
        next.set_nonblocking(true)?;
        listeners.push(next.into());
    }
    Ok((bound, listeners))
}

/// A socket with all that accepted connections inherit from it.
fn socket(address: SocketAddr, limits: &Limits) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a server that ran before may linger; they must not keep this one from starting.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    // Buffers that the kernel sizes by itself grow to 4 MiB for each reader that stalls, beyond any limit of ours.
    socket.set_send_buffer_size(limits.socket_send_buffer_bytes as usize)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn a_port_that_is_in_use_is_refused_whoever_uses_it() {
        let any_port = "127.0.0.1:0".parse().unwrap();
        for shards in [1, 3] {
            let (address, _ours) = bind(any_port, shards, &Limits::default()).unwrap();
            let error = bind(address, 2, &Limits::default()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "cannot listen on {address}: the port is in use; stop what uses it, or choose another with --listen"
                )
            );
        }
        let plain = TcpListener::bind(any_port).unwrap();
        let error = bind(plain.local_addr().unwrap(), 2, &Limits::default()).unwrap_err();
        assert!(matches!(error, ListenError::InUse(_)));
        let error = bind("192.0.2.1:1".parse().unwrap(), 2, &Limits::default()).unwrap_err();
        assert!(error.to_string().starts_with("cannot listen on 192.0.2.1:1: "), "{error}");
    }

    #[test]
    fn all_listeners_share_the_connections_and_what_they_inherit() {
        for any_port in ["127.0.0.1:0", "[::1]:0"] {
            let (address, listeners) = bind(any_port.parse().unwrap(), 2, &Limits::default()).unwrap();
            assert_ne!(address.port(), 0);
            let clients: Vec<_> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
            let mut accepted = Vec::new();
            for listener in &listeners {
                assert_eq!(listener.local_addr().unwrap(), address);
                let before = accepted.len();
                accepted.extend(std::iter::from_fn(|| listener.accept().ok()));
                assert!(accepted.len() > before, "one listener got none of a hundred");
            }
            assert_eq!(accepted.len(), clients.len());
            let (stream, _) = &accepted[0];
            assert!(stream.nodelay().unwrap());
            let kernel_counts_twice = 2 * Limits::default().socket_send_buffer_bytes as usize;
            assert_eq!(socket2::SockRef::from(stream).send_buffer_size().unwrap(), kernel_counts_twice);
        }
    }

    #[test]
    fn a_port_is_free_again_at_once() {
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
