//! Proves that traces reach a collector, and that one that is slow, away or displeased does no harm. The collector
//! decodes what it gets with OpenTelemetry's own crate.

use crate::client::{Http, within};
use crate::databases::Kind;
use crate::server::{Server, Setup, assert_contains, run, until, with_limits};
use crate::tunnel::Pair;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

on_each_database! {
    a_call_and_its_commit_are_in_one_trace
    a_commit_without_an_answer_and_a_failed_call_are_errors
}

/// What the collector answers to a request.
pub enum Answer {
    /// Status, further headers, and body.
    Status(u16, &'static str, Vec<u8>),
    Silence,
}

struct Received {
    headers: BTreeMap<String, String>,
    path: String,
    body: Vec<u8>,
}

/// A collector. It takes everything, once it has given the answers that it was told to give.
#[derive(Clone, Default)]
pub struct Collector {
    port: u16,
    connections: Arc<AtomicUsize>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Collector {
    pub async fn start(answers: impl IntoIterator<Item = Answer>) -> Collector {
        Collector::listen(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port"), None, answers)
    }

    fn listen(listener: TcpListener, tls: Option<TlsAcceptor>, answers: impl IntoIterator<Item = Answer>) -> Collector {
        let port = listener.local_addr().expect("an address").port();
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        let collector = Collector { port, answers, ..Collector::default() };
        let accepting = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepting.connections.fetch_add(1, Ordering::Relaxed);
                let (collector, tls) = (accepting.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => collector.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                collector.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        collector
    }

    /// Serves one connection until it ends.
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut unread = Vec::new();
        loop {
            let (mut received, length) = loop {
                if let Some(head) = parse_head(&unread) {
                    break head;
                }
                if stream.read_buf(&mut unread).await.unwrap_or(0) == 0 {
                    return;
                }
            };
            unread.drain(..length);
            let length = received.headers["content-length"].parse().expect("a length");
            while unread.len() < length {
                assert!(stream.read_buf(&mut unread).await.unwrap_or(0) > 0, "the request is cut off");
            }
            received.body = unread.drain(..length).collect();
            self.received.lock().unwrap().push(received);
            let answer = self.answers.lock().unwrap().pop_front();
            let (status, headers, body) = match answer {
                Some(Answer::Silence) => return std::future::pending().await,
                Some(Answer::Status(status, headers, body)) => (status, headers, body),
                None => (200, "", Vec::new()),
            };
            let head = format!("HTTP/1.1 {status} Status\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
            if stream.write_all(&[head.as_bytes(), &body].concat()).await.is_err() {
                return;
            }
        }
    }

    fn url(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    /// The bodies of all requests.
    fn bodies(&self) -> Vec<Vec<u8>> {
        self.received.lock().unwrap().iter().map(|received| received.body.clone()).collect()
    }

    fn resources(&self) -> Vec<ResourceSpans> {
        let decode = |body: Vec<u8>| ExportTraceServiceRequest::decode(&*body).expect("OTLP").resource_spans;
        self.bodies().into_iter().flat_map(decode).collect()
    }

    /// All spans that were received.
    pub fn spans(&self) -> Vec<Span> {
        let scopes = self.resources().into_iter().flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// The only span with this name.
    #[track_caller]
    fn span(&self, name: &str) -> Span {
        let spans = self.spans();
        let mut found = spans.iter().filter(|span| span.name == name);
        match (found.next(), found.next()) {
            (Some(span), None) => span.clone(),
            _ => panic!("not one span {name}: {:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>()),
        }
    }

    /// Waits for a request.
    async fn receives(&self, requests: usize) {
        until("spans arrive", async || self.received.lock().unwrap().len() >= requests).await;
    }
}

fn parse_head(bytes: &[u8]) -> Option<(Received, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = request.parse(bytes) else { return None };
    assert_eq!(request.method, Some("POST"));
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = request.headers.iter().map(|header| (header.name.to_lowercase(), text(header.value))).collect();
    Some((Received { headers, path: request.path.expect("a path").to_owned(), body: Vec::new() }, length))
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let value = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{}: {other:?}", attribute.key),
    };
    attributes.iter().map(|attribute| (attribute.key.as_str(), value(attribute))).collect()
}

#[track_caller]
fn assert_attributes(span: &Span, expected: &[(&str, &str)]) {
    let all = attributes(&span.attributes);
    for (key, value) in expected {
        assert_eq!(all.get(key).map(String::as_str), Some(*value), "{key} in {all:?}");
    }
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

/// A server that sends traces to this collector, with these further options.
pub async fn traced(kind: Kind, collector: &Collector, options: &[&str]) -> Server {
    Server::start(kind, &[&["--otlp", &collector.url()], options].concat()).await
}

async fn a_call_and_its_commit_are_in_one_trace(kind: Kind) {
    let collector = Collector::start([]).await;
    let mut server = traced(kind, &collector, &[]).await;
    let ann = server.user("annabel").await;
    server.create_room(&ann, "hideaway").await;
    server.post("/rooms/hideaway/messages", &ann.token, json!({"text": "By the old mill"})).await.expect(201);
    // Nothing but its commit belongs to a message that comes over a WebSocket.
    let mut ws = server.join(&ann, "room=hideaway").await;
    ws.round_trip("At nine").await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        server.get(path, "").await;
    }
    server.get("/nothing/here", "").await.error();
    // It sends what waits.
    server.stop().await;

    let call = collector.span("POST /rooms/{name}/messages");
    assert_eq!((call.kind(), call.trace_id.len(), call.span_id.len()), (SpanKind::Server, 16, 8));
    assert!(call.parent_span_id.is_empty() && !is_error(&call));
    assert!(call.start_time_unix_nano < call.end_time_unix_nano);
    assert_attributes(
        &call,
        &[
            ("http.request.method", "POST"),
            ("http.route", "/rooms/{name}/messages"),
            ("http.response.status_code", "201"),
            ("url.scheme", if crate::tunnel::is_wanted() { "https" } else { "http" }),
        ],
    );
    let spans = collector.spans();
    let commits = spans.iter().filter(|span| span.name == "append messages");
    let (with_call, alone): (Vec<&Span>, Vec<&Span>) = commits.partition(|span| span.trace_id == call.trace_id);
    let ([with_call], [alone]) = (&with_call[..], &alone[..]) else { panic!("{with_call:?}, {alone:?}") };
    assert!(with_call.parent_span_id == call.span_id && alone.parent_span_id.is_empty());
    assert!(call.start_time_unix_nano <= with_call.start_time_unix_nano);
    assert!(with_call.end_time_unix_nano <= call.end_time_unix_nano);
    for commit in [with_call, alone] {
        assert!(commit.kind() == SpanKind::Client && !is_error(commit));
        let database = if kind == Kind::Sqlite { "sqlite" } else { "postgresql" };
        let expected = [("db.system.name", database), ("uproar.batch.items", "1"), ("uproar.batch.stored", "1")];
        assert_attributes(commit, &expected);
    }
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert!(!names.iter().any(|name| name.contains("healthz") || name.contains("metrics") || name.contains("readyz")));
    let mut ids: Vec<_> = spans.iter().map(|span| &span.span_id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), spans.len());
    // A path without a route, which anyone can choose, is no name.
    assert_attributes(&collector.span("GET"), &[("http.response.status_code", "404")]);

    let resource = collector.resources().remove(0).resource.expect("a resource");
    let resource = attributes(&resource.attributes);
    assert_eq!((&*resource["service.name"], &*resource["service.version"]), ("uproar", env!("CARGO_PKG_VERSION")));
    assert!(!resource["service.instance.id"].is_empty());
    for body in collector.bodies() {
        let text = String::from_utf8_lossy(&body);
        for secret in ["annabel", "hideaway", "mill", "nine", "nothing/here", "127.0.0.1", &ann.token] {
            assert!(!text.contains(secret), "{secret}");
        }
    }
}

async fn a_commit_without_an_answer_and_a_failed_call_are_errors(kind: Kind) {
    let collector = Collector::start([]).await;
    // The first attempt ends before its call is answered.
    let limits = ["store_timeout_ms=300", "append_deadline_ms=1500"];
    let mut server = traced(kind, &collector, &with_limits(&[], &limits)).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut backdoor = server.setup.backdoor().await;
    backdoor.hold_commits().await;
    let failed = server.post("/rooms/r/messages", &ann.token, json!({"text": "stuck"})).await;
    assert!(failed.status >= 500, "{}", failed.status);
    until("a commit got no answer", async || server.metric("uproar_batches_unknown_total").await > 0.0).await;
    backdoor.release_commits().await;
    until("the batch is stored", async || server.head(&ann, "r").await == 1).await;
    server.stop().await;
    let call = collector.span("POST /rooms/{name}/messages");
    let status = failed.status.to_string();
    assert!(is_error(&call));
    assert_attributes(&call, &[("http.response.status_code", &status), ("error.type", &status)]);
    let spans = collector.spans();
    let attempts = spans.iter().filter(|span| span.name == "append messages" && is_error(span));
    let first = attempts.min_by_key(|span| span.start_time_unix_nano).expect("an attempt");
    assert_attributes(first, &[("error.type", "outcome_unknown"), ("uproar.batch.items", "1")]);
    assert!(first.trace_id == call.trace_id && first.parent_span_id == call.span_id);
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Makes a call with this header, and returns the trace, the parent and the links of its span, in hexadecimal.
async fn span_of_caller(options: &[&str], flags: &str) -> Option<(String, String, Vec<String>)> {
    let collector = Collector::start([]).await;
    let mut server = traced(Kind::Sqlite, &collector, options).await;
    let header = format!("00-{TRACE}-{PARENT}-{flags}");
    let mut http = Http::connect(server.port).await.expect("no connection");
    http.request("GET", "/openapi.json", &[("traceparent", &header)], None).await.expect("an answer").expect(200);
    server.stop().await;
    let spans = collector.spans();
    assert!(spans.len() <= 1);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let span = spans.first()?;
    assert_eq!(span.name, "GET /openapi.json");
    let links = span.links.iter().map(|link| format!("{}-{}", hex(&link.trace_id), hex(&link.span_id))).collect();
    Some((hex(&span.trace_id), hex(&span.parent_span_id), links))
}

#[tokio::test]
async fn a_trace_of_a_trusted_proxy_is_continued() {
    let trusted = ["--trusted-proxy", "127.0.0.1", "--otlp-sample", "0"];
    let (trace, parent, links) = span_of_caller(&trusted, "01").await.expect("a span");
    assert_eq!((&*trace, &*parent, links.len()), (TRACE, PARENT, 0));
    assert_eq!(span_of_caller(&["--trusted-proxy", "127.0.0.1"], "00").await, None, "the proxy does not record it");
}

#[tokio::test]
async fn anyone_else_begins_a_new_trace_that_is_linked_to_theirs() {
    let (trace, parent, links) = span_of_caller(&[], "00").await.expect("a span");
    assert!(trace != TRACE && parent.is_empty());
    assert_eq!(links, [format!("{TRACE}-{PARENT}")]);
    assert_eq!(span_of_caller(&["--otlp-sample", "0"], "01").await, None);
}

#[tokio::test]
async fn spans_wait_for_a_collector_that_comes_later() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().unwrap();
    drop(listener);
    let server = Server::start(Kind::Sqlite, &["--otlp", &format!("http://{address}/")]).await;
    server.get("/openapi.json", "").await.expect(200);
    until("the failure is logged", async || server.setup.log().contains("does not take the traces")).await;
    assert_contains(&server.setup.log(), &[&format!("http://{address}/v1/traces"), "can't connect", "unlogged"]);
    let collector = Collector::listen(TcpListener::bind(address).await.expect("the same port"), None, []);
    collector.receives(1).await;
    collector.span("GET /openapi.json");
    until("the recovery is logged", async || server.setup.log().contains("spans are sent")).await;
    assert_eq!(server.metric("uproar_spans_sent_total").await, 1.0);
    assert_eq!(server.setup.log().matches("does not take the traces").count(), 1);
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_spans_and_nothing_else() {
    let collector = Collector::start([Answer::Silence]).await;
    let mut server = traced(Kind::Sqlite, &collector, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    let mut http = Http::connect(server.port).await.expect("no connection");
    // Full batches are sent immediately; the collector keeps the first one.
    for _ in 0..4000 {
        http.request("GET", "/nothing", &[], None).await.expect("an answer").error();
    }
    ws.round_trip("hello").await;
    assert!(server.metric("uproar_spans_dropped_total").await > 1000.0);
    assert_eq!(server.metric("uproar_spans_sent_total").await, 0.0);
    // The server does not wait for it longer than it should.
    server.stop().await;
    assert_contains(&server.setup.log(), &["the last traces were not sent to", "spans="]);
}

/// A limit on file sizes makes a write fail, as a broken disk does.
#[tokio::test]
async fn a_server_that_ends_with_an_error_sends_the_last_spans_too() {
    let collector = Collector::start([]).await;
    let mut server = traced(Kind::Sqlite, &collector, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut log = server.setup.sqlite_file().into_os_string();
    log.push("-wal");
    let size = std::fs::metadata(log).expect("a log").len();
    let limit = Rlimit { current: Some(size), maximum: None };
    prlimit(Pid::from_raw(server.id() as i32), Resource::Fsize, limit).expect("a limit");
    let mut ws = server.join(&ann, "room=r").await;
    ws.send("never written").await;
    assert_eq!(server.exit().await.code(), Some(1));
    assert!(!is_error(&collector.span("POST /user/createroom")));
}

#[tokio::test]
async fn what_a_busy_collector_refuses_is_sent_again() {
    let busy = Answer::Status(503, "Retry-After: 1\r\nContent-Type: text/plain\r\n", b"too busy".to_vec());
    let collector = Collector::start([busy]).await;
    let server = traced(Kind::Sqlite, &collector, &[]).await;
    server.get("/openapi.json", "").await.expect(200);
    collector.receives(2).await;
    let bodies = collector.bodies();
    assert_eq!(bodies[0], bodies[1]);
    until("it is counted", async || server.metric("uproar_spans_sent_total").await == 1.0).await;
    assert_eq!(server.metric("uproar_spans_failed_total").await, 0.0);
    server.setup.logs(&["it answers 503: too busy"]).await;
    // Both requests came over one connection.
    assert_eq!(collector.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_a_collector_refuses_for_good_is_not_sent_again() {
    #[derive(Clone, PartialEq, Message)]
    struct RpcStatus {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
    }
    let status = RpcStatus { code: 3, message: "no such\ntenant".to_owned() }.encode_to_vec();
    let refusal = Answer::Status(400, "Content-Type: application/x-protobuf\r\n", status);
    let collector = Collector::start([refusal]).await;
    let mut server = traced(Kind::Sqlite, &collector, &[]).await;
    server.get("/openapi.json", "").await.expect(200);
    until("it is counted", async || server.metric("uproar_spans_failed_total").await == 1.0).await;
    server.setup.logs(&["it answers 400: no such tenant"]).await;
    server.get("/openapi.json", "").await.expect(200);
    server.stop().await;
    let bodies = collector.bodies();
    assert!(bodies.len() == 2 && bodies[0] != bodies[1], "{}", bodies.len());
}

#[tokio::test]
async fn spans_that_a_collector_rejects_are_counted_and_its_reason_is_logged() {
    let partial = ExportTracePartialSuccess { rejected_spans: 1, error_message: "too old".to_owned() };
    let answer = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let collector = Collector::start([Answer::Status(200, "Content-Type: application/x-protobuf\r\n", answer)]).await;
    let server = traced(Kind::Sqlite, &collector, &[]).await;
    for _ in 0..2 {
        server.get("/openapi.json", "").await.expect(200);
    }
    until("both are counted", async || server.metric("uproar_spans_sent_total").await == 1.0).await;
    assert_eq!(server.metric("uproar_spans_failed_total").await, 1.0);
    server.setup.logs(&["it took all but 1 of 2 spans: too old"]).await;
}

#[tokio::test]
async fn a_warning_of_a_collector_is_logged_and_no_failure() {
    let partial = ExportTracePartialSuccess { rejected_spans: 0, error_message: "use gzip".to_owned() };
    let answer = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let collector = Collector::start([Answer::Status(200, "Content-Type: application/x-protobuf\r\n", answer)]).await;
    let server = traced(Kind::Sqlite, &collector, &[]).await;
    server.get("/openapi.json", "").await.expect(200);
    until("it is logged", async || server.setup.log().contains("use gzip")).await;
    assert_eq!(server.metric("uproar_spans_sent_total").await, 1.0);
    assert!(!server.setup.log().contains("does not take the traces"));
}

#[tokio::test]
async fn headers_reach_the_collector_and_not_the_log() {
    let collector = Collector::start([]).await;
    let headers = "authorization=Bearer%20s3cret,x-tenant=7";
    let url = format!("{}/otlp/", collector.url());
    let mut server = Server::start(Kind::Sqlite, &["--otlp", &url, "--otlp-headers", headers, "--log", "debug"]).await;
    server.get("/openapi.json", "").await.expect(200);
    server.stop().await;
    assert!(!server.setup.log().contains("s3cret"));
    let received = collector.received.lock().unwrap();
    let [Received { headers, path, .. }] = &received[..] else { panic!("not one request") };
    assert_eq!(path, "/otlp/v1/traces");
    let expected = [
        ("authorization", "Bearer s3cret"),
        ("x-tenant", "7"),
        ("content-type", "application/x-protobuf"),
        ("host", &format!("localhost:{}", collector.port)),
    ];
    for (name, value) in expected {
        assert_eq!(headers[name], value);
    }
}

#[tokio::test]
async fn without_the_option_nothing_is_sent() {
    let collector = Collector::start([]).await;
    let mut setup = Setup::new(Kind::Sqlite, &[]).await;
    setup.wrapper = vec!["env".to_owned(), format!("OTEL_EXPORTER_OTLP_ENDPOINT={}", collector.url())];
    let mut server = setup.start().await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    server.stop().await;
    assert_eq!(collector.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_collector_is_reached_by_https_if_its_certificate_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::create(folder.path());
    let certificate = CertificateDer::from_pem_file(&pair.certificate).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a pair");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let collector = Collector::listen(listener, Some(TlsAcceptor::from(Arc::new(config))), []);
    let url = format!("https://localhost:{}", collector.port);
    let other = tempfile::tempdir().unwrap();
    let other = Pair::create(other.path()).certificate;
    for (trusted, is_trusted) in [(&pair.certificate, true), (&other, false)] {
        let mut setup = Setup::new(Kind::Sqlite, &["--otlp", &url]).await;
        setup.wrapper = vec!["env".to_owned(), format!("SSL_CERT_FILE={}", trusted.display())];
        let mut server = setup.start().await;
        server.get("/openapi.json", "").await.expect(200);
        server.stop().await;
        assert_eq!(server.setup.log().contains("invalid peer certificate"), !is_trusted, "{}", server.setup.log());
    }
    collector.span("GET /openapi.json");
    let mut setup = Setup::new(Kind::Sqlite, &["--otlp", &url]).await;
    setup.wrapper = ["env", "--unset=SSL_CERT_DIR", "SSL_CERT_FILE=/no/such/file"].map(ToOwned::to_owned).to_vec();
    let (_, line) = setup.fail_to_start().await;
    assert_contains(&line, &["no certificates with which to check", "at '/no/such/file'", "ca-certificates"]);
}

#[tokio::test]
async fn a_wrong_option_is_explained_before_the_start() {
    for (options, words) in [
        (&["--otlp", "localhost:4318"][..], ["--otlp: 'localhost:4318'", "such as http://localhost:4318"]),
        (&["--otlp", "http://localhost/v1/traces"], ["base URL", "leave out /v1/traces"]),
        (&["--otlp", "http://ann:secret@localhost"], ["must not contain a user or a password", "--otlp-headers"]),
        (&["--otlp", "grpc://ann:secret@localhost"], ["must not contain a user or a password", "--otlp-headers"]),
        (&["--otlp-headers", "a=b"], ["--otlp-headers has no effect without --otlp", "name the collector"]),
        (&["--otlp", "http://localhost:1", "--otlp-headers", "secret"], ["has no '='", "NAME=VALUE"]),
        (&["--otlp-sample", "2"], ["--otlp-sample", "a number from 0 to 1"]),
    ] {
        let (code, line) = Setup::new(Kind::Sqlite, options).await.fail_to_start().await;
        assert!(matches!(code, Some(1 | 2)), "{code:?}");
        assert_contains(&line, &words);
        assert!(!line.contains("secret"), "{line}");
    }
}

#[tokio::test]
async fn a_check_reports_whether_the_collector_can_be_reached() {
    let collector = Collector::start([]).await;
    let (folder, url) = (tempfile::tempdir().unwrap(), collector.url());
    let data = folder.path().join("data").display().to_string();
    let check = async |url: &str| {
        let arguments = ["check", "--listen", "127.0.0.1:0", "--data", &data, "--otlp", url];
        let output = within("the check ends", run(&arguments)).await;
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.success(), text(output.stdout), text(output.stderr))
    };
    let (can_start, good, _) = check(&url).await;
    assert!(can_start && good.contains(&format!("ok: collector of traces {url}/v1/traces")), "{good}");
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let (can_start, _, warnings) = check(&format!("http://{nobody}")).await;
    assert!(can_start, "a server starts without it: {warnings}");
    assert_contains(&warnings, &["warning: the collector http://", "can't be reached", "refused"]);
    let (can_start, _, problems) = check("ftp://localhost").await;
    assert!(!can_start && problems.contains("problem: --otlp: 'ftp://localhost'"), "{problems}");
    assert_eq!(collector.bodies().len(), 0, "a check sends no spans");
}
