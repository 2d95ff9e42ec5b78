//! Decodes the frames of a client into messages (RFC 6455, 5 and 7.4).
//!
//! A frame that is complete in the read buffer is unmasked and delivered in place. The decoder copies only what it
//! cannot deliver yet: the beginning of a frame, the fragments of a message, and bytes that arrive while the sink is
//! paused. A connection without any of these holds no memory besides the [`Decoder`] itself.

use super::frame::CONTROL_PAYLOAD_LIMIT_BYTES;
use fastwebsockets::{CloseCode, OpCode, unmask};
use std::ops::ControlFlow;

/// A message or control frame of a client, or a violation of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A complete text message.
    Text(&'a str),
    /// A complete binary message.
    Binary(&'a [u8]),
    /// At most 125 bytes, which the pong must repeat.
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// The client closes the connection. Nothing after it is decoded. Without a code the reason is empty.
    Close {
        code: Option<u16>,
        reason: &'a str,
    },
    /// The server must close the connection with this code and reason. Nothing after it is decoded.
    Violation {
        code: u16,
        reason: &'static str,
    },
}

/// The decoder of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Bytes not decoded yet: those that the sink has not taken, or the beginning of one frame.
    undecoded: Vec<u8>,
    /// A message whose last fragment has not arrived.
    message: Option<Box<PartialMessage>>,
    /// Whether `undecoded` may hold complete frames.
    may_hold_frames: bool,
    /// How far the text in an incomplete frame is known to be UTF-8.
    text: PartialText,
    /// Whether there was a close frame or a violation.
    is_closed: bool,
}

/// The text in a frame that has arrived in part.
#[derive(Debug, Default)]
struct PartialText {
    /// How many bytes of the payload have been looked at.
    seen: usize,
    /// Their last bytes, which are the beginning of a character.
    tail: [u8; 3],
    tail_length: u8,
}

#[derive(Debug)]
struct PartialMessage {
    opcode: OpCode,
    payload: Vec<u8>,
    /// How many bytes of a text are known to be UTF-8. The rest is at most the beginning of one character.
    checked: usize,
}

/// Why decoding stopped.
enum Stop {
    /// All complete frames are delivered. To make progress, the next frame needs this many bytes from its beginning.
    Needs(usize),
    /// The sink is paused.
    Paused,
    /// There was a close frame or a violation.
    Closed,
}

