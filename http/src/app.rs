//! What all handlers share: the service's state, the shape of a route, and work that outlives its request.

use crate::api::{Audit, Keys, Shares};
use crate::assets::Assets;
use crate::attempts::Attempts;
use crate::chat::SharedChat;
use crate::errors::ApiError;
use crate::exchanges::Exchanges;
use crate::passwords::PasswordPool;
use crate::rate::RateLimiter;
use crate::readiness::Readiness;
use crate::security_log::SecurityLog;
use crate::settings::Settings;
use crate::tokens::Tokens;
use axum::handler::Handler;
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use http::{HeaderMap, Method, header};
use std::sync::Arc;
use std::time::Instant;
use uproar_model::{DatabaseGeneration, UserId};
use uproar_store::{RoomError, SharedStore, StoreError};

/// Entries in a page of a list when the request does not say how many.
const PAGE_ENTRIES_DEFAULT: u64 = 50;

/// The service's state.
pub(crate) struct App {
    pub store: SharedStore,
    pub tokens: Arc<Tokens>,
    pub chat: SharedChat,
    pub settings: Settings,
    pub passwords: PasswordPool,
    pub attempts: Attempts,
    pub security_log: SecurityLog,
    pub exchanges: Exchanges,
    pub publish_rate: RateLimiter<UserId>,
    /// By the id of the hook.
    pub hook_rate: RateLimiter<i64>,
    pub assets: Assets,
    pub readiness: Readiness,
    pub api_keys: Keys,
    /// By what the audit log calls the key.
    pub api_rate: RateLimiter<Arc<str>>,
    pub api_shares: Shares,
    pub audit: Audit,
    pub started: Instant,
}

impl App {
    /// The most entries that a page may have, given how many were requested.
    pub(crate) fn page_limit(&self, requested: Option<u64>) -> usize {
        requested.unwrap_or(PAGE_ENTRIES_DEFAULT).min(self.settings.limits.history_page_limit) as usize
    }

    /// The history in which a call has stored something, if no failover came in between. `before`: that of the time
    /// before the call.
    pub(crate) fn history_since(&self, before: DatabaseGeneration) -> Option<DatabaseGeneration> {
        Some(before).filter(|before| *before == self.store.generation())
    }

    /// A room may have been deleted, or a member removed, although the answer of the database was lost. Then nobody was
    /// told, and only the heads of rooms show it.
    pub(crate) fn sweep_if_unknown(&self, error: &RoomError) {
        if matches!(error, RoomError::Store(StoreError::Failed(_))) {
            self.chat.sweep();
        }
    }

    /// Where users find this server. If the operator does not say it, it is where this request was sent to: a proxy may
    /// have put another `Host` there.
    pub(crate) fn own_address(&self, headers: &HeaderMap, via_https: bool) -> String {
        if let Some(url) = &self.settings.public_url {
            return url.clone();
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty());
        let host = host.unwrap_or("localhost");
        format!("{}://{host}", if via_https { "https" } else { "http" })
    }

    /// The time by the database's clock in Unix seconds, as tokens use it.
    pub(crate) fn now_unix_s(&self) -> u64 {
        self.store.clock().unix_s()
    }
}

/// The port on which a request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Main,
    Admin,
    /// Sends clients to this port, which speaks TLS.
    Redirect {
        tls_port: u16,
    },
}

/// A method of a path and its handler. Routers are built from these alone, so a list of them is complete.
pub(crate) struct Route {
    pub method: Method,
    pub path: &'static str,
    pub handler: MethodRouter<Arc<App>>,
    /// Whether requests may have a query. If not, they are refused before the handler sees them.
    pub takes_query: bool,
}

impl Route {
    pub(crate) fn new<H, T>(method: Method, path: &'static str, handler: H) -> Route
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        let filter = match method {
            Method::POST => MethodFilter::POST,
            Method::PUT => MethodFilter::PUT,
            Method::PATCH => MethodFilter::PATCH,
            Method::DELETE => MethodFilter::DELETE,
            // Includes HEAD.
            _ => MethodFilter::GET,
        };
        Route { method, path, handler: on(filter, handler), takes_query: false }
    }

    /// The same route, whose handler reads the query, or is called by clients that add one of their own.
    pub(crate) fn with_query(self) -> Route {
        Route { takes_query: true, ..self }
    }
}

/// Runs `work` to completion even if the client disconnects or the request's deadline passes: once something is
/// committed, the chat must learn of it.
pub(crate) async fn complete<F>(work: F) -> Result<Response, ApiError>
where
    F: Future<Output = Result<Response, ApiError>> + Send + 'static,
{
    tokio::spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request failed");
        Err(ApiError::internal())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn work_completes_after_its_request_is_dropped() {
        let (commit, committed) = oneshot::channel::<()>();
        let (learn, learned) = oneshot::channel();
        let request = tokio::spawn(complete(async move {
            let _ = committed.await;
            let _ = learn.send(());
            Ok(Response::default())
        }));
        // The work starts and waits for the database; then the client disconnects.
        tokio::task::yield_now().await;
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        commit.send(()).unwrap();
        assert_eq!(learned.await, Ok(()));
    }
}
