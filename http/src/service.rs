//! The service: its state, its routes, and one connection from its first byte to its last.

use crate::errors::{ApiError, Code};
use crate::input::{ByHttps, Client};
use crate::page::Page;
use crate::passwords::{Argon2id, PasswordPool};
use crate::rate::RateLimiter;
use crate::settings::Settings;
use crate::socket::Socket;
use crate::tokens::Tokens;
use crate::upgrade::Peer;
use crate::{SharedChat, accounts, addresses, messages, operations, page, rooms, upgrade};
use axum::Router;
use axum::body::Body;
use axum::handler::Handler;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tower::ServiceExt;
use uproar_store::SharedStore;

/// hyper refuses to work with less.
const HEAD_LIMIT_LOW_BYTES: usize = 8 * 1024;

/// What all handlers share.
pub(crate) struct App {
    pub store: SharedStore,
    pub tokens: Arc<Tokens>,
    pub chat: SharedChat,
    pub settings: Settings,
    pub passwords: PasswordPool,
    pub publish_rate: RateLimiter,
    pub page: Page,
}

impl App {
    /// Unix seconds, for tokens.
    pub(crate) fn now(&self) -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
    }

    /// How many entries an answer has at most, from what was asked for.
    pub(crate) fn page_limit(&self, wanted: Option<u64>) -> usize {
        let limit = self.settings.limits.history_page_limit.max(1);
        wanted.map_or(rooms::PAGE_DEFAULT, |wanted| usize::try_from(wanted).unwrap_or(limit)).min(limit)
    }
}

/// Which port a request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Main,
    Admin,
}

/// A method of a path and what answers it. The router is made of these and of nothing else, so that a list of them is a
/// list of all there is.
pub(crate) struct Route {
    pub method: Method,
    pub path: &'static str,
    answer: MethodRouter<Arc<App>>,
}

impl Route {
    pub(crate) fn new<H, T>(method: Method, path: &'static str, handler: H) -> Route
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        let filter = match method {
            Method::POST => MethodFilter::POST,
            Method::DELETE => MethodFilter::DELETE,
            // HEAD with it.
            _ => MethodFilter::GET,
        };
        Route { method, path, answer: on(filter, handler) }
    }
}

/// Every route of the main port.
fn routes(settings: &Settings) -> Vec<Route> {
    let mut routes = accounts::routes();
    routes.extend(rooms::routes());
    routes.extend(messages::routes());
    routes.extend(operations::routes());
    routes.extend(page::routes());
    routes.extend(upgrade::routes(settings));
    routes
}

/// The service. Cheap to share; everything it does runs on the tokio runtime of whoever calls [`Service::serve`],
/// except the hashing of passwords, which has threads of its own.
pub struct Service {
    app: Arc<App>,
    main: Router,
    admin: Router,
}

impl Service {
    /// Starts the password threads and builds the routes. An error says that a thread can't be started, or that the
    /// password cost is none that argon2 takes.
    pub fn new(
        store: SharedStore,
        tokens: Arc<Tokens>,
        chat: SharedChat,
        settings: Settings,
    ) -> io::Result<Arc<Service>> {
        let hasher = Argon2id::new(settings.password_cost).map_err(io::Error::other)?;
        let limits = &settings.limits;
        let passwords = PasswordPool::start(
            Arc::new(hasher),
            limits.password_threads,
            limits.password_queue_limit,
            limits.passwords_per_address_limit,
        )?;
        Ok(Service::with_passwords(store, tokens, chat, settings, passwords))
    }

    /// The same with other password threads. For tests.
    pub fn with_passwords(
        store: SharedStore,
        tokens: Arc<Tokens>,
        chat: SharedChat,
        settings: Settings,
        passwords: PasswordPool,
    ) -> Arc<Service> {
        let limits = &settings.limits;
        let publish_rate = RateLimiter::new(limits.publish_rate_per_second, limits.publish_burst_limit);
        let page = Page::new(settings.page);
        let app = Arc::new(App { store, tokens, chat, settings, passwords, publish_rate, page });
        let mut main = router(routes(&app.settings), page::file, &app);
        if let Some(cors) = app.settings.origins.cors() {
            main = main.layer(cors);
        }
        let admin = router(operations::admin_routes(), async || not_found(), &app);
        Arc::new(Service { app, main, admin })
    }

    /// The routes of the main port, as (method, path); parameters in braces.
    pub fn routes(&self) -> Vec<(Method, &'static str)> {
        routes(&self.app.settings).into_iter().map(|route| (route.method, route.path)).collect()
    }

    /// Counts of the password threads.
    pub fn password_figures(&self) -> crate::passwords::Figures {
        self.app.passwords.figures()
    }

