//! The protocols: how a connection joins a room, how it sends a message, and how it reads what the server sends.

mod centrifugo;
mod plain;

use crate::client::message::TextCodec;
use crate::result::Wire;
pub use centrifugo::Centrifugo;
use memchr::memmem;
pub use plain::Plain;
use std::cell::Cell;

/// A position in the history of a stored room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub epoch: String,
    pub offset: u64,
}

/// Something that a server sent.
#[derive(Debug, PartialEq, Eq)]
pub enum ServerEvent<'a> {
    /// The connection has joined the room. In a stored room, `position` is where it starts; if it asked to recover,
    /// `recovered` says whether the server could.
    Joined { position: Option<Position>, recovered: Option<bool> },
    /// A message to the room. It has an offset if the room is stored.
    Message { text: &'a [u8], offset: Option<u64> },
    /// A publication of a stored room that is no message, such as a join. Only the Centrifugo protocol names its
    /// channel: a connection of the plain protocol has one.
    NoMessage { channel: Option<String>, offset: u64 },
    /// The server accepted this sender's message with this number.
    Acknowledged { number: u32 },
    /// The server rejected a valid command.
    Refused { reason: String },
    /// A ping that must be answered with `reply`.
    Ping { reply: &'static [u8] },
    /// Anything else, to be ignored.
    Other,
}

/// The protocol that the connections of a run speak.
#[derive(Clone, Debug)]
pub enum Dialect {
    /// Each frame is the text of a message, and members receive nothing else.
    Raw {
        /// The length from which texts are padded with spaces, if the server pads its frames.
        padded_from: Option<usize>,
    },
    Plain(Plain),
    Centrifugo(Centrifugo),
}

impl Dialect {
    pub fn new(wire: Wire, codec: &TextCodec, is_padded: bool) -> Dialect {
        match wire {
            Wire::Raw => Dialect::Raw { padded_from: is_padded.then(|| codec.length()) },
            Wire::Plain => Dialect::Plain(Plain::new(codec.length())),
            Wire::Centrifugo => Dialect::Centrifugo(Centrifugo::new(codec.length())),
        }
    }

    /// Whether commands get replies. Otherwise a sender's own message, coming back, is the acknowledgement.
    pub fn has_replies(&self) -> bool {
        matches!(self, Dialect::Centrifugo(_))
    }

    /// What the client sends after the upgrade to join a room. `None` if the upgrade request itself asked for that.
    pub fn opening_commands(&self, token: &str, channel: &str, since: Option<&Position>) -> Option<Vec<u8>> {
        match self {
            Dialect::Raw { .. } | Dialect::Plain(_) => None,
            Dialect::Centrifugo(_) => Some(centrifugo::opening_commands(token, channel, since)),
        }
    }

    /// Whether a connection has joined its room as soon as the upgrade is accepted.
    pub fn joins_on_upgrade(&self) -> bool {
        matches!(self, Dialect::Raw { .. })
    }

    /// Appends the payload of a frame that publishes a message.
    pub fn publish(&self, out: &mut Vec<u8>, channel: &str, number: u32, text: &[u8]) {
        match self {
            Dialect::Raw { .. } => out.extend_from_slice(text),
            Dialect::Plain(_) => plain::publish(out, number, text),
            Dialect::Centrifugo(_) => centrifugo::publish(out, channel, number, text),
        }
    }

    /// The command to unsubscribe from a channel. Like the next two, it is empty in protocols without commands.
    pub fn unsubscribe(&self, channel: &str) -> Vec<u8> {
        self.command(|| centrifugo::unsubscribe(channel))
    }

    /// The command to subscribe to a channel, recovering from `since` if it is given.
    pub fn subscribe(&self, channel: &str, since: Option<&Position>) -> Vec<u8> {
        self.command(|| centrifugo::subscribe(channel, since))
    }

    /// The command to read the newest `limit` publications of a channel.
    pub fn history(&self, channel: &str, limit: u32) -> Vec<u8> {
        self.command(|| centrifugo::history(channel, limit))
    }

    fn command(&self, write: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
        if self.has_replies() { write() } else { Vec::new() }
    }

    /// Reads a frame and calls `on_event` for each event in it.
    #[inline]
    pub fn read<'a>(&self, frame: &'a [u8], mut on_event: impl FnMut(ServerEvent<'a>)) {
        match self {
            Dialect::Raw { padded_from } => {
                let text = padded_from.and_then(|length| frame.split_at_checked(length));
                let text =
                    text.filter(|(_, rest)| rest.iter().all(|byte| *byte == b' ')).map_or(frame, |(text, _)| text);
                on_event(ServerEvent::Message { text, offset: None });
            }
            Dialect::Plain(plain) => on_event(plain.read(frame)),
            Dialect::Centrifugo(centrifugo) => {
                let mut rest = frame;
                while !rest.is_empty() {
                    let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                    let (line, after) = rest.split_at(end);
                    if !line.is_empty() {
                        on_event(centrifugo.read(line));
                    }
                    rest = after.get(1..).unwrap_or_default();
                }
            }
        }
    }
}

const TEXT: &[u8] = br#""text":""#;

/// Finds the text and the offset of a message without a JSON parser. This works because all texts have the same length
/// and contain nothing that JSON escapes. When it finds nothing, the caller falls back to a parser.
#[derive(Clone, Debug)]
struct Scanner {
    text: memmem::Finder<'static>,
    /// Where the previous text began. The next one usually begins there too.
    latest: Cell<usize>,
    offset: memmem::Finder<'static>,
    length: usize,
}

impl Scanner {
    fn new(length: usize) -> Scanner {
        let text = memmem::Finder::new(TEXT);
        Scanner { text, latest: Cell::new(0), offset: memmem::Finder::new(br#""offset":"#), length }
    }

    /// Splits the JSON into what is before the text, the text, and what is after it.
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

    /// The value of the first field "offset".
    #[inline]
    fn offset(&self, json: &[u8]) -> Option<u64> {
        number(&json[self.offset.find(json)? + br#""offset":"#.len()..])
    }
}

/// The decimal number at the start of these bytes.
#[inline]
fn number(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (1..=18)
        .contains(&digits)
        .then(|| bytes[..digits].iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}
