//! WebSocket frames of a client: reads unmasked frames in place and writes masked ones.

/// The masking key is fixed: it makes no difference to the server, and random keys would cost the client time.
const MASK: [u8; 4] = [0x55, 0xc3, 0x1a, 0x96];

/// The length of the longest payload that is accepted from a server.
pub const FRAME_LIMIT_BYTES: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// A frame that a server sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub opcode: Opcode,
    pub payload: &'a [u8],
}

/// A frame that no server should send to this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Takes the first frame off `bytes`. `None`: it is not complete yet. Fragments, extensions and masked frames are
/// malformed; the client never negotiates them.
#[inline]
pub fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<Frame<'a>>, Malformed> {
    let &[first, second, ref rest @ ..] = *bytes else { return Ok(None) };
    let opcode = match first {
        0x81 => Opcode::Text,
        0x82 => Opcode::Binary,
        0x88 => Opcode::Close,
        0x89 => Opcode::Ping,
        0x8a => Opcode::Pong,
        _ => return Err(Malformed),
    };
    let (length, rest) = match second {
        0..=125 => (second as usize, rest),
        126 => match rest.split_first_chunk::<2>() {
            Some((length, rest)) => (u16::from_be_bytes(*length) as usize, rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((length, rest)) => (usize::try_from(u64::from_be_bytes(*length)).map_err(|_| Malformed)?, rest),
            None => return Ok(None),
        },
        _ => return Err(Malformed),
    };
    if length > FRAME_LIMIT_BYTES {
        return Err(Malformed);
    }
    let Some((payload, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    *bytes = rest;
    Ok(Some(Frame { opcode, payload }))
}

/// Appends an unfragmented masked frame.
pub fn push(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    out.push(0x80 | opcode as u8);
    match payload.len() {
        length @ 0..=125 => out.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    let begin = out.len();
    out.extend_from_slice(payload);
    for chunk in out[begin..].chunks_mut(4) {
        chunk.iter_mut().zip(MASK).for_each(|(byte, mask)| *byte ^= mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0x81];
        match payload.len() {
            length @ 0..=125 => out.push(length as u8),
            length @ 126..=0xffff => {
                out.push(126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                out.push(127);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn frames_are_read_in_order_and_an_incomplete_one_is_left() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let mut both = server_frame(&payload);
            let end = both.len();
            both.extend_from_slice(&server_frame(b"next"));
            let mut rest = both.as_slice();
            assert_eq!(next(&mut rest).unwrap().unwrap().payload, payload);
            assert_eq!(next(&mut rest).unwrap().unwrap().payload, b"next");
            assert_eq!(next(&mut rest), Ok(None));
            for cut in [0, 1, 2, 3, 9, end - 1].into_iter().filter(|cut| *cut < end) {
                let mut part = &both[..cut];
                assert_eq!(next(&mut part), Ok(None));
                assert_eq!(part.len(), cut, "an incomplete frame is left untouched");
            }
        }
    }

    #[test]
    fn fragments_extensions_masks_and_long_frames_are_malformed() {
        for bytes in [[0x01, 0], [0x80, 0], [0xc1, 0], [0x81, 0x80], [0x83, 0]] {
            assert_eq!(next(&mut bytes.as_slice()), Err(Malformed));
        }
        let mut long = vec![0x81, 127];
        long.extend_from_slice(&(FRAME_LIMIT_BYTES as u64 + 1).to_be_bytes());
        assert_eq!(next(&mut long.as_slice()), Err(Malformed));
    }

    #[test]
    fn written_frames_are_masked() {
        let mut out = Vec::new();
        push(&mut out, Opcode::Text, b"hello");
        assert_eq!(out[..2], [0x81, 0x85]);
        let unmasked: Vec<u8> = out[6..].iter().zip(out[2..6].iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        assert_eq!(unmasked, b"hello");
    }
}
