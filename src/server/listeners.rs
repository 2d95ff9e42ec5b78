//! Binds the addresses that the server listens on.

use super::Setup;
use crate::driver::listen;
use anyhow::Result;
use std::net::{SocketAddr, TcpListener};

pub(super) struct Listeners {
    /// The bound addresses, with the real ports where port 0 was requested.
    pub(super) addresses: Vec<SocketAddr>,
    /// For each shard, one listener per address.
    pub(super) by_shard: Vec<Vec<TcpListener>>,
    pub(super) admin: Option<tokio::net::TcpListener>,
}

impl Listeners {
    pub(super) async fn bind(
        addresses: &[SocketAddr],
        admin: Option<SocketAddr>,
        setup: &Setup<'_>,
    ) -> Result<Listeners> {
        let shards = usize::from(setup.shards);
        let mut by_shard: Vec<Vec<TcpListener>> = (0..shards).map(|_| Vec::new()).collect();
        let mut bound = Vec::new();
        for address in addresses {
            let (actual, listeners) = listen::bind(*address, shards, &setup.limits)?;
            bound.push(actual);
            by_shard.iter_mut().zip(listeners).for_each(|(of_shard, listener)| of_shard.push(listener));
        }
        let admin = match admin {
            Some(address) => Some(bind_admin(address).await?),
            None => None,
        };
        Ok(Listeners { addresses: bound, by_shard, admin })
    }
}

async fn bind_admin(address: SocketAddr) -> Result<tokio::net::TcpListener> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("--admin-listen: can't listen on {address}: {error}"))?;
    tracing::info!(address = %listener.local_addr()?, "operators' port");
    Ok(listener)
}
