//! The messages that the load sends: texts of a fixed length with room, sender, number and the time they were due.
//!
//! ```text
//! RRRRRRRR SSSSSSSS NNNNNNNN TTTTTTTTTTTTTTTT xxxxx…
//! room     sender   number   intended time    filler
//! ```
//!
//! The fields are decimal numbers of a fixed width, so a receiver knows where they are and parses eight digits at a
//! time.

/// The length of the shortest text, which has no filler.
pub const MIN_TEXT_BYTES: usize = 44;
/// The length of the longest text, just below Uproar's default limit of 16 KiB.
pub const MAX_TEXT_BYTES: usize = 16_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Index of the room.
    pub room: u32,
    /// Index of the sender among the room's senders.
    pub sender: u32,
    /// Counts each sender's messages from 0.
    pub number: u32,
    /// When the message was due, in nanoseconds of the client's clock.
    pub intended: u64,
}

/// Encodes and decodes messages of one length.
#[derive(Clone, Debug)]
pub struct TextCodec {
    filler: Vec<u8>,
}

impl TextCodec {
    /// `bytes` is the length of each text, at least `MIN_TEXT_BYTES`.
    pub fn new(bytes: usize) -> TextCodec {
        let alphabet = (b'a'..=b'z').cycle();
        TextCodec { filler: alphabet.take(bytes.saturating_sub(MIN_TEXT_BYTES)).collect() }
    }

    /// The length of each text in bytes.
    pub fn length(&self) -> usize {
        MIN_TEXT_BYTES + self.filler.len()
    }

    /// Appends the text of a message.
    pub fn encode(&self, out: &mut Vec<u8>, message: Message) {
        let Message { room, sender, number, intended } = message;
        for digits in [digits(room.into()), digits(sender.into()), digits(number.into())] {
            out.extend_from_slice(&digits);
            out.push(b' ');
        }
        out.extend_from_slice(&digits(intended / 100_000_000));
        out.extend_from_slice(&digits(intended % 100_000_000));
        out.push(b' ');
        out.extend_from_slice(&self.filler);
    }

    /// `None` if the text is not a message of this length.
    #[inline]
    pub fn decode(&self, text: &[u8]) -> Option<Message> {
        let (head, filler) = text.split_first_chunk::<MIN_TEXT_BYTES>()?;
        if filler != self.filler || [head[8], head[17], head[26], head[43]] != *b"    " {
            return None;
        }
        Some(Message {
            room: number(head, 0)?,
            sender: number(head, 9)?,
            number: number(head, 18)?,
            intended: u64::from(number(head, 27)?) * 100_000_000 + u64::from(number(head, 35)?),
        })
    }
}

fn digits(mut number: u64) -> [u8; 8] {
    let mut digits = [b'0'; 8];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    digits
}

/// Parses eight digits at a time: combines neighbours into pairs, pairs into fours, fours into eight.
#[inline]
fn number(head: &[u8; MIN_TEXT_BYTES], at: usize) -> Option<u32> {
    let chunk = u64::from_le_bytes(*head[at..].first_chunk::<8>()?);
    let values = chunk ^ 0x3030_3030_3030_3030;
    // A byte above 9 has one of its upper four bits set, at the latest after 6 is added.
    if (values | (values.wrapping_add(0x0606_0606_0606_0606))) & 0xf0f0_f0f0_f0f0_f0f0 != 0 {
        return None;
    }
    let pairs = values.wrapping_mul(10).wrapping_add(values >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    Some((fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_messages_decode_to_themselves() {
        for bytes in [MIN_TEXT_BYTES, MIN_TEXT_BYTES + 1, 128, 1000] {
            let codec = TextCodec::new(bytes);
            for message in [
                Message { room: 0, sender: 0, number: 0, intended: 0 },
                Message { room: 12_345_678, sender: 9, number: 99_999_999, intended: 9_999_999_999_999_999 },
                Message { room: 1, sender: 1000, number: 70, intended: 123_456_789_012 },
            ] {
                let mut text = Vec::new();
                codec.encode(&mut text, message);
                assert_eq!(text.len(), bytes);
                assert_eq!(codec.decode(&text), Some(message));
            }
        }
    }

    #[test]
    fn changing_any_byte_changes_or_invalidates_the_message() {
        let codec = TextCodec::new(60);
        let message = Message { room: 3, sender: 4, number: 5, intended: 6 };
        let mut text = Vec::new();
        codec.encode(&mut text, message);
        for at in 0..text.len() {
            for byte in [b'/', b':', b'x', 0, 0xff] {
                let mut other = text.clone();
                other[at] = byte;
                assert!(other == text || codec.decode(&other) != Some(message), "byte {at}");
            }
            assert_eq!(codec.decode(&text[..at]), None);
        }
        text.push(b'x');
        assert_eq!(codec.decode(&text), None);
    }
}
