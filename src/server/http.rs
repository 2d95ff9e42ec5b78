//! Gives connections to the HTTP service: those that the shards hand over, and those of the operators' port.

use crate::driver::HandOver;
use crate::driver::input::reject;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use uproar_http::Service;

/// How long the operators' port pauses after accepting failed.
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
        let Some(HandOver { stream, peer, bytes }) = connection else { break };
        // Connections that have lost their places take a moment to close.
        let slot = (connections.len() < 2 * connections_limit).then(|| service.slot(peer, &bytes)).flatten();
        let Some(slot) = slot else {
            reject(stream.into());
            continue;
        };
        match TcpStream::from_std(stream) {
            Ok(stream) => {
                connections.spawn(Arc::clone(&service).serve(stream, peer, bytes, drains.clone(), slot));
            }
            Err(error) => tracing::warn!(%error, "can't give a connection to the HTTP service; it is closed"),
        }
    }
    connections.join_all().await;
}

/// Serves the operators' port, if there is one, until the process ends, so that it answers while everything else stops.
pub(super) async fn serve_admin(service: Arc<Service>, listener: Option<TcpListener>, drains: watch::Receiver<bool>) {
    let Some(listener) = listener else { return std::future::pending().await };
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Without a place it is closed.
                let Some(slot) = service.admin_slot(peer) else { continue };
                connections.spawn(Arc::clone(&service).serve_admin(stream, peer, drains.clone(), slot));
            }
            // Usually there are no free descriptors, and the next attempt would fail too.
            Err(_) => tokio::time::sleep(ACCEPT_RETRY_AFTER).await,
        }
    }
}
