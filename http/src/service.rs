//! The service: its routers, and each connection from its first byte to its last.

use crate::api::{self, Audit, Keys, RowAnswer, RowProgress, Shares};
use crate::app::{App, Port, Route};
use crate::assets::Assets;
use crate::attempts::Attempts;
use crate::bodies::{AuthenticatedUser, Bodies, Holder};
use crate::chat::{Adopted, SharedChat};
use crate::errors::{ApiError, Code};
use crate::exchanges::Exchanges;
use crate::input::{ClientAddress, Query, ViaHttps};
use crate::passwords::{self, Argon2id, PasswordPool};
use crate::rate::RateLimiter;
use crate::readiness::Readiness;
use crate::security_log::SecurityLog;
use crate::settings::Settings;
use crate::slots::{Slot, Slots};
use crate::socket::{Progress, Socket};
use crate::stream::Stream;
use crate::tokens::Tokens;
use crate::traces::{CallSpan, OpenSpan, SharedTraces};
use crate::upgrade::HandBack;
use crate::{
    accounts, addresses, direct, hooks, invites, messages, moderation, oidc, operations, page, redirect, rooms, upgrade,
};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::handler::Handler;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use garde::Validate;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, Parts};
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use serde::Deserialize;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Once};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tower::ServiceExt;
use tower::util::MapRequestLayer;
use uproar_core::limits::Limits;
use uproar_core::websocket::head;
use uproar_model::fairness::Prefix;
use uproar_store::{ApiKey, OutboxRow, SharedStore};
use uproar_tls::Session;

/// How long browsers remember that the server speaks TLS, with `--hsts`: a year.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// hyper accepts no lower limit for heads.
const HEAD_LIMIT_MIN_BYTES: usize = 8 * 1024;

/// Every route of the main port.
fn routes(settings: &Settings) -> Vec<Route> {
    let mut routes = accounts::routes();
    routes.extend(rooms::routes());
    routes.extend(direct::routes());
    routes.extend(moderation::routes());
    routes.extend(messages::routes());
    routes.extend(oidc::routes());
    routes.extend(hooks::routes());
    routes.extend(invites::routes());
    routes.extend(operations::routes());
    routes.extend(page::routes());
    routes.extend(upgrade::routes(settings));
    if !settings.has_admin_port {
        routes.extend(api::routes());
    }
    routes
}

/// Every route of the operators' port.
fn admin_routes() -> Vec<Route> {
    let mut routes = operations::admin_routes();
    routes.extend(api::routes());
    routes
}

/// The service. All its work runs on the tokio runtime that calls [`Service::serve`], except password hashing, which
/// has threads of its own.
pub struct Service {
    app: Arc<App>,
    main: Router,
    admin: Router,
    redirect: Router,
    bodies: Arc<Bodies>,
    main_slots: Arc<Slots>,
    admin_slots: Arc<Slots>,
    untrusted_proxy: Once,
    /// If there is none, calls have no spans.
    traces: Option<SharedTraces>,
}

impl Service {
    /// Starts the password threads and builds the routers. Fails if a thread can't be started or argon2 does not accept
    /// the password cost.
    pub fn new(
        store: SharedStore,
        tokens: Arc<Tokens>,
        chat: SharedChat,
        settings: Settings,
        traces: Option<SharedTraces>,
    ) -> io::Result<Arc<Service>> {
        let hasher = Argon2id::new(settings.password_cost).map_err(io::Error::other)?;
        let limits = &settings.limits;
        let passwords = PasswordPool::start(
            Arc::new(hasher),
            limits.password_threads as usize,
            limits.password_queue_limit as usize,
            limits.passwords_per_address_limit as usize,
        )?;
        Ok(Service::with_passwords(store, tokens, chat, settings, traces, passwords))
    }

