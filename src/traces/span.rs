//! Spans as they wait in the queue, and how the collector gets them. Names follow OpenTelemetry's semantic conventions
//! for HTTP and databases, where these have one.

use super::wire::{self, AnyValue, KeyValue, Link, SpanKind, StatusCode, Value};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uproar_http::{Call, CallEnd, SpanContext};

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
    Commit {
        context: SpanContext,
        parent: Option<SpanContext>,
        links: Vec<SpanContext>,
        began: SystemTime,
        commit: Commit,
    },
}

/// One attempt of a lane to commit a batch.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    pub lane: u16,
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
            Span::Commit { context, parent, links, began, commit } => {
                encode_commit(context, parent, &links, began, commit, database)
            }
        }
    }
}

fn encode_call(call: Call) -> wire::Span {
    let Call { context, caller, began, took, method, route, end, is_https } = call;
    let (parent, linked) = match caller {
        Some(caller) if caller.is_trusted => (Some(caller.context), None),
        caller => (None, caller),
    };
    // A method that a client has made up would be a name of its own.
    let verb = method.unwrap_or("HTTP");
    let mut attributes = vec![
        text("http.request.method", method.unwrap_or("_OTHER")),
        text("url.scheme", if is_https { "https" } else { "http" }),
    ];
    attributes.extend(route.map(|route| text("http.route", route)));
    let error = match &end {
        CallEnd::Answered(status) => {
            attributes.push(number("http.response.status_code", status.as_u16().into()));
            status.is_server_error().then(|| status.as_str())
        }
        CallEnd::ConnectionClosed => Some("connection_closed"),
        CallEnd::Panicked => Some("panic"),
    };
    attributes.extend(error.map(|error| text("error.type", error)));
    wire::Span {
        name: route.map_or_else(|| verb.to_owned(), |route| format!("{verb} {route}")),
        kind: SpanKind::Server.into(),
        parent_span_id: parent.map(span_id).unwrap_or_default(),
        attributes,
        links: linked.iter().map(|caller| link(caller.context, caller.is_sampled, IS_REMOTE)).collect(),
        flags: RECORDED | ORIGIN_IS_KNOWN | parent.map_or(0, |_| IS_REMOTE),
        ..span(context, began, took, error.is_some())
    }
}

fn encode_commit(
    context: SpanContext,
    parent: Option<SpanContext>,
    links: &[SpanContext],
    began: SystemTime,
    commit: Commit,
    database: &str,
) -> wire::Span {
    let Commit { lane, took, items, outcome } = commit;
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
    wire::Span {
        name: "append messages".to_owned(),
        kind: SpanKind::Client.into(),
        parent_span_id: parent.map(span_id).unwrap_or_default(),
        attributes,
        links: links.iter().map(|call| link(*call, true, 0)).collect(),
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

/// `origin`: 0, or [`IS_REMOTE`].
fn link(context: SpanContext, is_recorded: bool, origin: u32) -> Link {
    let trace_id = context.trace.to_be_bytes().to_vec();
    let recorded = if is_recorded { RECORDED } else { 0 };
    Link { trace_id, span_id: span_id(context), flags: recorded | ORIGIN_IS_KNOWN | origin }
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode as Status;
    use uproar_http::Caller;

    const CONTEXT: SpanContext = SpanContext { trace: 1, span: 2 };
    const OTHER: SpanContext = SpanContext { trace: 3, span: 4 };

    fn call(end: CallEnd, is_sampled: bool) -> wire::Span {
        let call = Call {
            context: CONTEXT,
            caller: Some(Caller { context: OTHER, is_sampled, is_trusted: false }),
            began: UNIX_EPOCH,
            took: Duration::from_nanos(5),
            method: Some("GET"),
            route: None,
            end,
            is_https: false,
        };
        Span::Call(call).encode("sqlite")
    }

    fn error_type(span: &wire::Span) -> Option<&AnyValue> {
        span.attributes.iter().find(|attribute| attribute.key == "error.type")?.value.as_ref()
    }

    #[test]
    fn a_call_is_an_error_exactly_if_it_has_a_type_of_error() {
        for (end, error) in [
            (CallEnd::Answered(Status::NOT_FOUND), None),
            (CallEnd::Answered(Status::SERVICE_UNAVAILABLE), Some("503")),
            (CallEnd::ConnectionClosed, Some("connection_closed")),
            (CallEnd::Panicked, Some("panic")),
        ] {
            let span = call(end, true);
            assert_eq!(error_type(&span).cloned(), error.and_then(|error| text("", error).value));
            assert_eq!(span.status.unwrap().code() == StatusCode::Error, error.is_some());
        }
    }

    #[test]
    fn a_link_tells_whether_its_span_is_recorded_and_whose_it_is() {
        for (is_sampled, flags) in [(true, 0x301), (false, 0x300)] {
            let span = call(CallEnd::Answered(Status::OK), is_sampled);
            assert_eq!(span.links[0].flags, flags);
        }
        let commit = Commit { lane: 0, took: Duration::from_nanos(5), items: 1, outcome: CommitOutcome::Unknown };
        let began = UNIX_EPOCH + Duration::from_nanos(7);
        let commit = Span::Commit { context: CONTEXT, parent: None, links: vec![OTHER], began, commit };
        let span = commit.encode("sqlite");
        assert_eq!((span.links[0].flags, span.start_time_unix_nano, span.end_time_unix_nano), (0x101, 7, 12));
    }
}
