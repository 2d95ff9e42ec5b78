//! Frames as the server sends them: whole (never fragmented), not masked (RFC 6455, 5.1).

use bytes::{BufMut, Bytes, BytesMut};
use fastwebsockets::OpCode;

/// The longest payload of a control frame (RFC 6455, 5.5).
pub const CONTROL_PAYLOAD_LIMIT_BYTES: usize = 125;

const FIN: u8 = 0x80;

/// Bytes of the head of a frame whose payload has `payload` bytes: 2, 4 or 10.
pub const fn head_length(payload: usize) -> usize {
    match payload {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

/// Appends the head of a frame whose payload, of `payload` bytes, the caller appends next.
pub fn push_head(out: &mut impl BufMut, opcode: OpCode, payload: usize) {
    out.put_u8(FIN | opcode as u8);
    match payload {
        0..=125 => out.put_u8(payload as u8),
        126..=0xffff => {
            out.put_u8(126);
            out.put_u16(payload as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(payload as u64);
        }
    }
}

/// Appends a frame. A control frame's payload must have at most [`CONTROL_PAYLOAD_LIMIT_BYTES`].
pub fn push_frame(out: &mut impl BufMut, opcode: OpCode, payload: &[u8]) {
    debug_assert!(
        payload.len() <= CONTROL_PAYLOAD_LIMIT_BYTES
            || matches!(opcode, OpCode::Text | OpCode::Binary | OpCode::Continuation)
    );
    push_head(out, opcode, payload.len());
    out.put_slice(payload);
}

/// Appends a text message. `text` must be UTF-8.
pub fn push_text(out: &mut impl BufMut, text: &[u8]) {
    debug_assert!(std::str::from_utf8(text).is_ok());
    push_frame(out, OpCode::Text, text);
}

/// Appends a binary message.
pub fn push_binary(out: &mut impl BufMut, bytes: &[u8]) {
    push_frame(out, OpCode::Binary, bytes);
}

/// A ping without payload.
pub const fn ping() -> Bytes {
    Bytes::from_static(&[FIN | OpCode::Ping as u8, 0])
}

/// The answer to a ping with this payload, of at most [`CONTROL_PAYLOAD_LIMIT_BYTES`].
pub fn pong(payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(2 + payload.len());
    push_frame(&mut frame, OpCode::Pong, payload);
    frame.freeze()
}

/// A close frame. Of the reason goes what fits, up to the end of a character (RFC 6455, 5.5.1: valid UTF-8).
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_PAYLOAD_LIMIT_BYTES - 2)];
    let mut frame = BytesMut::with_capacity(2 + 2 + reason.len());
    push_head(&mut frame, OpCode::Close, 2 + reason.len());
    frame.put_u16(code);
    frame.put_slice(reason.as_bytes());
    frame.freeze()
}

/// A close frame without a code: the answer to one that had none.
pub const fn empty_close_frame() -> Bytes {
    Bytes::from_static(&[FIN | OpCode::Close as u8, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_takes_the_shortest_form_that_holds_it() {
        for (length, head) in [
            (0, vec![0x82, 0]),
            (125, vec![0x82, 125]),
            (126, vec![0x82, 126, 0, 126]),
            (0xffff, vec![0x82, 126, 0xff, 0xff]),
            (0x1_0000, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = Vec::new();
            push_frame(&mut out, OpCode::Binary, &vec![7; length]);
            assert_eq!(out[..head.len()], head);
            assert_eq!(head_length(length), head.len());
            assert_eq!(out.len(), head.len() + length);
            assert!(out[head.len()..].iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn a_close_reason_is_cut_between_characters() {
        assert_eq!(close_frame(1000, "bye")[..], *b"\x88\x05\x03\xe8bye");
        assert_eq!(close_frame(1000, "")[..], *b"\x88\x02\x03\xe8");
        assert_eq!(empty_close_frame()[..], *b"\x88\x00");
        assert_eq!((&ping()[..], &pong(b"hey")[..]), (&b"\x89\x00"[..], &b"\x8a\x03hey"[..]));

        let exact = "a".repeat(123);
        assert_eq!(close_frame(4000, &exact).len(), 2 + 125);
        assert_eq!(close_frame(4000, &(exact + "b")).len(), 2 + 125);

        // 122 bytes, and then a character of two that does not fit.
        let frame = close_frame(4000, &("a".repeat(122) + "é"));
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }
}