    /// Like [`Service::new`], with the given password threads. For tests.
    pub fn with_passwords(
        store: SharedStore,
        tokens: Arc<Tokens>,
        chat: SharedChat,
        settings: Settings,
        traces: Option<SharedTraces>,
        passwords: PasswordPool,
    ) -> Arc<Service> {
        let limits = &settings.limits;
        let publish_rate = RateLimiter::new(limits.publish_rate());
        let hook_rate = RateLimiter::new(limits.hook_posts_rate());
        let attempts = Attempts::new(limits, Instant::now());
        let (api_rate, api_shares) = (RateLimiter::new(limits.api_rate()), Shares::new(limits.surveys_limit));
        let assets = Assets::new(settings.assets, &settings.embed_origins);
        let security_log = SecurityLog::new(Instant::now());
        let app = Arc::new(App {
            store,
            tokens,
            chat,
            settings,
            passwords,
            attempts,
            security_log,
            exchanges: Exchanges::default(),
            publish_rate,
            hook_rate,
            assets,
            readiness: Readiness::default(),
            api_keys: Keys::default(),
            api_rate,
            api_shares,
            audit: Audit::default(),
            started: Instant::now(),
        });
        let mut all = routes(&app.settings);
        if traces.is_some() {
            all = all.into_iter().map(with_span).collect();
        }
        let mut main = router(all, page::file, &app);
        if let Some(cors) = app.settings.origins.cors() {
            main = main.layer(cors);
        }
        let admin = router(admin_routes(), async || ApiError::no_such_path(), &app);
        let redirect = router(Vec::new(), redirect::to_https, &app);
        let limits = &app.settings.limits;
        let bodies = Bodies::new(limits.http_outbound_limit_bytes);
        let main_slots = Slots::new(limits.http_connections_limit as usize);
        let admin_slots = Slots::new(limits.admin_connections_limit as usize);
        let untrusted_proxy = Once::new();
        Arc::new(Service { app, main, admin, redirect, bodies, main_slots, admin_slots, untrusted_proxy, traces })
    }

    /// The routes of the main port as (method, path), with parameters in braces.
    pub fn routes(&self) -> Vec<(Method, &'static str)> {
        routes(&self.app.settings).into_iter().map(|route| (route.method, route.path)).collect()
    }

    /// Writes the audit log of the server API, until it is dropped.
    pub async fn keep_audit(self: Arc<Self>) {
        api::keep_audit(&self.app).await;
    }

    /// Writes what the audit log still lacks, when nothing is served any more.
    pub async fn finish_audit(&self) {
        api::finish_audit(&self.app).await;
    }

    /// Executes a row of the outbox with the rights of a key. It is executed to its end even if the caller does not
    /// wait for that. `progress`: of the earlier attempts of this row, as far as they are known.
    pub async fn execute_row(&self, key: &Arc<ApiKey>, row: &OutboxRow, progress: &Arc<RowProgress>) -> RowAnswer {
        let (app, key, row, progress) = (Arc::clone(&self.app), Arc::clone(key), row.clone(), Arc::clone(progress));
        let executed = tokio::spawn(async move { api::execute_row(&app, &key, &row, &progress).await });
        // The panic hook has reported a panic.
        executed.await.unwrap_or_else(|_| RowAnswer::Later("the server failed".to_owned()))
    }

    /// What the password threads count.
    pub fn password_metrics(&self) -> passwords::Metrics {
        self.app.passwords.metrics()
    }

    /// A place for a connection of the main port, if its client may have one. `prefix`: bytes already read from it.
    pub fn slot(&self, peer: SocketAddr, prefix: &[u8]) -> Option<Slot> {
        self.main_slots.enter(peer.ip(), prefix, &self.app.settings.trusted_proxies)
    }

    /// A place for a connection of the admin port, if its client may have one.
    pub fn admin_slot(&self, peer: SocketAddr) -> Option<Slot> {
        self.admin_slots.enter(peer.ip(), &[], &[])
    }

