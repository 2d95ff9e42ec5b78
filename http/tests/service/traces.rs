//! What the service tells of its calls, for traces.

use crate::support::{Client, Server, server_with_traces, settings, soon};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::mpsc;
use uproar_core::limits::Limits;
use uproar_http::{Call, CallEnd, Caller, Settings, SpanContext, Traces};

const CONTEXT: SpanContext = SpanContext { trace: 1, span: 2 };

/// Passes on every call.
struct AllCalls(mpsc::UnboundedSender<Call>);

impl Traces for AllCalls {
    fn begin(&self, _caller: Option<Caller>) -> Option<SpanContext> {
        Some(CONTEXT)
    }

    fn end(&self, call: Call) {
        let _ = self.0.send(call);
    }
}

/// A server with a room, its owner, and the calls that follow.
async fn start(limits: Limits) -> (Server, Client, mpsc::UnboundedReceiver<Call>) {
    let (calls, mut received) = mpsc::unbounded_channel();
    let server = server_with_traces(Settings { limits, ..settings() }, Arc::new(AllCalls(calls))).await;
    let mut ann = server.sign_up("ann").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    for route in ["/user/signup", "/user/createroom"] {
        assert_eq!(next(&mut received).await, (Some(route), Some(201)));
    }
    (server, ann, received)
}

/// Route and status of the next call.
async fn next(calls: &mut mpsc::UnboundedReceiver<Call>) -> (Option<&'static str>, Option<u16>) {
    let call = soon(calls.recv()).await.expect("a call");
    assert_eq!(call.context, CONTEXT);
    let status = match call.end {
        CallEnd::Answered(status) => Some(status.as_u16()),
        CallEnd::ConnectionClosed => None,
        CallEnd::Panicked => panic!("{call:?}"),
    };
    (call.route, status)
}

#[tokio::test]
async fn a_call_has_its_route_whatever_the_answer() {
    let (server, mut ann, mut calls) = start(Limits::default()).await;
    ann.post("/rooms/lobby/messages", json!({"text": "hello"})).await.expect(201);
    assert_eq!(next(&mut calls).await, (Some("/rooms/{name}/messages"), Some(201)));
    assert_eq!(server.chat.published.lock().unwrap()[0].span, Some(CONTEXT));
    ann.post("/rooms/none/messages", json!({"text": "hello"})).await.error();
    assert_eq!(next(&mut calls).await, (Some("/rooms/{name}/messages"), Some(404)));
    // Calls of machines that watch the server have no spans.
    for path in ["/healthz", "/readyz", "/metrics", "/nothing"] {
        ann.get(path).await;
    }
    assert_eq!(next(&mut calls).await, (None, Some(404)));
    // A method that the client has made up.
    ann.request("BREW", "/nothing", &[], None).await;
    let call = soon(calls.recv()).await.expect("a call");
    assert_eq!(call.method, None);
    // A request that does not reach the router, after which the connection ends.
    ann.request("GET", "/healthz", &[("Expect", "miracles")], None).await.error();
    assert_eq!(next(&mut calls).await, (None, Some(417)));
}

#[tokio::test]
async fn a_call_that_takes_too_long_has_its_route() {
    let (server, mut ann, mut calls) = start(Limits { request_timeout_ms: 2_000, ..Limits::default() }).await;
    let (_starts, _open) = server.gate();
    ann.post("/rooms/lobby/messages", json!({"text": "hello"})).await.assert_error(503, "deadline_passed", None);
    assert_eq!(next(&mut calls).await, (Some("/rooms/{name}/messages"), Some(503)));
}

#[tokio::test]
async fn a_call_whose_connection_ends_before_the_answer_has_no_status() {
    let (server, mut ann, mut calls) = start(Limits { request_drain_timeout_ms: 20, ..Limits::default() }).await;
    let (mut starts, _open) = server.gate();
    send_message(&mut ann).await;
    soon(starts.recv()).await.unwrap();
    server.drain.send(true).unwrap();
    assert_eq!(next(&mut calls).await, (Some("/rooms/{name}/messages"), None));
}

#[tokio::test]
async fn a_call_that_panics_says_so() {
    let (server, mut ann, mut calls) = start(Limits::default()).await;
    // The chat panics if nobody waits for the start of a publish.
    drop(server.gate());
    send_message(&mut ann).await;
    assert_eq!(soon(calls.recv()).await.expect("a call").end, CallEnd::Panicked);
}

/// Sends a request whose answer nobody waits for.
async fn send_message(ann: &mut Client) {
    let body = r#"{"text":"x"}"#;
    let token = ann.token.clone().unwrap();
    let head = format!("POST /rooms/lobby/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n");
    let length = body.len();
    let rest = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
    ann.send(format!("{head}{rest}").as_bytes()).await;
}
