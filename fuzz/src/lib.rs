//! The fuzz targets: what each one does with its input, and the properties that hold for any input. The main crate's
//! `tests/fuzz_corpus.rs` includes this file to replay the corpora without a fuzzer.

use serde_json::value::RawValue;
use std::ops::ControlFlow;
use uproar_core::protocol::centrifuge::{self, EncodedPublications, Encoding, Push, Reply, Request};
use uproar_core::protocol::{Entry, data};
use uproar_core::websocket::{Decoder, Event};
use uproar_model::{Publication, User, UserId};

/// The length of the longest text that a client may publish.
const TEXT_LIMIT_BYTES: usize = 1024;

/// Decodes a frame's payload as commands. The first byte selects the encoding: even is JSON, odd is Protobuf. The data
/// that a command carries is decoded as the server would decode it.
pub fn commands(input: &[u8]) {
    let Some((first, mut rest)) = input.split_first() else { return };
    let encoding = if first & 1 == 0 { Encoding::Json } else { Encoding::Protobuf };
    let mut out = Vec::new();
    loop {
        let before = rest.len();
        let command = match centrifuge::next_command(encoding, &mut rest) {
            None => {
                assert_eq!(before, 0);
                break;
            }
            Some(Err(centrifuge::Malformed)) => break,
            Some(Ok(command)) => command,
        };
        assert!(rest.len() < before, "decoding a command consumed nothing");
        let has_id = command.id > 0;
        match &command.request {
            Request::Pong => assert!(!has_id),
            Request::Send { data } => self::data(data),
            Request::Publish { data, .. } | Request::Rpc { data, .. } => {
                assert!(has_id);
                self::data(data);
                if let Ok(json) = data::compact(data) {
                    centrifuge::push_push(encoding, &mut out, "live:a", &Push::Ephemeral { data: json.as_bytes() });
                    centrifuge::push_reply(encoding, &mut out, command.id, Reply::Rpc { data: json.as_bytes() });
                }
            }
            Request::Subscribe(subscribe) => assert!(has_id && subscribe.offset < 1 << 53),
            Request::History(history) => {
                assert!(has_id && history.since.as_ref().is_none_or(|since| since.offset < 1 << 53));
            }
            _ => assert!(has_id),
        }
        centrifuge::push_reply(encoding, &mut out, command.id, Reply::Error { code: 104, message: "method not found" });
    }
    if encoding == Encoding::Json && !out.is_empty() {
        for line in out.split(|byte| *byte == b'\n') {
            let line = serde_json::from_slice::<&RawValue>(line);
            assert!(line.is_ok_and(|line| line.get().starts_with('{')));
        }
    }
}

/// Decodes the data of a publish, which may not be JSON at all.
pub fn data(input: &[u8]) {
    if let Ok(json) = data::compact(input) {
        assert!(!json.is_empty() && json.len() <= input.len());
        assert!(!json.contains(['\n', '\r']), "a line break would split a line of the JSON encoding");
        assert_eq!(data::compact(json.as_bytes()).as_ref(), Ok(&json));
        assert!(serde_json::from_str::<String>(&json).is_ok() || !json.starts_with('"'), "a string can be decoded");
    }
    let Ok(publish) = data::decode(input, TEXT_LIMIT_BYTES) else { return };
    // An unknown field may contain half of a surrogate pair. It is dropped.
    assert_ne!(data::compact(input), Err(data::NOT_JSON));
    assert!(publish.body.as_ref().is_none_or(|body| body.len() <= TEXT_LIMIT_BYTES));

    // The publication that subscribers receive decodes to the same publish.
    let shown = Publication {
        offset: 9,
        number: 9,
        kind: publish.kind,
        user: User { id: UserId(1), username: "ann".into() },
        id: publish.id.as_deref().unwrap_or("~1").into(),
        time: 1,
        target: publish.target,
        body: publish.body.as_deref().map(Into::into),
        edited: None,
        deleted: None,
        meta: None,
    };
    let mut json = Vec::new();
    data::encode(&mut json, &shown);
    assert_eq!(data::compact(&json).map(String::into_bytes).as_ref(), Ok(&json), "encoded data is already compact");
    assert_eq!(data::decode(&json, TEXT_LIMIT_BYTES).as_ref(), Ok(&publish));
    let entry = Entry::Stored(shown);
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let publications = EncodedPublications::encode(encoding, [&entry], 0);
        assert_eq!(publications.count(), 1);
    }
}

/// An [`Event`] that owns its payload.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Whether it is a text, and the payload.
    Message(bool, Vec<u8>),
    /// Whether it is a ping, and the payload.
    Control(bool, Vec<u8>),
    /// Code and reason of a close frame or of a protocol violation.
    End(Option<u16>, String),
}

/// Decodes what a client sends on a connection. The first byte sets the length limit, the second one seeds how the rest
/// is cut. Decoding everything in one piece and decoding it in slices, with a sink that sometimes pauses, must yield
/// the same events.
pub fn frames(input: &[u8]) {
    let Some((&[limit, cuts], bytes)) = input.split_first_chunk() else { return };
    let limit = usize::from(limit) * 8;
    let whole = feed(bytes, limit, None);
    assert_eq!(feed(bytes, limit, Some(cuts)), whole);
    for event in &whole {
        match event {
            Seen::Message(_, payload) => assert!(payload.len() <= limit),
            Seen::Control(_, payload) => assert!(payload.len() <= 125),
            Seen::End(_, reason) => assert!(reason.len() <= 123),
        }
    }
    let ends = whole.iter().position(|event| matches!(event, Seen::End(..)));
    assert!(ends.is_none_or(|at| at + 1 == whole.len()), "no event follows the end");
}

fn feed(mut bytes: &[u8], limit: usize, cuts: Option<u8>) -> Vec<Seen> {
    let mut decoder = Decoder::default();
    let mut events = Vec::new();
    let mut random = u32::from(cuts.unwrap_or_default());
    let mut below = |bound: usize| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 16) as usize % bound
    };
    while !bytes.is_empty() {
        // Long enough for a slice to hold whole frames, short enough that it usually cuts a frame.
        let length = if cuts.is_some() { 1 + below(bytes.len().min(64)) } else { bytes.len() };
        let (slice, rest) = bytes.split_at(length);
        bytes = rest;
        let mut slice = slice.to_vec();
        loop {
            decoder.feed(&mut slice, limit, |event| {
                events.push(match event {
                    Event::Text(text) => Seen::Message(true, text.into()),
                    Event::Binary(bytes) => Seen::Message(false, bytes.into()),
                    Event::Ping(bytes) => Seen::Control(true, bytes.into()),
                    Event::Pong(bytes) => Seen::Control(false, bytes.into()),
                    Event::Close { code, reason } => Seen::End(code, reason.into()),
                    Event::Violation { code, reason } => Seen::End(Some(code), reason.into()),
                });
                if cuts.is_some() && below(4) == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            slice.clear();
            if !decoder.has_undecoded() {
                break;
            }
        }
    }
    events
}