    /// Serves one connection of the main port until it closes. `tls`: its session, if it speaks TLS. `prefix`: bytes
    /// already read from it, as plaintext. When `drain` turns true (or its sender is dropped), the request in progress
    /// is answered and the connection closed.
    ///
    /// Dropping the future closes the connection immediately. Work that must not stop halfway continues on its own.
    pub async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        tls: Option<Box<Session>>,
        peer: SocketAddr,
        prefix: Bytes,
        drain: watch::Receiver<bool>,
        slot: Slot,
    ) {
        self.serve_port(Port::Main, Stream::new(stream, tls), peer, prefix, drain, slot).await;
    }

    /// Serves one connection of the port that sends clients from HTTP to HTTPS. `tls_port`: where they find it.
    pub async fn serve_redirect(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        tls_port: u16,
        drain: watch::Receiver<bool>,
        slot: Slot,
    ) {
        self.serve_port(Port::Redirect { tls_port }, Stream::new(stream, None), peer, Bytes::new(), drain, slot).await;
    }

    /// Serves one connection of the admin port: `/healthz`, `/readyz`, `/metrics`, and the server API.
    pub async fn serve_admin(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        drain: watch::Receiver<bool>,
        slot: Slot,
    ) {
        self.serve_port(Port::Admin, Stream::new(stream, None), peer, Bytes::new(), drain, slot).await;
    }

    async fn serve_port(
        self: Arc<Self>,
        port: Port,
        stream: Stream,
        peer: SocketAddr,
        prefix: Bytes,
        mut drain: watch::Receiver<bool>,
        slot: Slot,
    ) {
        let progress = Progress::new(slot, prefix.is_empty());
        let limits = self.app.settings.limits.clone();
        // Responses are written whole, so waiting for the previous acknowledgement would only delay them.
        stream.set_nodelay();
        let is_tls = stream.is_tls();
        let write_timeout = Duration::from_millis(limits.write_timeout_ms);
        let head_timeout = Duration::from_millis(limits.head_timeout_ms);
        let socket = Socket::new(stream, prefix, write_timeout, head_timeout, progress.clone());
        let hand_back = Arc::new(HandBack::default());
        let app = Arc::clone(&self.app);
        let service = {
            let (hand_back, progress) = (Arc::clone(&hand_back), progress.clone());
            service_fn(move |request: Request<Incoming>| {
                let (service, progress) = (Arc::clone(&self), progress.clone());
                progress.begin_response();
                let is_taken = port == Port::Main && hand_back.takes(&request);
                async move {
                    if is_taken {
                        // The connection is taken from hyper before it can be answered.
                        return std::future::pending().await;
                    }
                    let response = service.respond(port, is_tls, peer, request).await;
                    progress.end_response();
                    Ok::<_, Infallible>(response)
                }
            })
        };
        let head_limit = (limits.head_limit_bytes as usize).max(HEAD_LIMIT_MIN_BYTES);
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // Hyper's timeout also covers the time between requests. The socket has the one for a head.
            .header_read_timeout(Duration::from_millis(limits.idle_timeout_ms))
            .max_header_size(head_limit)
            .max_buf_size(head_limit)
            // A client may close its sending half after its request, and read the answer.
            .half_close(true)
            // A place for health checks is kept only for one of them, and a redirect leads to another connection.
            .keep_alive(!progress.slot().is_reserved && !matches!(port, Port::Redirect { .. }))
            .serve_connection(socket, service);
        // Serves until the connection closes, or a request asks for a WebSocket and all answers before it are written.
        let mut upgrade = None;
        let mut serve = poll_fn(|cx| {
            let served = Pin::new(&mut connection).poll(cx);
            upgrade = upgrade.take().or_else(|| hand_back.head());
            if upgrade.is_some() && progress.is_flushed() { Poll::Ready(Ok(())) } else { served }
        });

        let served = {
            let mut draining = pin!(async {
                let _ = drain.wait_for(|draining| *draining).await;
            });
            tokio::select! {
                // The connection comes first, so that a request that arrived before the drain is answered.
                biased;
                served = &mut serve => served,
                () = progress.slot().evicted() => {
                    Pin::new(&mut connection).graceful_shutdown();
                    // An idle connection closes immediately. There is nothing that its client has yet to receive.
                    let timeout = Duration::from_millis(limits.linger_timeout_ms);
                    let _ = tokio::time::timeout(timeout, &mut connection).await;
                    return;
                }
                () = &mut draining => {
                    Pin::new(&mut connection).graceful_shutdown();
                    let timeout = Duration::from_millis(limits.request_drain_timeout_ms);
                    match tokio::time::timeout(timeout, &mut connection).await {
                        Ok(served) => served,
                        Err(_) => {
                            tracing::debug!(%peer, "connection aborted: its request outlasted the drain");
                            return;
                        }
                    }
                }
            }
        };
        if let Err(error) = served {
            tracing::debug!(%peer, %error, "connection failed");
        }
        let Parts { io, read_buf, .. } = connection.into_parts();
        match upgrade {
            Some(head) => hand_back_to_shard(&app, io, peer, head, &read_buf),
            None => io.linger(Duration::from_millis(limits.linger_timeout_ms)).await,
        }
    }

    async fn respond(&self, port: Port, is_tls: bool, peer: SocketAddr, mut request: Request<Incoming>) -> Response {
        let proxies = &self.app.settings.trusted_proxies;
        let traces = self.traces.as_ref().filter(|_| port == Port::Main);
        let span = traces.and_then(|traces| OpenSpan::begin(traces, is_tls, peer.ip(), proxies, &mut request));
        let response = self.answer(port, is_tls, peer, request).await;
        if let Some(span) = span {
            span.end(response.status());
        }
        response
    }

    async fn answer(&self, port: Port, is_tls: bool, peer: SocketAddr, mut request: Request<Incoming>) -> Response {
        let started = Instant::now();
        let proxies = &self.app.settings.trusted_proxies;
        let client = addresses::client_address(peer.ip(), request.headers(), proxies);
        let via_https = is_tls || addresses::is_via_https(peer.ip(), request.headers(), proxies);
        if port == Port::Main && addresses::is_from_untrusted_proxy(peer.ip(), request.headers(), proxies) {
            self.untrusted_proxy.call_once(|| {
                tracing::warn!(
                    peer = %client,
                    "ignored the headers by which a proxy names its client; if this peer is your proxy, name it with \
                     --trusted-proxy, because its clients now count as one"
                );
            });
        }
        request.extensions_mut().insert(ClientAddress(client));
        request.extensions_mut().insert(ViaHttps(via_https));
        request.extensions_mut().insert(port);
        let user = AuthenticatedUser::default();
        request.extensions_mut().insert(user.clone());
        // Only the path is logged: a query can contain a token. So can the path of a hook.
        let (method, path) = (request.method().clone(), hooks::without_secret(request.uri().path()).into_owned());
        let router = match port {
            Port::Main => self.main.clone(),
            Port::Admin => self.admin.clone(),
            Port::Redirect { .. } => self.redirect.clone(),
        };
        if let Err(error) = check_head(&request) {
            let mut response = error.into_response();
            // Where the next request begins is uncertain.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return protected(response);
        }
        let response = router.oneshot(request.map(Body::new));
        let timeout = Duration::from_millis(self.app.settings.limits.request_timeout_ms);
        let response = match tokio::time::timeout(timeout, response).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => ApiError::new(
                Code::DeadlinePassed,
                "the response was not ready in time; if the request was meant to change something, it is not known \
                 whether it did",
            )
            .retry_after(1)
            .into_response(),
        };
        let holder = user.get().map_or(Holder::Address(Prefix::of(client)), Holder::User);
        let mut response = protected(self.hold_body(response, holder, method.is_safe()).await);
        if response.status() == StatusCode::NOT_MODIFIED {
            // The router has set the length of the empty body, but only the file's would be valid (RFC 9110, section
            // 8.6).
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        if self.app.settings.hsts && via_https {
            response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
        }
        tracing::debug!(
            %method, path, %client, status = response.status().as_u16(), took_us = started.elapsed().as_micros() as u64,
            "answered"
        );
        response
    }

    /// Counts the body of a response until the client has read it. A response that says what was changed is never
    /// refused.
    async fn hold_body(&self, response: Response, holder: Holder, may_refuse: bool) -> Response {
        let (head, body) = response.into_parts();
        // All bodies are in memory.
        let Ok(bytes) = to_bytes(body, usize::MAX).await else { return ApiError::internal().into_response() };
        match self.bodies.hold(bytes, holder, may_refuse) {
            Some(bytes) => Response::from_parts(head, Body::from(bytes)),
            None => too_much_unread(),
        }
    }
}