/// (close code, reason)
type Violation = (u16, &'static str);

impl Decoder {
    /// Decodes nothing: whatever the client sends is ignored.
    pub fn closed() -> Decoder {
        Decoder { is_closed: true, ..Decoder::default() }
    }

    /// Decodes `bytes`, the next bytes read, and delivers complete messages. `limit` is the maximum length in bytes of
    /// a frame's payload and of a message. If `sink` breaks, delivery pauses and the rest is kept until the next call,
    /// which may be without `bytes`. The contents of `bytes` are overwritten.
    pub fn feed(&mut self, bytes: &mut [u8], limit: usize, mut sink: impl FnMut(Event<'_>) -> ControlFlow<()>) {
        if self.is_closed {
            return;
        }
        self.may_hold_frames = false;
        let mut used = 0;
        let mut kept = std::mem::take(&mut self.undecoded);
        // Kept bytes come first. If a frame begins there, only the rest of that frame is copied, so that later frames
        // are decoded in place.
        while !kept.is_empty() {
            let (decoded, stop) = self.decode(&mut kept, limit, &mut sink);
            kept.drain(..decoded);
            match stop {
                Stop::Closed => return,
                Stop::Paused => {
                    self.keep_all(kept, &bytes[used..]);
                    self.may_hold_frames = !self.undecoded.is_empty();
                    return;
                }
                Stop::Needs(total) if !kept.is_empty() => {
                    let missing = total - kept.len();
                    let there = missing.min(bytes.len() - used);
                    extend_up_to(&mut kept, &bytes[used..used + there], total);
                    used += there;
                    if there < missing {
                        self.undecoded = kept;
                        self.check_incomplete(sink);
                        return;
                    }
                }
                Stop::Needs(_) => {}
            }
        }
        let (decoded, stop) = self.decode(&mut bytes[used..], limit, &mut sink);
        if !matches!(stop, Stop::Closed) {
            self.keep_all(kept, &bytes[used + decoded..]);
            self.may_hold_frames = matches!(stop, Stop::Paused) && !self.undecoded.is_empty();
            if matches!(stop, Stop::Needs(_)) {
                self.check_incomplete(sink);
            }
        }
    }

    /// Keeps `bytes`, the next bytes read, for a later call of [`Decoder::feed`].
    pub fn keep(&mut self, bytes: &[u8]) {
        if !self.is_closed && !bytes.is_empty() {
            let kept = std::mem::take(&mut self.undecoded);
            self.keep_all(kept, bytes);
            self.may_hold_frames = true;
        }
    }

    /// Whether a call of [`Decoder::feed`] without bytes may deliver something.
    pub fn has_undecoded(&self) -> bool {
        self.may_hold_frames
    }

    /// The memory held for this connection besides the decoder itself, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.undecoded.capacity() + self.message.as_ref().map_or(0, |message| message.payload.capacity())
    }

    fn keep_all(&mut self, mut kept: Vec<u8>, bytes: &[u8]) {
        if kept.is_empty() {
            kept = bytes.to_vec(); // Allocates exactly that much.
        } else {
            kept.extend_from_slice(bytes);
        }
        self.undecoded = kept;
    }

    /// Delivers the complete frames in `bytes`. Returns their length in bytes, and why it stopped.
    fn decode(
        &mut self,
        bytes: &mut [u8],
        limit: usize,
        sink: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> (usize, Stop) {
        let mut at = 0;
        loop {
            let rest = &mut bytes[at..];
            let result = match self.next_header(rest, limit) {
                Ok((header, length)) if rest.len() >= length => {
                    at += length;
                    let payload = &mut rest[header.length..length];
                    unmask(payload, header.mask);
                    self.on_frame(&header, payload, limit, sink)
                }
                Ok((_, length)) => return (at, Stop::Needs(length)),
                Err(Unready::Needs(length)) => return (at, Stop::Needs(length)),
                Err(Unready::Violation(violation)) => Err(violation),
            };
            match result {
                Ok(ControlFlow::Continue(())) if !self.is_closed => {}
                Ok(ControlFlow::Break(())) if !self.is_closed => return (at, Stop::Paused),
                Ok(_) => return (at, Stop::Closed),
                Err((code, reason)) => {
                    self.close();
                    // Nothing more is decoded, whether or not the sink is paused.
                    let _ = sink(Event::Violation { code, reason });
                    return (at, Stop::Closed);
                }
            }
        }
    }

    /// Rejects an incomplete frame as soon as its text cannot be UTF-8.
    fn check_incomplete(&mut self, mut sink: impl FnMut(Event<'_>) -> ControlFlow<()>) {
        let Ok(header) = FrameHeader::parse(&self.undecoded) else { return };
        let before = match (header.opcode, &self.message) {
            (OpCode::Text, _) => &[][..],
            (OpCode::Continuation, Some(message)) if message.opcode == OpCode::Text => {
                &message.payload[message.checked..]
            }
            _ => return,
        };
        if self.text.check(before, &self.undecoded[header.length..], header.mask).is_err() {
            let (code, reason) = NOT_UTF8;
            self.close();
            let _ = sink(Event::Violation { code, reason });
        }
    }

    /// Parses the header at the beginning of `bytes` and checks that the frame is allowed here. Returns the header and
    /// the length of the whole frame.
    fn next_header(&self, bytes: &[u8], limit: usize) -> Result<(FrameHeader, usize), Unready> {
        let header = FrameHeader::parse(bytes)?;
        let violation = |code, reason| Err(Unready::Violation((code, reason)));
        let before = match (header.opcode, &self.message) {
            (OpCode::Continuation, None) => return violation(1002, "continuation frame without a message"),
            (OpCode::Text | OpCode::Binary, Some(_)) => {
                return violation(1002, "new message within a fragmented message");
            }
            (OpCode::Continuation, Some(message)) => message.payload.len(),
            _ => 0,
        };
        // `before` is over the limit only if the limit has been lowered since.
        if header.payload > limit.saturating_sub(before) as u64 {
            return violation(1009, "message too big");
        }
        let length = header.length + header.payload as usize;
        Ok((header, length))
    }

    /// Handles a complete frame that is unmasked and allowed here.
    fn on_frame(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        limit: usize,
        sink: &mut impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Violation> {
        self.text = PartialText::default();
        match header.opcode {
            OpCode::Ping => Ok(sink(Event::Ping(payload))),
            OpCode::Pong => Ok(sink(Event::Pong(payload))),
            OpCode::Close => {
                let (code, reason) = close_payload(payload)?;
                self.close();
                Ok(sink(Event::Close { code, reason }))
            }
            OpCode::Text if header.fin => Ok(sink(Event::Text(text(payload)?))),
            OpCode::Binary if header.fin => Ok(sink(Event::Binary(payload))),
            OpCode::Text | OpCode::Binary | OpCode::Continuation => {
                let new = || Box::new(PartialMessage { opcode: header.opcode, payload: Vec::new(), checked: 0 });
                let message = self.message.get_or_insert_with(new);
                extend_up_to(&mut message.payload, payload, limit);
                if !header.fin {
                    message.check_utf8()?;
                    return Ok(ControlFlow::Continue(()));
                }
                let Some(message) = self.message.take() else { return Ok(ControlFlow::Continue(())) };
                match message.opcode {
                    OpCode::Text => Ok(sink(Event::Text(text(&message.payload)?))),
                    _ => Ok(sink(Event::Binary(&message.payload))),
                }
            }
        }
    }

    fn close(&mut self) {
        *self = Decoder::closed();
    }
}

impl PartialText {
    /// Checks what has arrived of a payload since the last call. `before`: the beginning of a character in the frame
    /// before it.
    fn check(&mut self, before: &[u8], payload: &[u8], mask: [u8; 4]) -> Result<(), Violation> {
        const CHUNK_BYTES: usize = 1024;
        let mut buffer = [0; 3 + CHUNK_BYTES];
        if self.seen == 0 {
            self.keep(before);
        }
        while self.seen < payload.len() {
            let tail = usize::from(self.tail_length);
            let length = CHUNK_BYTES.min(payload.len() - self.seen);
            buffer[..tail].copy_from_slice(&self.tail[..tail]);
            let text = &mut buffer[..tail + length];
            text[tail..].copy_from_slice(&payload[self.seen..self.seen + length]);
            let mut mask = mask;
            mask.rotate_left(self.seen % 4);
            unmask(&mut text[tail..], mask);
            self.seen += length;
            match std::str::from_utf8(text) {
                Ok(_) => self.keep(&[]),
                Err(error) if error.error_len().is_none() => self.keep(&text[error.valid_up_to()..]),
                Err(_) => return Err(NOT_UTF8),
            }
        }
        Ok(())
    }

    /// Keeps the beginning of a character, which has at most three bytes.
    fn keep(&mut self, tail: &[u8]) {
        self.tail[..tail.len()].copy_from_slice(tail);
        self.tail_length = tail.len() as u8;
    }
}

impl PartialMessage {
    /// Rejects a text as soon as its bytes cannot be UTF-8 (RFC 6455, 8.1). The last character may be incomplete.
    fn check_utf8(&mut self) -> Result<(), Violation> {
        if self.opcode == OpCode::Text {
            match std::str::from_utf8(&self.payload[self.checked..]) {
                Ok(_) => self.checked = self.payload.len(),
                Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
                Err(_) => return Err(NOT_UTF8),
            }
        }
        Ok(())
    }
}

const NOT_UTF8: Violation = (1007, "text is not valid UTF-8");

fn text(bytes: &[u8]) -> Result<&str, Violation> {
    std::str::from_utf8(bytes).map_err(|_| NOT_UTF8)
}

/// The code and reason of a close frame (RFC 6455, 5.5.1 and 7.4).
fn close_payload(payload: &[u8]) -> Result<(Option<u16>, &str), Violation> {
    match payload {
        [] => Ok((None, "")),
        [_] => Err((1002, "close code is incomplete")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !CloseCode::from(code).is_allowed() {
                return Err((1002, "close code is not allowed"));
            }
            Ok((Some(code), text(reason)?))
        }
    }
}

/// Appends `bytes`. Memory grows with the bytes received, never with the length that a frame header announces, and
/// never beyond `total` bytes.
fn extend_up_to(buffer: &mut Vec<u8>, bytes: &[u8], total: usize) {
    let needed = buffer.len() + bytes.len();
    if needed > buffer.capacity() {
        let wanted = (buffer.capacity() * 2).min(total).max(needed);
        buffer.reserve_exact(wanted - buffer.len());
    }
    buffer.extend_from_slice(bytes);
}

/// The header of a client's frame (RFC 6455, 5.2).
struct FrameHeader {
    fin: bool,
    opcode: OpCode,
    mask: [u8; 4],
    /// The length of the header itself, in bytes.
    length: usize,
    /// The length of the payload, in bytes.
    payload: u64,
}

/// Why there is no frame.
enum Unready {
    /// To make progress, this many bytes are needed from the frame's beginning.
    Needs(usize),
    Violation(Violation),
}

impl FrameHeader {
    /// Reports violations as early as the bytes show them.
    fn parse(bytes: &[u8]) -> Result<FrameHeader, Unready> {
        let violation = |reason| Err(Unready::Violation((1002, reason)));
        let &[first, second, ref rest @ ..] = bytes else { return Err(Unready::Needs(2)) };
        let fin = first & 0x80 != 0;
        if first & 0x70 != 0 {
            return violation("reserved bit is set");
        }
        let Ok(opcode) = OpCode::try_from(first & 0x0f) else { return violation("reserved opcode") };
        if second & 0x80 == 0 {
            return violation("frame is not masked");
        }
        let short = second & 0x7f;
        if matches!(opcode, OpCode::Close | OpCode::Ping | OpCode::Pong) {
            if !fin {
                return violation("control frame is fragmented");
            }
            if usize::from(short) > CONTROL_PAYLOAD_LIMIT_BYTES {
                return violation("control frame is too long");
            }
        }
        let (payload, rest) = match short {
            126 => {
                let Some((length, rest)) = rest.split_first_chunk() else { return Err(Unready::Needs(4)) };
                (u64::from(u16::from_be_bytes(*length)), rest)
            }
            127 => {
                let Some((length, rest)) = rest.split_first_chunk() else { return Err(Unready::Needs(10)) };
                (u64::from_be_bytes(*length), rest)
            }
            short => (u64::from(short), rest),
        };
        if payload >> 63 != 0 {
            return violation("payload length has its highest bit set");
        }
        if (short == 126 && payload < 126) || (short == 127 && payload <= 0xffff) {
            return violation("payload length is not minimally encoded");
        }
        let Some((mask, left)) = rest.split_first_chunk() else {
            return Err(Unready::Needs(bytes.len() - rest.len() + 4));
        };
        Ok(FrameHeader { fin, opcode, mask: *mask, length: bytes.len() - left.len(), payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastwebsockets::{Frame, Payload, Role, WebSocket};
    use proptest::prelude::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    const LIMIT: usize = 1024;

    /// An [`Event`] that owns its data.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Seen {
        Text(String),
        Binary(Vec<u8>),
        Ping(Vec<u8>),
        Pong(Vec<u8>),
        Close(Option<u16>, String),
        Violation(u16),
    }

    fn seen(event: Event<'_>) -> Seen {
        match event {
            Event::Text(text) => Seen::Text(text.into()),
            Event::Binary(bytes) => Seen::Binary(bytes.into()),
            Event::Ping(bytes) => Seen::Ping(bytes.into()),
            Event::Pong(bytes) => Seen::Pong(bytes.into()),
            Event::Close { code, reason } => Seen::Close(code, reason.into()),
            Event::Violation { code, reason } => {
                assert!(!reason.is_empty());
                Seen::Violation(code)
            }
        }
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut out = vec![first];
        match payload.len() {
            length @ 0..=125 => out.push(0x80 | length as u8),
            length @ 126..=0xffff => {
                out.push(0x80 | 126);
                out.extend((length as u16).to_be_bytes());
            }
            length => {
                out.push(0x80 | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    fn feed(decoder: &mut Decoder, bytes: &[u8]) -> Vec<Seen> {
        let mut events = Vec::new();
        decoder.feed(&mut bytes.to_vec(), LIMIT, |event| {
            events.push(seen(event));
            ControlFlow::Continue(())
        });
        events
    }

    fn all(bytes: &[u8]) -> Vec<Seen> {
        feed(&mut Decoder::default(), bytes)
    }

    /// The events of `bytes` that arrive in pieces, which end at `cuts`. If `pause`, the sink pauses after every event.
    fn in_pieces(bytes: &[u8], cuts: &[usize], pause: bool) -> Vec<Seen> {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        let mut at = 0;
        for cut in cuts.iter().copied().chain([bytes.len()]) {
            let mut piece = bytes[at..cut].to_vec();
            at = cut;
            loop {
                let before = events.len();
                decoder.feed(&mut piece, LIMIT, |event| {
                    events.push(seen(event));
                    if pause { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                piece.clear();
                assert!(!decoder.has_undecoded() || events.len() > before);
                if events.len() == before || !pause {
                    break;
                }
                assert_eq!(events.len(), before + 1, "delivered while paused");
            }
        }
        events
    }

    fn violation(code: u16) -> Vec<Seen> {
        vec![Seen::Violation(code)]
    }

    #[test]
    fn unfragmented_messages_are_delivered() {
        assert_eq!(all(&frame(0x81, b"Hello")), [Seen::Text("Hello".into())]);
        assert_eq!(all(&frame(0x82, &[0xff; 300])), [Seen::Binary(vec![0xff; 300])]);
        assert_eq!(all(&frame(0x89, b"")), [Seen::Ping(vec![])]);
        assert_eq!(all(&frame(0x8a, &[1; 125])), [Seen::Pong(vec![1; 125])]);
        assert_eq!(all(&frame(0x81, b"")), [Seen::Text("".into())]);
        let two = [frame(0x81, b"a"), frame(0x81, b"b")].concat();
        assert_eq!(all(&two), [Seen::Text("a".into()), Seen::Text("b".into())]);
    }

    /// As the Autobahn testsuite expects of a server that fails fast (6.4).
    #[test]
    fn text_that_cannot_be_utf_8_is_rejected_before_its_frame_is_complete() {
        let good = "\u{3ba}\u{1f79}\u{1f600}".repeat(700);
        let whole = frame(0x81, &good.as_bytes()[..good.floor_char_boundary(LIMIT)]);
        assert!(good.len() > LIMIT, "the text is good up to the limit");
        for cut in 1..whole.len() {
            let mut decoder = Decoder::default();
            assert_eq!(feed(&mut decoder, &whole[..cut]), [], "{cut}");
            assert_eq!(feed(&mut decoder, &whole[cut..]).len(), 1);
        }
        for before in [0, 1, 2, 3, 100] {
            let bad = [&good.as_bytes()[..good.floor_char_boundary(before)], b"\xf4\x90", &[b'x'; 100]].concat();
            let at = bad.iter().position(|byte| *byte == 0x90).unwrap() + 1;
            let header = frame(0x81, &bad).len() - bad.len();
            let mut decoder = Decoder::default();
            let bytes = frame(0x81, &bad);
            let mut events = Vec::new();
            for byte in &bytes[..header + at - 1] {
                events.extend(feed(&mut decoder, &[*byte]));
            }
            assert_eq!(events, []);
            assert_eq!(feed(&mut decoder, &bytes[header + at - 1..header + at]), violation(1007));
        }
        // The character began in the fragment before.
        let mut decoder = Decoder::default();
        assert_eq!(feed(&mut decoder, &frame(0x01, b"a\xf4")), []);
        let rest = frame(0x80, b"\x90\x80\x80b");
        assert_eq!(feed(&mut decoder, &rest[..7]), violation(1007));
    }

    #[test]
    fn fragments_are_joined_across_control_frames() {
        let bytes = [
            frame(0x01, "gr\u{fc}".as_bytes()),
            frame(0x89, b"ping"),
            frame(0x00, b""),
            frame(0x80, "\u{df}e".as_bytes()),
            frame(0x02, b"a"),
            frame(0x80, b"b"),
        ]
        .concat();
        let expected = [Seen::Ping(b"ping".into()), Seen::Text("gr\u{fc}\u{df}e".into()), Seen::Binary(b"ab".into())];
        assert_eq!(all(&bytes), expected);
        for cut in 0..=bytes.len() {
            for pause in [false, true] {
                assert_eq!(in_pieces(&bytes, &[cut], pause), expected, "{cut}");
            }
        }
    }

    #[test]
    fn a_character_may_span_fragments_but_not_the_end_of_a_message() {
        let text = "a\u{1f600}b".as_bytes();
        for cut in 0..=text.len() {
            let bytes = [frame(0x01, &text[..cut]), frame(0x80, &text[cut..])].concat();
            assert_eq!(all(&bytes), [Seen::Text("a\u{1f600}b".into())]);
        }
        let mut byte_by_byte = frame(0x01, b"");
        text.iter().for_each(|byte| byte_by_byte.extend(frame(0x00, &[*byte])));
        byte_by_byte.extend(frame(0x80, b""));
        assert_eq!(all(&byte_by_byte), [Seen::Text("a\u{1f600}b".into())]);

        assert_eq!(all(&frame(0x81, &text[..4])), violation(1007));
        assert_eq!(all(&[frame(0x01, &text[..4]), frame(0x80, b"")].concat()), violation(1007));
    }

    #[test]
    fn invalid_text_is_rejected_in_the_fragment_that_contains_it() {
        let mut decoder = Decoder::default();
        assert_eq!(feed(&mut decoder, &frame(0x01, b"caf\xc3")), []);
        assert_eq!(feed(&mut decoder, &frame(0x00, b"\xc3")), violation(1007));
        // The second byte shows that the character is above U+10FFFF.
        assert_eq!(all(&frame(0x01, b"\xf4\x90")), violation(1007));
        assert_eq!(all(&frame(0x01, b"\xed\xa0")), violation(1007));
        assert_eq!(all(&frame(0x81, b"\xff")), violation(1007));
        // A binary message can hold any bytes.
        assert_eq!(all(&[frame(0x02, b"\xff"), frame(0x80, b"\xfe")].concat()), [Seen::Binary(vec![0xff, 0xfe])]);
    }

    #[test]
    fn forbidden_frames_are_violations() {
        for first in
            [0xc1, 0xa1, 0x91, 0xf1, 0x83, 0x84, 0x85, 0x86, 0x87, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0x08, 0x09, 0x0a]
        {
            assert_eq!(all(&frame(first, b"")), violation(1002), "{first:x}");
            // Two bytes are enough.
            assert_eq!(all(&frame(first, b"")[..2]), violation(1002), "{first:x}");
        }
        for first in [0x88, 0x89, 0x8a] {
            assert_eq!(all(&frame(first, &[b'a'; 126])), violation(1002), "{first:x}");
        }
        assert_eq!(all(&[0x81, 0x01, b'a']), violation(1002));
        assert_eq!(all(&frame(0x80, b"a")), violation(1002));
        assert_eq!(all(&frame(0x00, b"a")), violation(1002));
        for second in [0x01, 0x81, 0x02, 0x82] {
            assert_eq!(all(&[frame(0x01, b"a"), frame(second, b"b")].concat()), violation(1002));
        }
        // Lengths that are not minimally encoded, or are 2^63 or more. They are rejected before the mask arrives, even
        // if they arrive byte by byte.
        for header in [
            &[0x81, 0xfe, 0, 125][..],
            &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
            &[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
            &[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(all(header), violation(1002));
            let cuts: Vec<usize> = (1..header.len()).collect();
            assert_eq!(in_pieces(header, &cuts, false), violation(1002));
        }
    }

    #[test]
    fn close_frames_are_validated() {
        let close = |payload: &[u8]| all(&frame(0x88, payload));
        let with_code = |code: u16| close(&code.to_be_bytes());
        assert_eq!(close(b""), [Seen::Close(None, "".into())]);
        assert_eq!(close(b"\x03\xe8bye"), [Seen::Close(Some(1000), "bye".into())]);
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999] {
            assert_eq!(with_code(code), [Seen::Close(Some(code), "".into())]);
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert_eq!(with_code(code), violation(1002), "{code}");
        }
        assert_eq!(close(b"\x03"), violation(1002));
        assert_eq!(close(b"\x03\xe8\xff"), violation(1007));
    }

    #[test]
    fn nothing_follows_a_close_frame_or_a_violation() {
        for end in [frame(0x88, b"\x03\xe8"), frame(0x83, b"")] {
            let mut decoder = Decoder::default();
            let bytes = [frame(0x81, b"a"), end, frame(0x81, b"b")].concat();
            assert_eq!(feed(&mut decoder, &bytes).len(), 2);
            assert_eq!(feed(&mut decoder, &frame(0x81, b"c")), []);
            decoder.keep(b"more");
            assert_eq!(decoder.held_bytes(), 0);
        }
    }

    #[test]
    fn one_limit_for_a_frame_and_for_a_message() {
        let exact = vec![b'a'; LIMIT];
        let over = vec![b'a'; LIMIT + 1];
        assert_eq!(all(&frame(0x82, &exact)), [Seen::Binary(exact.clone())]);
        assert_eq!(all(&frame(0x82, &over)), violation(1009));
        // The header is enough.
        assert_eq!(all(&frame(0x82, &over)[..8]), violation(1009));
        assert_eq!(all(&frame(0x02, &over)[..8]), violation(1009));
        let long = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(all(&long), violation(1009));

        let (first, second) = exact.split_at(600);
        assert_eq!(all(&[frame(0x02, first), frame(0x80, second)].concat()), [Seen::Binary(exact.clone())]);
        let last = frame(0x80, &over[600..]);
        assert_eq!(all(&[frame(0x02, first), last[..8].to_vec()].concat()), violation(1009));
        let empty = [frame(0x02, &exact), frame(0x00, b""), frame(0x80, b"a")].concat();
        assert_eq!(all(&empty), violation(1009));
        // Control frames do not count.
        let ping = [frame(0x02, &exact), frame(0x89, &[1; 125]), frame(0x80, b"")].concat();
        assert_eq!(all(&ping), [Seen::Ping(vec![1; 125]), Seen::Binary(exact)]);
    }

    #[test]
    fn memory_is_held_only_for_incomplete_messages() {
        let mut decoder = Decoder::default();
        let long = frame(0x82, &[1; 1000]);
        feed(&mut decoder, &frame(0x81, b"a"));
        assert_eq!(decoder.held_bytes(), 0);
        assert_eq!(feed(&mut decoder, &long[..8]), []);
        assert!(
            (1..=16).contains(&decoder.held_bytes()),
            "memory for the bytes received, not for the length announced"
        );
        feed(&mut decoder, &long[8..]);
        assert_eq!(decoder.held_bytes(), 0);
        feed(&mut decoder, &frame(0x02, &[1; 1000]));
        assert!((1000..=LIMIT).contains(&decoder.held_bytes()));
        feed(&mut decoder, &frame(0x80, &[]));
        assert_eq!(decoder.held_bytes(), 0);
        decoder.keep(&frame(0x81, b"a"));
        assert!(decoder.has_undecoded());
        assert_eq!(feed(&mut decoder, &frame(0x81, b"b")), [Seen::Text("a".into()), Seen::Text("b".into())]);
        assert_eq!(decoder.held_bytes(), 0);
    }

    #[test]
    fn memory_held_is_bounded() {
        // A message at its limit in two fragments, of which the last byte is missing, byte by byte.
        let mut decoder = Decoder::default();
        let mut most = 0;
        let mut bytes = frame(0x02, &vec![1; LIMIT / 2]);
        bytes.extend(frame(0x80, &vec![1; LIMIT / 2]));
        bytes.pop();
        for byte in bytes {
            assert_eq!(feed(&mut decoder, &[byte]), []);
            most = most.max(decoder.held_bytes());
        }
        assert!(most <= LIMIT + LIMIT / 2 + 16, "{most}");
    }

    /// A stream that reads from a slice and discards writes.
    struct SliceStream<'a>(&'a [u8]);

    impl AsyncRead for SliceStream<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            let (now, later) = self.0.split_at(buffer.remaining().min(self.0.len()));
            buffer.put_slice(now);
            self.0 = later;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for SliceStream<'_> {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// The frames (fin, opcode, payload) that the parser of fastwebsockets finds, up to the first that it rejects.
    fn oracle(bytes: &[u8]) -> Vec<(bool, OpCode, Vec<u8>)> {
        let mut socket = WebSocket::after_handshake(SliceStream(bytes), Role::Server);
        socket.set_auto_close(false);
        socket.set_auto_pong(false);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut frames = Vec::new();
        runtime.block_on(async {
            while let Ok(frame) = socket.read_frame().await {
                frames.push((frame.fin, frame.opcode, frame.payload.to_vec()));
            }
        });
        frames
    }

    /// Joins the oracle's frames into events.
    fn assembled(frames: Vec<(bool, OpCode, Vec<u8>)>) -> Vec<Seen> {
        let mut events = Vec::new();
        let mut message: Option<(OpCode, Vec<u8>)> = None;
        for (fin, opcode, payload) in frames {
            match opcode {
                OpCode::Ping => events.push(Seen::Ping(payload)),
                OpCode::Pong => events.push(Seen::Pong(payload)),
                OpCode::Close => {
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    let reason = String::from_utf8(payload.get(2..).unwrap_or_default().to_vec()).unwrap();
                    events.push(Seen::Close(code, reason));
                    return events;
                }
                _ => {
                    let (_, so_far) = message.get_or_insert((opcode, Vec::new()));
                    so_far.extend(payload);
                    if fin {
                        match message.take().unwrap() {
                            (OpCode::Text, payload) => events.push(Seen::Text(String::from_utf8(payload).unwrap())),
                            (_, payload) => events.push(Seen::Binary(payload)),
                        }
                    }
                }
            }
        }
        events
    }

    /// A valid frame, as fastwebsockets writes it.
    fn written(fin: bool, opcode: OpCode, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut masked = payload.to_vec();
        unmask(&mut masked, mask);
        let mut frame = Frame::new(fin, opcode, Some(mask), Payload::Owned(masked));
        frame.write(&mut Vec::new()).to_vec()
    }

    /// A stream of valid messages, with fragments, control frames between them, and perhaps a close frame.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let control =
            (prop_oneof![Just(OpCode::Ping), Just(OpCode::Pong)], prop::collection::vec(any::<u8>(), 0..=125));
        let message = (
            any::<bool>(),
            prop_oneof!["\\PC{0,80}", "[a-z]{0,300}"],
            prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            prop::collection::vec(control, 0..3),
            any::<[u8; 4]>(),
        );
        (prop::collection::vec(message, 0..6), prop::option::of((prop::option::of(3000_u16..5000), "[a-z]{0,20}")))
            .prop_map(|(messages, close)| {
                let mut bytes = Vec::new();
                for (is_text, text, cuts, controls, mask) in messages {
                    let payload = text.as_bytes();
                    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
                    cuts.sort_unstable();
                    cuts.push(payload.len());
                    let mut controls = controls.into_iter();
                    let mut at = 0;
                    for (number, cut) in cuts.iter().enumerate() {
                        let opcode = match (number, is_text) {
                            (0, true) => OpCode::Text,
                            (0, false) => OpCode::Binary,
                            _ => OpCode::Continuation,
                        };
                        bytes.extend(written(number + 1 == cuts.len(), opcode, mask, &payload[at..*cut]));
                        at = *cut;
                        if let Some((opcode, payload)) = controls.next() {
                            bytes.extend(written(true, opcode, mask, &payload));
                        }
                    }
                }
                if let Some((code, reason)) = close {
                    let payload = match code {
                        Some(code) => [&code.to_be_bytes(), reason.as_bytes()].concat(),
                        None => Vec::new(),
                    };
                    bytes.extend(written(true, OpCode::Close, [1, 2, 3, 4], &payload));
                }
                bytes
            })
    }

    proptest! {
        #[test]
        fn valid_streams_are_read_like_by_the_oracle(
            bytes in stream(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            pause: bool,
        ) {
            let expected = assembled(oracle(&bytes));
            prop_assert_eq!(&all(&bytes), &expected);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            prop_assert_eq!(&in_pieces(&bytes, &cuts, pause), &expected);
        }

        #[test]
        fn damaged_streams_are_accepted_only_by_both(mut bytes in stream(), at: prop::sample::Index, byte: u8) {
            let Some(last) = bytes.len().checked_sub(1) else { return Ok(()) };
            bytes[at.index(last + 1)] = byte;
            let mine = all(&bytes);
            // This decoder is stricter (masks, lengths, sizes, text). If it accepts everything, the oracle must agree.
            let valid: Vec<_> = mine.iter().take_while(|event| !matches!(event, Seen::Violation(_))).cloned().collect();
            let frames = oracle(&bytes);
            let violated = valid.len() < mine.len();
            if !violated {
                prop_assert_eq!(valid, assembled(frames));
            }
        }

        #[test]
        fn any_bytes_have_the_same_events_however_they_are_split(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            cut: prop::sample::Index,
        ) {
            let cut = cut.index(bytes.len() + 1);
            prop_assert_eq!(in_pieces(&bytes, &[cut], true), all(&bytes));
        }
    }
}
