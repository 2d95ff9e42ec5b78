//! Gives connections to the HTTP service: those that the shards hand over, and those of the ports for
//! operators and for redirects.

use crate::driver::HandOver;
use crate::driver::input::reject;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use uproar_http::Service;

/// How long a port that does not belong to the shards pauses after accepting failed.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// Serves the connections that the shards hand over until `drains` turns true and the last one is closed. The service
/// shares its places between client addresses; a connection without a place is refused with 503.
pub(super) async fn serve(
    service: Arc<Service>,
    connections_limit: usize,
    mut handed_over: mpsc::Receiver<HandOver>,
    drains: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut draining = drains.clone();
    loop {
        let connection = tokio::select! {
            connection = handed_over.recv() => connection,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            _ = draining.wait_for(|drain| *drain) => None,
        };
        let Some(HandOver { stream, tls, peer, bytes }) = connection else { break };
        // Connections that have lost their places take a moment to close.
        let slot = (connections.len() < 2 * connections_limit).then(|| service.slot(peer, &bytes)).flatten();
        let Some(slot) = slot else {
            reject(stream.into(), tls);
            continue;
        };
        match TcpStream::from_std(stream) {
            Ok(stream) => {
                connections.spawn(Arc::clone(&service).serve(stream, tls, peer, bytes, drains.clone(), slot));
            }
            Err(error) => tracing::warn!(%error, "can't give a connection to the HTTP service; it is closed"),
        }
    }
    connections.join_all().await;
}

/// Serves the operators' port, if there is one, until the process ends, so that it answers while everything else stops.
pub(super) async fn serve_admin(service: Arc<Service>, listener: Option<TcpListener>, drains: watch::Receiver<bool>) {
    accept_each(listener, |stream, peer, connections| {
        // Without a place it is closed.
        let Some(slot) = service.admin_slot(peer) else { return };
        connections.spawn(Arc::clone(&service).serve_admin(stream, peer, drains.clone(), slot));
    })
    .await;
}

/// Serves the port that leads to this one, which speaks TLS, if there is one, until the process ends. Its connections
/// have the places of all HTTP connections.
pub(super) async fn serve_redirect(
    service: Arc<Service>,
    listener: Option<TcpListener>,
    tls_port: u16,
    connections_limit: usize,
    drains: watch::Receiver<bool>,
) {
    accept_each(listener, |stream, peer, connections| {
        if connections.len() < 2 * connections_limit
            && let Some(slot) = service.slot(peer, &[])
        {
            connections.spawn(Arc::clone(&service).serve_redirect(stream, peer, tls_port, drains.clone(), slot));
        }
    })
    .await;
}

/// Passes each connection of a listener to `serve`. Without a listener, it only waits.
async fn accept_each(listener: Option<TcpListener>, mut serve: impl FnMut(TcpStream, SocketAddr, &mut JoinSet<()>)) {
    let Some(listener) = listener else { return std::future::pending().await };
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok((stream, peer)) => serve(stream, peer, &mut connections),
            // Usually there are no free descriptors, and the next attempt would fail too.
            Err(_) => tokio::time::sleep(ACCEPT_RETRY_AFTER).await,
        }
    }
}