/// The answer to a request for more than a client may leave unread.
fn too_much_unread() -> Response {
    let message = "too many bytes of earlier responses are unread; read them first";
    ApiError::new(Code::Overloaded, message).retry_after(1).into_response()
}

/// Gives a connection to a shard, with a request that is not answered and the bytes after it that have been read.
fn hand_back_to_shard(app: &App, socket: Socket, peer: SocketAddr, mut bytes: Vec<u8>, read: &[u8]) {
    let (stream, unread) = socket.into_parts();
    let (stream, tls, undecoded) = stream.into_parts();
    bytes.extend_from_slice(read);
    bytes.extend_from_slice(&unread);
    bytes.extend_from_slice(&undecoded);
    match stream.into_std() {
        Ok(socket) => app.chat.adopt(Adopted { socket, tls, peer, bytes }),
        Err(error) => tracing::warn!(%peer, %error, "can't detach a socket from the runtime; it is closed"),
    }
}

/// Responses contain tokens and private messages. They must not be cached, nor mistaken for HTML.
fn protected(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Checks what hyper leaves to the service.
fn check_head<B>(request: &Request<B>) -> Result<(), ApiError> {
    let bad = |message: &'static str| Err(ApiError::new(Code::BadRequest, message));
    let headers = request.headers();
    if !has_plain_framing(headers) {
        return bad("the only Transfer-Encoding that this server reads is a single 'chunked'");
    }
    let mut hosts = headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes).peekable();
    let needs_host = request.version() != Version::HTTP_10 || hosts.peek().is_some();
    if needs_host && head::host(hosts).is_none() {
        return bad(head::HOST_RULE);
    }
    let mut expected = headers.get_all(header::EXPECT).iter();
    if expected.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(ApiError::new(Code::ExpectationFailed, "the only 'Expect' that this server knows is 100-continue"));
    }
    Ok(())
}

