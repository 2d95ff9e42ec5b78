//! Spans as they wait in the queue, and how the collector gets them. Names follow OpenTelemetry's semantic conventions
//! for HTTP and databases, where these have one.

use super::wire::{self, AnyValue, KeyValue, Link, SpanKind, StatusCode, Value};
use http::Method;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use uproar_http::{Call, SpanContext};

/// The most links of a span, as in OpenTelemetry's SDKs.
pub(super) const LINKS_LIMIT: usize = 128;

/// Flags of a span that is recorded.
const RECORDED: u32 = 1;
/// In flags: it is known whether the parent, or the span that a link names, is another process's.
const ORIGIN_IS_KNOWN: u32 = 1 << 8;
/// In flags: it is.
const IS_REMOTE: u32 = 1 << 9;

#[derive(Clone, Debug)]
pub(super) enum Span {
    Call(Call),
    Commit { context: SpanContext, parent: Option<SpanContext>, links: Vec<SpanContext>, commit: Commit },
}

/// One attempt of a lane to commit a batch.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    pub lane: u16,
    pub began: Instant,
    pub took: Duration,
    /// Messages, edits, deletions and reactions in the batch.
    pub items: usize,
    pub outcome: CommitOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The database has answered; of the items so many are new.
    Answered { stored: usize },
    /// It may have been committed or not.
    Unknown,
    /// The database refuses the data of some item.
    Rejected,
}

impl Span {
    /// `database`: the name of the database system.
    pub(super) fn encode(self, database: &str) -> wire::Span {
        match self {
            Span::Call(call) => encode_call(call),
            Span::Commit { context, parent, links, commit } => encode_commit(context, parent, &links, commit, database),
        }
    }
}

fn encode_call(call: Call) -> wire::Span {
    let Call { context, caller, began, took, method, route, status, is_https } = call;
    let (parent, linked) = match caller {
        Some(caller) if caller.is_trusted => (Some(caller.context), None),
        caller => (None, caller.map(|caller| caller.context)),
    };
    let method = known(&method);
    // A method that a client has made up would be a name of its own.
    let verb = method.unwrap_or("HTTP");
    let mut attributes = vec![
        text("http.request.method", method.unwrap_or("_OTHER")),
        text("url.scheme", if is_https { "https" } else { "http" }),
    ];
    attributes.extend(route.map(|route| text("http.route", route)));
    attributes.extend(status.map(|status| number("http.response.status_code", status.as_u16().into())));
    let error = match status {
        Some(status) if status.is_server_error() => Some(status.as_str().to_owned()),
        Some(_) => None,
        None => Some("connection_closed".to_owned()),
    };
    // That the connection has ended is not the server's error.
    let is_error = status.is_some_and(|status| status.is_server_error());
    attributes.extend(error.map(|error| text("error.type", &error)));
    wire::Span {
        name: route.map_or_else(|| verb.to_owned(), |route| format!("{verb} {route}")),
        kind: SpanKind::Server.into(),
        parent_span_id: parent.map(span_id).unwrap_or_default(),
        attributes,
        links: linked.iter().map(|caller| link(*caller, IS_REMOTE)).collect(),
        flags: RECORDED | ORIGIN_IS_KNOWN | parent.map_or(0, |_| IS_REMOTE),
        ..span(context, began, took, is_error)
    }
}

fn encode_commit(
    context: SpanContext,
    parent: Option<SpanContext>,
    links: &[SpanContext],
    commit: Commit,
    database: &str,
) -> wire::Span {
    let Commit { lane, began, took, items, outcome } = commit;
    let mut attributes = vec![
        text("db.system.name", database),
        text("db.operation.name", "append"),
        text("db.collection.name", "messages"),
        number("uproar.lane", lane.into()),
        number("uproar.batch.items", items as i64),
    ];
    let error = match outcome {
        CommitOutcome::Answered { stored } => {
            attributes.push(number("uproar.batch.stored", stored as i64));
            None
        }
        CommitOutcome::Unknown => Some("outcome_unknown"),
        CommitOutcome::Rejected => Some("data_rejected"),
    };
    attributes.extend(error.map(|error| text("error.type", error)));
    let began = SystemTime::now().checked_sub(began.elapsed()).unwrap_or(UNIX_EPOCH);
    wire::Span {
        name: "append messages".to_owned(),
        kind: SpanKind::Client.into(),
        parent_span_id: parent.map(span_id).unwrap_or_default(),
        attributes,
        links: links.iter().map(|call| link(*call, 0)).collect(),
        flags: RECORDED | ORIGIN_IS_KNOWN,
        ..span(context, began, took, error.is_some())
    }
}

/// The parts that all spans have.
fn span(context: SpanContext, began: SystemTime, took: Duration, is_error: bool) -> wire::Span {
    let began = began.duration_since(UNIX_EPOCH).unwrap_or_default();
    let code = if is_error { StatusCode::Error } else { StatusCode::Unset };
    wire::Span {
        trace_id: context.trace.to_be_bytes().to_vec(),
        span_id: span_id(context),
        start_time_unix_nano: began.as_nanos() as u64,
        end_time_unix_nano: (began + took).as_nanos() as u64,
        status: Some(wire::Status { code: code.into() }),
        ..wire::Span::default()
    }
}

fn span_id(context: SpanContext) -> Vec<u8> {
    context.span.to_be_bytes().to_vec()
}

fn link(context: SpanContext, flags: u32) -> Link {
    let trace_id = context.trace.to_be_bytes().to_vec();
    Link { trace_id, span_id: span_id(context), flags: flags | ORIGIN_IS_KNOWN }
}

/// The methods that the semantic conventions know.
fn known(method: &Method) -> Option<&'static str> {
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"]
        .into_iter()
        .find(|known| known == method)
}

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::String(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::Int(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}
