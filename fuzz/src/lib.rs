//! What each fuzz target does with its input, and what must hold whatever that is. `tests/fuzz_corpus.rs` of the main
//! crate takes this file in, so that the corpora are replayed without a fuzzer.

use serde_json::value::RawValue;
use std::ops::ControlFlow;
use uproar_core::protocol::centrifuge::{self, EncodedPublications, Encoding, Push, Reply, Request};
use uproar_core::protocol::{Entry, data};
use uproar_core::websocket::{Decoder, Event};
use uproar_model::{Publication, User, UserId};

/// The most bytes of a text.
const TEXT_LIMIT_BYTES: usize = 1024;

/// A frame's payload in either encoding: the first byte chooses, Protobuf where it is odd. What the commands carry goes
/// where the server would take it.
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
        assert!(rest.len() < before, "a command that took nothing");
        let has_id = command.id > 0;
        match &command.request {
            Request::Pong => assert!(!has_id),
            Request::Send { data } => self::data(data),
            Request::Publish { data, .. } | Request::Rpc { data, .. } => {
                assert!(has_id);
                self::data(data);
                if let Some(json) = data::compact(data) {
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

/// What a client publishes: JSON, or not.
pub fn data(input: &[u8]) {
    if let Some(json) = data::compact(input) {
        assert!(!json.is_empty() && json.len() <= input.len());
        assert!(!json.contains(['\n', '\r']), "it would cut a line of the JSON encoding in two");
        assert_eq!(data::compact(json.as_bytes()).as_ref(), Some(&json));
    }
    let Ok(publish) = data::decode(input, TEXT_LIMIT_BYTES) else { return };
    assert!(data::compact(input).is_some());
    assert!(publish.body.as_ref().is_none_or(|body| body.len() <= TEXT_LIMIT_BYTES));

    // What is shown of it says the same.
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
    };
    let mut json = Vec::new();
    data::encode(&mut json, &shown);
    assert_eq!(data::compact(&json).map(String::into_bytes).as_ref(), Some(&json), "it is compact already");
    assert_eq!(data::decode(&json, TEXT_LIMIT_BYTES).as_ref(), Ok(&publish));
    let entry = Entry::Stored(shown);
    for encoding in [Encoding::Json, Encoding::Protobuf] {
        let publications = EncodedPublications::encode(encoding, [&entry], 0);
        assert_eq!(publications.count(), 1);
    }
}

/// An event that owns what it shows.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Message(bool, Vec<u8>),
    Control(bool, Vec<u8>),
    End(Option<u16>, String),
}

/// What a client sends on a connection. The first two bytes are the limit and how the rest is cut: at once, or in
/// slices with a sink that now and then takes no more. Either way the same must come out.
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
    assert!(ends.is_none_or(|at| at + 1 == whole.len()), "nothing follows the end");
}

fn feed(mut bytes: &[u8], limit: usize, cuts: Option<u8>) -> Vec<Seen> {
    let mut decoder = Decoder::default();
    let mut events = Vec::new();
    let mut chance = u32::from(cuts.unwrap_or_default());
    let mut below = |bound: usize| {
        chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (chance >> 16) as usize % bound
    };
    while !bytes.is_empty() {
        // Long enough that a slice may hold whole frames, short enough that it mostly cuts some.
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