    /// Serves one connection of the main port to its end. `prefix`: bytes that were read from it already. When `drain`
    /// turns true (or its sender is dropped), the request under way is answered and the connection closed.
    ///
    /// Dropping the future ends the connection at once; what must not stay half done goes on by itself.
    pub async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        prefix: Bytes,
        drain: watch::Receiver<bool>,
    ) {
        self.serve_port(Port::Main, stream, peer, prefix, drain).await;
    }

    /// Serves one connection of the operators' own port: `/healthz`, `/readyz`, `/metrics`.
    pub async fn serve_admin(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        prefix: Bytes,
        drain: watch::Receiver<bool>,
    ) {
        self.serve_port(Port::Admin, stream, peer, prefix, drain).await;
    }

    async fn serve_port(
        self: Arc<Self>,
        port: Port,
        stream: TcpStream,
        peer: SocketAddr,
        prefix: Bytes,
        mut drain: watch::Receiver<bool>,
    ) {
        let limits = self.app.settings.limits.clone();
        // Answers are written whole; waiting for the acknowledgement of the one before only makes them late.
        let _ = stream.set_nodelay(true);
        let socket = Socket::new(stream, prefix, limits.write_timeout);
        let service = service_fn(move |request: Request<Incoming>| {
            let service = Arc::clone(&self);
            async move { Ok::<_, Infallible>(service.respond(port, peer, request).await) }
        });
        let head_limit = limits.head_limit_bytes.max(HEAD_LIMIT_LOW_BYTES);
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_timeout)
            .max_header_size(head_limit)
            .max_buf_size(head_limit)
            .serve_connection(socket, service)
            .with_upgrades();

        let served = {
            let mut draining = pin!(async {
                let _ = drain.wait_for(|draining| *draining).await;
            });
            tokio::select! {
                // The connection first: what has come before the drain is answered.
                biased;
                served = &mut connection => served,
                () = &mut draining => {
                    Pin::new(&mut connection).graceful_shutdown();
                    match tokio::time::timeout(limits.drain_timeout, &mut connection).await {
                        Ok(served) => served,
                        Err(_) => {
                            tracing::debug!(%peer, "cut: its request was not finished when the server had to stop");
                            return;
                        }
                    }
                }
            }
        };
        if let Err(error) = served {
            tracing::debug!(%peer, %error, "connection ended");
        }
        // None when the socket went on to be a WebSocket.
        if let Some(parts) = connection.into_parts() {
            parts.io.linger(limits.linger_timeout).await;
        }
    }

    async fn respond(&self, port: Port, peer: SocketAddr, mut request: Request<Incoming>) -> Response {
        let started = Instant::now();
        let proxies = &self.app.settings.trusted_proxies;
        let client = addresses::client_address(peer.ip(), request.headers(), proxies);
        let by_https = addresses::came_by_https(peer.ip(), request.headers(), proxies);
        request.extensions_mut().insert(Client(client));
        request.extensions_mut().insert(ByHttps(by_https));
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(port);
        // The path only: a query can hold a token.
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let router = match port {
            Port::Main => self.main.clone(),
            Port::Admin => self.admin.clone(),
        };
        let answer = router.oneshot(request.map(Body::new));
        let mut response = match tokio::time::timeout(self.app.settings.limits.request_timeout, answer).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => ApiError::new(
                Code::DeadlinePassed,
                "the answer was not ready in time; if the request was to change something, it is not known whether it \
                 did",
            )
            .retry_after(1)
            .into_response(),
        };
        // Answers hold tokens and private messages; nothing of them is to lie in a cache or be taken for a page.
        let is_unchanged = response.status() == StatusCode::NOT_MODIFIED;
        let headers = response.headers_mut();
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if is_unchanged {
            // The router counts the bytes that are sent; it could only be what the whole answer has (RFC 9110 section
            // 8.6).
            headers.remove(header::CONTENT_LENGTH);
        }
        tracing::debug!(
            %method, path, %client, status = response.status().as_u16(), took_us = started.elapsed().as_micros() as u64,
            "answered"
        );
        response
    }
}

/// `otherwise` answers at paths that no route has.
fn router<H, T>(routes: Vec<Route>, otherwise: H, app: &Arc<App>) -> Router
where
    H: Handler<T, Arc<App>>,
    T: 'static,
{
    routes
        .into_iter()
        .fold(Router::new(), |router, route| router.route(route.path, route.answer))
        .fallback(otherwise)
        .method_not_allowed_fallback(async || {
            ApiError::new(Code::MethodNotAllowed, "this path does not take this method; `Allow` lists those it takes")
        })
        .with_state(Arc::clone(app))
}

pub(crate) fn not_found() -> ApiError {
    ApiError::new(Code::NotFound, "there is nothing at this path; /openapi.json lists what there is")
}

/// Runs to the end what must not stop half way, even when the client goes away or the deadline passes: after a commit
/// the chat has to hear of it.
pub(crate) async fn finish<F>(work: F) -> Result<Response, ApiError>
where
    F: Future<Output = Result<Response, ApiError>> + Send + 'static,
{
    tokio::spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request failed");
        Err(ApiError::new(Code::Internal, "the server is at fault"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_was_begun_is_finished_when_nobody_waits_for_it() {
        let (commit, committed) = oneshot::channel::<()>();
        let (learn, learned) = oneshot::channel();
        let request = tokio::spawn(finish(async move {
            let _ = committed.await;
            let _ = learn.send(());
            Ok(Response::default())
        }));
        // The work runs, and waits for the database; then the client goes away.
        tokio::task::yield_now().await;
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        commit.send(()).unwrap();
        assert_eq!(learned.await, Ok(()));
    }
}
