//! What is sent: a text of a fixed length that says who sent it, as which, and when it should have been sent.
//!
//! ```text
//! RRRRRRRR SSSSSSSS NNNNNNNN TTTTTTTTTTTTTTTT xxxxx…
//! room     sender   number   intended time    filler
//! ```
//!
//! Decimal numbers of a fixed width, so that a receiver finds them without searching and reads eight digits at once.

/// Where the filler begins.
pub const SHORTEST_BYTES: usize = 44;
/// Longer than any server takes.
pub const LONGEST_BYTES: usize = 16_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which room, from 0.
    pub room: u32,
    /// Which of the room's senders, from 0.
    pub sender: u32,
    /// From 0, for each sender.
    pub number: u32,
    /// When it was to be sent, in nanoseconds of the client's clock.
    pub intended: u64,
}

/// Writes and reads messages of one length.
#[derive(Clone, Debug)]
pub struct Texts {
    filler: Vec<u8>,
}

impl Texts {
    /// `bytes`: the length of each text, `SHORTEST_BYTES` at least.
    pub fn new(bytes: usize) -> Texts {
        let alphabet = (b'a'..=b'z').cycle();
        Texts { filler: alphabet.take(bytes.saturating_sub(SHORTEST_BYTES)).collect() }
    }

    /// The length of each text in bytes.
    pub fn length(&self) -> usize {
        SHORTEST_BYTES + self.filler.len()
    }

    /// Appends the text of a message.
    pub fn push(&self, out: &mut Vec<u8>, message: Message) {
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

    /// `None`: nobody here has sent this.
    #[inline]
    pub fn read(&self, text: &[u8]) -> Option<Message> {
        let (head, filler) = text.split_first_chunk::<SHORTEST_BYTES>()?;
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

/// Eight digits at a time: neighbours are added up to pairs, those to fours, those to eight.
#[inline]
fn number(head: &[u8; SHORTEST_BYTES], at: usize) -> Option<u32> {
    let chunk = u64::from_le_bytes(*head[at..].first_chunk::<8>()?);
    let values = chunk ^ 0x3030_3030_3030_3030;
    // A byte above 9 has one of its upper four bits set, or has it after 6 was added.
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
    fn what_was_written_is_read() {
        for bytes in [SHORTEST_BYTES, SHORTEST_BYTES + 1, 128, 1000] {
            let texts = Texts::new(bytes);
            for message in [
                Message { room: 0, sender: 0, number: 0, intended: 0 },
                Message { room: 12_345_678, sender: 9, number: 99_999_999, intended: 9_999_999_999_999_999 },
                Message { room: 1, sender: 1000, number: 70, intended: 123_456_789_012 },
            ] {
                let mut text = Vec::new();
                texts.push(&mut text, message);
                assert_eq!(text.len(), bytes);
                assert_eq!(texts.read(&text), Some(message));
            }
        }
    }

    #[test]
    fn another_byte_is_noticed_wherever_it_is() {
        let texts = Texts::new(60);
        let message = Message { room: 3, sender: 4, number: 5, intended: 6 };
        let mut text = Vec::new();
        texts.push(&mut text, message);
        for at in 0..text.len() {
            for byte in [b'/', b':', b'x', 0, 0xff] {
                let mut other = text.clone();
                other[at] = byte;
                assert!(other == text || texts.read(&other) != Some(message), "byte {at}");
            }
            assert_eq!(texts.read(&text[..at]), None);
        }
        text.push(b'x');
        assert_eq!(texts.read(&text), None);
    }
}
