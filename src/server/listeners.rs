//! Binds the addresses that the server listens on.

use super::start::{Obstacle, overcome};
use super::{Setup, holder};
use crate::driver::listen;
use anyhow::{Result, anyhow};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

pub(super) struct Listeners {
    /// The bound addresses, with the real ports where port 0 was requested.
    pub(super) addresses: Vec<SocketAddr>,
    /// For each shard, one listener per address.
    pub(super) by_shard: Vec<Vec<TcpListener>>,
    pub(super) admin: Option<tokio::net::TcpListener>,
}

impl Listeners {
    /// Waits for `start_timeout_ms` if an address is in use: its last user may be about to end.
    pub(super) async fn bind(
        addresses: &[SocketAddr],
        admin: Option<SocketAddr>,
        setup: &Setup<'_>,
    ) -> Result<Listeners> {
        let timeout = Duration::from_millis(setup.limits.start_timeout_ms);
        let shards = usize::from(setup.shards);
        let mut by_shard: Vec<Vec<TcpListener>> = (0..shards).map(|_| Vec::new()).collect();
        let mut bound = Vec::new();
        for address in addresses {
            let attempt = async || Ok(listen::bind_among(addresses, *address, shards, &setup.limits)?);
            let (actual, listeners) = overcome(timeout, attempt).await?;
            bound.push(actual);
            by_shard.iter_mut().zip(listeners).for_each(|(of_shard, listener)| of_shard.push(listener));
        }
        let admin = match admin {
            Some(address) => Some(overcome(timeout, async || bind_admin(address).await).await?),
            None => None,
        };
        Ok(Listeners { addresses: bound, by_shard, admin })
    }
}

async fn bind_admin(address: SocketAddr) -> Result<tokio::net::TcpListener, Obstacle> {
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| {
        if error.kind() != ErrorKind::AddrInUse {
            return Obstacle::Lasting(anyhow!("--admin-listen: can't listen on {address}: {error}"));
        }
        let holder = holder::of_port(address.port()).map(|holder| format!(" by {holder}")).unwrap_or_default();
        Obstacle::Taken(format!(
            "--admin-listen: can't listen on {address}: the port is in use{holder}; stop its user, or choose another \
             port"
        ))
    })?;
    let bound = listener.local_addr().map_err(|error| Obstacle::Lasting(error.into()))?;
    tracing::info!(address = %bound, "operators' port");
    Ok(listener)
}
