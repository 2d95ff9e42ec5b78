//! What is on the wire: how a connection gets into a room, how a message is sent, and where it is in what comes back.

mod centrifugo;
mod plain;

use crate::client::message::Texts;
use crate::result::Wire;
pub use centrifugo::Centrifugo;
use memchr::memmem;
pub use plain::Plain;
use std::cell::Cell;

/// Where a subscription stands in a stored room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub epoch: String,
    pub offset: u64,
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// The connection is in the room. In a stored one: where it stands, and whether it was taken up where it asked for.
    Joined { position: Option<Position>, recovered: Option<bool> },
    /// A message to the room, and its offset where it is stored.
    Message { text: &'a [u8], offset: Option<u64> },
    /// The sender's own message of this number was taken.
    Acknowledged { number: u32 },
    /// Something right was refused.
    Refused { why: String },
    /// To be answered with this text.
    Answer(&'static [u8]),
    /// Nothing of interest.
    Other,
}

/// How the connections of a run talk.
#[derive(Clone, Debug)]
pub enum Dialect {
    /// Texts verbatim. They come back to the sender, and nothing else ever comes. Where a server is told to fill its
    /// frames up, spaces follow texts of this length.
    Verbatim {
        filled_from: Option<usize>,
    },
    Plain(Plain),
    Centrifugo(Centrifugo),
}

impl Dialect {
    pub fn new(wire: Wire, texts: &Texts, is_filled: bool) -> Dialect {
        match wire {
            Wire::Raw => Dialect::Verbatim { filled_from: is_filled.then(|| texts.length()) },
            Wire::Plain => Dialect::Plain(Plain::new(texts.length())),
            Wire::Centrifugo => Dialect::Centrifugo(Centrifugo::new(texts.length())),
        }
    }

    /// Whether a message that was sent is acknowledged by an answer; otherwise it is by its coming back.
    pub fn has_answers(&self) -> bool {
        matches!(self, Dialect::Centrifugo(_))
    }

    /// What is sent once the upgrade is answered. `None`: the connection is in the room already, or is told so unasked.
    pub fn greeting(&self, token: &str, channel: &str, since: Option<&Position>) -> Option<Vec<u8>> {
        match self {
            Dialect::Verbatim { .. } | Dialect::Plain(_) => None,
            Dialect::Centrifugo(_) => Some(centrifugo::greeting(token, channel, since)),
        }
    }

    /// Whether the answer to the upgrade says all that there is to say.
    pub fn is_in_at_once(&self) -> bool {
        matches!(self, Dialect::Verbatim { .. })
    }

    /// Writes the frame of a message.
    pub fn publish(&self, out: &mut Vec<u8>, channel: &str, number: u32, text: &[u8]) {
        match self {
            Dialect::Verbatim { .. } => out.extend_from_slice(text),
            Dialect::Plain(_) => plain::publish(out, number, text),
            Dialect::Centrifugo(_) => centrifugo::publish(out, channel, number, text),
        }
    }

    /// The commands with which a connection leaves a channel, enters one, and reads its newest history. Only the
    /// Centrifugo protocol has them; others are sent nothing.
    pub fn leave(&self, channel: &str) -> Vec<u8> {
        self.command(|| centrifugo::leave(channel))
    }

    pub fn enter(&self, channel: &str, since: Option<&Position>) -> Vec<u8> {
        self.command(|| centrifugo::enter(channel, since))
    }

    pub fn history(&self, channel: &str, limit: u32) -> Vec<u8> {
        self.command(|| centrifugo::history(channel, limit))
    }

    fn command(&self, write: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        if self.has_answers() { write() } else { Vec::new() }
    }

    /// Reads a frame, which may say several things.
    #[inline]
    pub fn read<'a>(&self, frame: &'a [u8], mut hear: impl FnMut(Said<'a>)) {
        match self {
            Dialect::Verbatim { filled_from } => {
                let text = filled_from.and_then(|length| frame.split_at_checked(length));
                let text =
                    text.filter(|(_, rest)| rest.iter().all(|byte| *byte == b' ')).map_or(frame, |(text, _)| text);
                hear(Said::Message { text, offset: None });
            }
            Dialect::Plain(plain) => hear(plain.read(frame)),
            Dialect::Centrifugo(centrifugo) => {
                let mut rest = frame;
                while !rest.is_empty() {
                    let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                    let (line, behind) = rest.split_at(end);
                    if !line.is_empty() {
                        hear(centrifugo.read(line));
                    }
                    rest = behind.get(1..).unwrap_or_default();
                }
            }
        }
    }
}

const TEXT: &[u8] = br#""text":""#;

/// Finds the text of a message and its offset without a JSON parser: texts have one length and nothing in them that
/// JSON escapes. Whoever finds nothing parses.
#[derive(Clone, Debug)]
struct Scanner {
    text: memmem::Finder<'static>,
    /// Where the latest text was: mostly the next one is there as well.
    latest: Cell<usize>,
    offset: memmem::Finder<'static>,
    length: usize,
}

impl Scanner {
    fn new(length: usize) -> Scanner {
        let text = memmem::Finder::new(TEXT);
        Scanner { text, latest: Cell::new(0), offset: memmem::Finder::new(br#""offset":"#), length }
    }

    /// The text in this JSON, and what is before and behind it.
    #[inline]
    fn text<'a>(&self, json: &'a [u8]) -> Option<(&'a [u8], &'a [u8], &'a [u8])> {
        let latest = self.latest.get();
        let begin = match json.get(..latest) {
            Some(before) if before.ends_with(TEXT) => latest,
            _ => self.text.find(json)? + TEXT.len(),
        };
        self.latest.set(begin);
        let rest = &json[begin..];
        if rest.get(self.length) != Some(&b'"') {
            return None;
        }
        let text = &rest[..self.length];
        (memchr::memchr2(b'"', b'\\', text).is_none()).then_some((&json[..begin], text, &rest[self.length..]))
    }

    /// The number behind the name "offset".
    #[inline]
    fn offset(&self, json: &[u8]) -> Option<u64> {
        number(&json[self.offset.find(json)? + br#""offset":"#.len()..])
    }
}

/// The number that these bytes begin with.
#[inline]
fn number(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (1..=18)
        .contains(&digits)
        .then(|| bytes[..digits].iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}
