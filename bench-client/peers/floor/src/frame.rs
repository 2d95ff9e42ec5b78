//! Reads and writes WebSocket frames.

use std::io::{self, ErrorKind};

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// The length of the longest payload that is read or written, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = u16::MAX as usize;

/// Takes the first frame off `input`. Returns its opcode and its payload, unmasked in state, or `None` while the frame
/// is incomplete. Fails for unmasked, fragmented and too long frames.
pub fn take<'a>(input: &mut &'a mut [u8]) -> io::Result<Option<(u8, &'a [u8])>> {
    let (first, head_bytes, payload_bytes) = match **input {
        [first, second, ..] if first & FINAL == 0 || second & MASKED == 0 || second & !MASKED == 127 => {
            return Err(ErrorKind::InvalidData.into());
        }
        [first, second, ..] if second & !MASKED < 126 => (first, 6, usize::from(second & !MASKED)),
        [first, _, high, low, ..] => (first, 8, usize::from(u16::from_be_bytes([high, low]))),
        _ => return Ok(None),
    };
    if input.len() < head_bytes + payload_bytes {
        return Ok(None);
    }
    let (frame, rest) = std::mem::take(input).split_at_mut(head_bytes + payload_bytes);
    *input = rest;
    let (head, payload) = frame.split_at_mut(head_bytes);
    let mask = &head[head_bytes - 4..];
    for word in payload.chunks_mut(mask.len()) {
        word.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
    Ok(Some((first & !FINAL, payload)))
}

/// Appends a frame to `output`, with its payload padded with spaces to `min_bytes`.
pub fn append(output: &mut Vec<u8>, opcode: u8, payload: &[u8], min_bytes: usize) {
    let filled_bytes = payload.len().max(min_bytes);
    if filled_bytes < 126 {
        output.extend_from_slice(&[FINAL | opcode, filled_bytes as u8]);
    } else {
        let [high, low] = u16::try_from(filled_bytes).expect("payloads fit 16 bits").to_be_bytes();
        output.extend_from_slice(&[FINAL | opcode, 126, high, low]);
    }
    output.extend_from_slice(payload);
    output.resize(output.len() + filled_bytes - payload.len(), b' ');
}
