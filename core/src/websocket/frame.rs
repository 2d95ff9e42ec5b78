//! Encodes the frames that the server sends. They are never fragmented and not masked (RFC 6455, 5.1).

use bytes::{BufMut, Bytes, BytesMut};
use fastwebsockets::OpCode;
use uproar_model::text;

/// The longest payload of a control frame (RFC 6455, 5.5).
pub const CONTROL_PAYLOAD_LIMIT_BYTES: usize = 125;

const FIN: u8 = 0x80;

/// Appends the header of a frame. The caller must append the payload, of `payload` bytes, next.
fn push_header(out: &mut impl BufMut, opcode: OpCode, payload: usize) {
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

/// Appends a frame. The payload of a control frame must not exceed [`CONTROL_PAYLOAD_LIMIT_BYTES`].
pub fn push_frame(out: &mut impl BufMut, opcode: OpCode, payload: &[u8]) {
    debug_assert!(
        payload.len() <= CONTROL_PAYLOAD_LIMIT_BYTES
            || matches!(opcode, OpCode::Text | OpCode::Binary | OpCode::Continuation)
    );
    push_header(out, opcode, payload.len());
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

/// A ping, with this number as its payload.
pub fn ping(number: Option<u32>) -> Bytes {
    let Some(number) = number else { return Bytes::from_static(&[FIN | OpCode::Ping as u8, 0]) };
    let mut frame = BytesMut::with_capacity(2 + 4);
    push_frame(&mut frame, OpCode::Ping, &number.to_be_bytes());
    frame.freeze()
}

/// Appends the answer to a ping with this payload, which must not exceed [`CONTROL_PAYLOAD_LIMIT_BYTES`].
pub fn push_pong(out: &mut impl BufMut, payload: &[u8]) {
    push_frame(out, OpCode::Pong, payload);
}

/// A close frame. A reason of more than 123 bytes is cut at the end of a character, so that it stays valid UTF-8
/// (RFC 6455, 5.5.1).
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let reason = text::cut(reason, CONTROL_PAYLOAD_LIMIT_BYTES - 2);
    let mut frame = BytesMut::with_capacity(2 + 2 + reason.len());
    push_header(&mut frame, OpCode::Close, 2 + reason.len());
    frame.put_u16(code);
    frame.put_slice(reason.as_bytes());
    frame.freeze()
}

/// A close frame without a code, which answers one without a code.
pub const fn empty_close_frame() -> Bytes {
    Bytes::from_static(&[FIN | OpCode::Close as u8, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_minimally_encoded() {
        for (length, header) in [
            (0, vec![0x82, 0]),
            (125, vec![0x82, 125]),
            (126, vec![0x82, 126, 0, 126]),
            (0xffff, vec![0x82, 126, 0xff, 0xff]),
            (0x1_0000, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut out = Vec::new();
            push_frame(&mut out, OpCode::Binary, &vec![7; length]);
            assert_eq!(out[..header.len()], header);
            assert_eq!(out.len(), header.len() + length);
            assert!(out[header.len()..].iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn a_long_close_reason_is_cut_between_characters() {
        assert_eq!(close_frame(1000, "bye")[..], *b"\x88\x05\x03\xe8bye");
        assert_eq!(close_frame(1000, "")[..], *b"\x88\x02\x03\xe8");
        assert_eq!(empty_close_frame()[..], *b"\x88\x00");
        assert_eq!(&ping(None)[..], b"\x89\x00");
        assert_eq!(&ping(Some(0x0102_0304))[..], b"\x89\x04\x01\x02\x03\x04");
        let mut pong = Vec::new();
        push_pong(&mut pong, b"hey");
        assert_eq!(pong, b"\x8a\x03hey");

        let exact = "a".repeat(123);
        assert_eq!(close_frame(4000, &exact).len(), 2 + 125);
        assert_eq!(close_frame(4000, &(exact + "b")).len(), 2 + 125);

        // After 122 bytes a character of two bytes does not fit.
        let frame = close_frame(4000, &("a".repeat(122) + "é"));
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }
}
