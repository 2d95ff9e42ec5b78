//! Spans of calls, for traces: what the service tells the server of each call, through the trait [`Traces`].
//!
//! A span holds nothing that a client has written: neither a path, which has names in it, nor an address.

use crate::addresses::{self, Network};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The methods that OpenTelemetry's semantic conventions know.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"];

/// Routes whose calls have no spans. Machines call them every few seconds, so that they would be most of all spans.
const UNTRACED: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// A span and the trace that it belongs to. Neither id is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanContext {
    pub trace: u128,
    pub span: u64,
}

/// The span that a request names as its parent in `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub context: SpanContext,
    pub is_sampled: bool,
    /// Whether the request came from a trusted proxy. Anyone else can write anything into the header.
    pub is_trusted: bool,
}

/// A call whose span has ended.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub context: SpanContext,
    pub caller: Option<Caller>,
    pub began: SystemTime,
    pub took: Duration,
    /// `None`: one that nobody knows. Its name could be long, and is the client's choice.
    pub method: Option<&'static str>,
    /// The path with its parameters in braces. `None`: a file of the web client, or nothing.
    pub route: Option<&'static str>,
    pub end: CallEnd,
    pub is_https: bool,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnd {
    Answered(StatusCode),
    /// The connection ended before the answer.
    ConnectionClosed,
    /// The server has a bug.
    Panicked,
}

/// What takes the spans. None of its methods waits.
pub trait Traces: Send + Sync + 'static {
    /// Begins the span of a call. `None`: the call has none.
    fn begin(&self, caller: Option<Caller>) -> Option<SpanContext>;

    /// Takes the span of a call that has ended.
    fn end(&self, call: Call);
}

/// The traces as everything in this crate holds them.
pub type SharedTraces = Arc<dyn Traces>;

/// The span of the call that a request makes. An extension of the request.
#[derive(Clone)]
pub(crate) struct CallSpan {
    pub context: SpanContext,
    route: Arc<OnceLock<&'static str>>,
}

impl CallSpan {
    /// Notes which route the router has chosen.
    pub(crate) fn set_route(&self, route: &'static str) {
        self.route.get_or_init(|| route);
    }
}

/// A span that has begun. It ends when it is dropped, even if the connection ends before the answer.
pub(crate) struct OpenSpan {
    traces: SharedTraces,
    started: Instant,
    /// `took`, `route` and `end` are set at the end.
    call: Call,
    span: CallSpan,
}

impl OpenSpan {
    /// Begins the span of a request, unless it has none.
    pub(crate) fn begin<B>(
        traces: &SharedTraces,
        is_tls: bool,
        peer: IpAddr,
        trusted: &[Network],
        request: &mut Request<B>,
    ) -> Option<OpenSpan> {
        let headers = request.headers();
        let is_trusted = addresses::is_trusted(peer, trusted);
        let caller = caller(headers, is_trusted);
        let context = traces.begin(caller)?;
        let call = Call {
            context,
            caller,
            began: SystemTime::now(),
            took: Duration::ZERO,
            method: known(request.method()),
            route: None,
            end: CallEnd::ConnectionClosed,
            is_https: is_tls || addresses::is_via_https(peer, headers, trusted),
        };
        let span = CallSpan { context, route: Arc::default() };
        request.extensions_mut().insert(span.clone());
        Some(OpenSpan { traces: Arc::clone(traces), started: Instant::now(), call, span })
    }

    /// Ends the span with the status of the answer.
    pub(crate) fn end(mut self, status: StatusCode) {
        self.call.end = CallEnd::Answered(status);
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        let route = self.span.route.get().copied();
        if route.is_none_or(|route| !UNTRACED.contains(&route)) {
            let end = if std::thread::panicking() { CallEnd::Panicked } else { self.call.end };
            self.traces.end(Call { route, took: self.started.elapsed(), end, ..self.call });
        }
    }
}

fn known(method: &Method) -> Option<&'static str> {
    METHODS.into_iter().find(|known| known == method)
}

/// The caller that a request names, if it names one correctly.
fn caller(headers: &HeaderMap, is_trusted: bool) -> Option<Caller> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (context, is_sampled) = parse_traceparent(value.as_bytes())?;
    Some(Caller { context, is_sampled, is_trusted })
}

/// Parses `VERSION-TRACE-SPAN-FLAGS`, all in lower-case hexadecimal. <https://www.w3.org/TR/trace-context/>
fn parse_traceparent(value: &[u8]) -> Option<(SpanContext, bool)> {
    let (known, rest) = value.split_at_checked(55)?;
    let version = hex(&known[..2])?;
    // A later version may have more fields after these.
    let ends_well = rest.is_empty() || version > 0 && rest[0] == b'-';
    if version == 0xff || !ends_well || [2, 35, 52].iter().any(|dash| known[*dash] != b'-') {
        return None;
    }
    let trace = hex(&known[3..35]).filter(|trace| *trace != 0)?;
    let span = hex(&known[36..52]).filter(|span| *span != 0)? as u64;
    let flags = hex(&known[53..])?;
    Some((SpanContext { trace, span }, flags & 1 == 1))
}

/// A number of at most 32 digits.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn parse(value: &str) -> Option<(SpanContext, bool)> {
        parse_traceparent(value.as_bytes())
    }

    #[test]
    fn a_valid_header_names_a_span() {
        let context = SpanContext { trace: 0x0af7651916cd43dd8448eb211c80319c, span: 0xb7ad6b7169203331 };
        assert_eq!(parse(&format!("00-{TRACE}-b7ad6b7169203331-01")), Some((context, true)));
        assert_eq!(parse(&format!("00-{TRACE}-b7ad6b7169203331-02")), Some((context, false)));
        assert_eq!(parse(&format!("cc-{TRACE}-b7ad6b7169203331-03-what-comes-later")), Some((context, true)));
    }

    #[test]
    fn an_invalid_header_names_none() {
        for value in [
            "".to_owned(),
            format!("00-{TRACE}-b7ad6b7169203331"),
            format!("00-{TRACE}-b7ad6b7169203331-01-more"),
            format!("cc-{TRACE}-b7ad6b7169203331-01.more"),
            format!("ff-{TRACE}-b7ad6b7169203331-01"),
            format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{TRACE}_b7ad6b7169203331-01"),
            format!("00-{TRACE}-b7ad6b716920333é-1"),
        ] {
            assert_eq!(parse(&value), None, "{value}");
        }
    }

    #[test]
    fn two_headers_name_none() {
        let value = format!("00-{TRACE}-b7ad6b7169203331-01");
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, value.parse().unwrap());
        assert!(caller(&headers, true).is_some_and(|caller| caller.is_trusted && caller.is_sampled));
        headers.append(TRACEPARENT, value.parse().unwrap());
        assert_eq!(caller(&headers, true), None);
    }
}
