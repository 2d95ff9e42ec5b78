//! Binds the addresses that the server listens on.

use super::start::{Obstacle, overcome};
use super::{Setup, holder};
use crate::config::Options;
use crate::driver::listen;
use anyhow::{Result, anyhow};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// The addresses that the options name.
pub(super) struct Addresses {
    pub(super) plain: Vec<SocketAddr>,
    pub(super) tls: Vec<SocketAddr>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) redirect: Option<SocketAddr>,
}

impl Addresses {
    pub(super) fn from_options(options: &Options) -> Result<Addresses> {
        Ok(Addresses {
            plain: options.addresses()?,
            tls: options.tls_addresses()?,
            admin: options.admin_address()?,
            redirect: options.redirect_address()?,
        })
    }
}

pub(super) struct Listeners {
    /// The bound addresses, with the real ports where port 0 was requested.
    pub(super) plain: Vec<SocketAddr>,
    /// The same for TLS.
    pub(super) tls: Vec<SocketAddr>,
    pub(super) by_shard: Vec<OfShard>,
    pub(super) admin: Option<tokio::net::TcpListener>,
    pub(super) redirect: Option<tokio::net::TcpListener>,
}

/// The listeners of one shard: one per address.
#[derive(Default)]
pub(super) struct OfShard {
    pub(super) plain: Vec<TcpListener>,
    pub(super) tls: Vec<TcpListener>,
}

impl Listeners {
    /// Waits for `start_timeout_ms` if an address is in use: its last user may be about to end.
    pub(super) async fn bind(addresses: &Addresses, setup: &Setup<'_>) -> Result<Listeners> {
        let timeout = Duration::from_millis(setup.limits.start_timeout_ms);
        let shards = usize::from(setup.shards);
        let all = [addresses.plain.as_slice(), &addresses.tls].concat();
        let bind = async |address: &SocketAddr, option| {
            let attempt = async || Ok(listen::bind_among(&all, *address, option, shards, &setup.limits)?);
            overcome(timeout, attempt).await
        };
        let mut by_shard: Vec<OfShard> = (0..shards).map(|_| OfShard::default()).collect();
        let (mut plain, mut tls) = (Vec::new(), Vec::new());
        for address in &addresses.plain {
            let (bound, listeners) = bind(address, "--listen").await?;
            plain.push(bound);
            by_shard.iter_mut().zip(listeners).for_each(|(of_shard, listener)| of_shard.plain.push(listener));
        }
        for address in &addresses.tls {
            let (bound, listeners) = bind(address, "--listen-tls").await?;
            tls.push(bound);
            by_shard.iter_mut().zip(listeners).for_each(|(of_shard, listener)| of_shard.tls.push(listener));
        }
        let bind_alone = async |option, address: Option<SocketAddr>| match address {
            Some(address) => overcome(timeout, async || bind_alone(option, address).await).await.map(Some),
            None => Ok(None),
        };
        let admin = bind_alone("--admin-listen", addresses.admin).await?;
        let redirect = bind_alone("--redirect-http", addresses.redirect).await?;
        Ok(Listeners { plain, tls, by_shard, admin, redirect })
    }
}

/// Binds an address that does not belong to the shards.
async fn bind_alone(option: &'static str, address: SocketAddr) -> Result<tokio::net::TcpListener, Obstacle> {
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| {
        if error.kind() != ErrorKind::AddrInUse {
            return Obstacle::Lasting(anyhow!("{option}: can't listen on {address}: {error}"));
        }
        let holder = holder::of_port(address.port()).map(|holder| format!(" by {holder}")).unwrap_or_default();
        Obstacle::Taken(format!(
            "{option}: can't listen on {address}: the port is in use{holder}; stop its user, or choose another port"
        ))
    })?;
    let bound = listener.local_addr().map_err(|error| Obstacle::Lasting(error.into()))?;
    match option {
        "--admin-listen" => tracing::info!(address = %bound, "operators' port"),
        _ => tracing::info!(address = %bound, "port that leads to https"),
    }
    Ok(listener)
}