/// Whether the request's body is framed in the only way that every server and proxy reads alike. Hyper has checked its
/// length.
fn has_plain_framing(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// The same route, whose handler also notes in the span of a call that it was chosen.
fn with_span(route: Route) -> Route {
    let Route { method, path, handler, takes_query } = route;
    let handler = handler.layer(MapRequestLayer::new(move |request: Request<Body>| {
        if let Some(span) = request.extensions().get::<CallSpan>() {
            span.set_route(path);
        }
        request
    }));
    Route { method, path, handler, takes_query }
}

/// For routes that take no query: a parameter would be ignored, which its sender could not notice.
async fn refuse_query(_: Query<NoParameters>, request: Request<Body>, next: Next) -> Response {
    next.run(request).await
}

#[derive(Deserialize, Validate)]
#[garde(context(Limits))]
struct NoParameters {}

/// A router of these routes. `fallback` handles all other paths.
fn router<H, T>(routes: Vec<Route>, fallback: H, app: &Arc<App>) -> Router
where
    H: Handler<T, Arc<App>>,
    T: 'static,
{
    routes
        .into_iter()
        .fold(Router::new(), |router, Route { path, handler, takes_query, .. }| {
            let refuse = middleware::from_fn_with_state(Arc::clone(app), refuse_query);
            router.route(path, if takes_query { handler } else { handler.layer(refuse) })
        })
        .fallback(fallback)
        .method_not_allowed_fallback(async || {
            ApiError::new(
                Code::MethodNotAllowed,
                "this path does not support this method; `Allow` lists those that it does",
            )
        })
        .with_state(Arc::clone(app))
}
