//! Surveys: what a backend asks all shards of all nodes about their clients, or has them do with those of one user.
//! Each shard answers with its own findings, which are merged.

use crate::message::Channel;
use crate::protocol::centrifuge::ClientInfo;
use regex::{Regex, RegexBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uproar_model::{UnixMillis, UserId};

/// The longest pattern, in bytes. (A survey must fit into one message of the bus.)
const PATTERN_LIMIT_BYTES: usize = 512;
/// The most memory that a pattern may take.
const PATTERN_MEMORY_BYTES: usize = 512 * 1024;
/// The most clients that a `disconnect` can spare.
pub const SPARED_LIMIT: usize = 64;
/// The longest id of a client, in bytes. No client has a longer one.
pub const CLIENT_ID_LIMIT_BYTES: usize = 64;
/// A shard with more users in a channel than this counts them instead of naming them.
const USERS_LIMIT: usize = 1_000;
/// About how many bytes of findings one announcement carries.
const PART_BYTES: usize = 5_000;

/// A question to all shards, or something that all of them do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Survey {
    /// Who is in a channel.
    Presence { channel: Channel },
    /// How many clients and users are in a channel.
    PresenceStats { channel: Channel },
    /// Which channels have subscribers, and how many. `None`: all channels.
    Channels { pattern: Option<Pattern> },
    /// Ends a user's subscriptions of a channel, which is named as clients name it.
    Unsubscribe { user: UserId, channel: Arc<str>, client: Option<Arc<str>> },
    /// Closes a user's connections with this code and reason.
    Disconnect { user: UserId, client: Option<Arc<str>>, spared: Vec<Arc<str>>, code: u16, reason: Arc<str> },
    /// Changes when a user's connections expire.
    Refresh { user: UserId, client: Option<Arc<str>>, expiry: Expiry },
}

/// When a connection expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It has expired.
    Now,
    /// At this time, and the grace after it.
    At(UnixMillis),
    Never,
}

/// A pattern of channel names, as Centrifugo has them: `*`, `?`, `[a-z]`, `[!a-z]`, `{a,b}`, and `\` before a character
/// that means itself. It is matched character by character, in time that grows with the length of the name only.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Arc<str>,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl Pattern {
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Pattern, String> {
        if text.len() > PATTERN_LIMIT_BYTES {
            return Err(format!("the pattern is longer than {PATTERN_LIMIT_BYTES} bytes"));
        }
        let invalid = |why: &str| format!("the pattern is not valid: {why}");
        let regex = regex_of(text).map_err(invalid)?;
        let mut builder = RegexBuilder::new(&regex);
        let built =
            builder.size_limit(PATTERN_MEMORY_BYTES).dfa_size_limit(PATTERN_MEMORY_BYTES).nest_limit(200).build();
        let regex = built.map_err(|_| invalid("it is too complex"))?;
        Ok(Pattern { text: text.into(), regex })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn matches(&self, channel: &str) -> bool {
        self.regex.is_match(channel)
    }
}

/// The regular expression that means the same as a pattern.
fn regex_of(pattern: &str) -> Result<String, &'static str> {
    let mut regex = String::from("\\A(?s:");
    let mut depth = 0;
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' if regex.ends_with(".*") => {}
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            '[' => push_class(&mut regex, &mut rest)?,
            '{' => {
                depth += 1;
                regex.push_str("(?:");
            }
            ',' if depth > 0 => regex.push('|'),
            '}' if depth > 0 => {
                depth -= 1;
                regex.push(')');
            }
            '}' => return Err("there is a } without {"),
            '\\' => push_literal(&mut regex, rest.next().ok_or("it ends with \\")?),
            c => push_literal(&mut regex, c),
        }
    }
    if depth > 0 {
        return Err("a { is not closed");
    }
    regex.push_str(")\\z");
    Ok(regex)
}

/// Adds a set of characters, which follows its `[`.
fn push_class(regex: &mut String, rest: &mut std::str::Chars<'_>) -> Result<(), &'static str> {
    const OPEN: &str = "a [ is not closed";
    regex.push('[');
    if rest.as_str().starts_with('!') {
        rest.next();
        regex.push('^');
    }
    let mut is_empty = true;
    loop {
        let low = match rest.next().ok_or(OPEN)? {
            ']' if is_empty => return Err("there is a [] without characters"),
            ']' => break,
            '\\' => rest.next().ok_or(OPEN)?,
            c => c,
        };
        is_empty = false;
        push_literal(regex, low);
        let mut ahead = rest.clone();
        if ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']') {
            rest.next();
            let high = match rest.next().ok_or(OPEN)? {
                '\\' => rest.next().ok_or(OPEN)?,
                c => c,
            };
            if high < low {
                return Err("a range in [] ends before it begins");
            }
            regex.push('-');
            push_literal(regex, high);
        }
    }
    regex.push(']');
    Ok(())
}

/// Adds a character that means itself.
fn push_literal(regex: &mut String, c: char) {
    // Letters, digits, `<` and `>` would mean something after a backslash, and no other character does.
    if c.is_ascii_punctuation() && !matches!(c, '<' | '>') {
        regex.push('\\');
    }
    regex.push(c);
}

/// What a shard, or several of them, found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Clients, by name.
    pub clients: Vec<ClientInfo>,
    /// Clients that were counted.
    pub client_count: u64,
    /// The users of these, where they are few enough to be named, and the number of all others.
    pub users: BTreeSet<UserId>,
    pub other_users: u64,
    /// Channels by name, with the number of subscribers.
    pub channels: BTreeMap<Arc<str>, u64>,
    /// There are more channels.
    pub has_more: bool,
}

impl Survey {
    /// Whether it only asks, so that asking again does no harm.
    pub fn is_question(&self) -> bool {
        match self {
            Survey::Presence { .. } | Survey::PresenceStats { .. } | Survey::Channels { .. } => true,
            Survey::Unsubscribe { .. } | Survey::Disconnect { .. } | Survey::Refresh { .. } => false,
        }
    }
}

impl Findings {
    /// Counts these clients and users.
    pub(crate) fn counted(clients: u64, user_count: u64, users: impl Iterator<Item = UserId>) -> Findings {
        let is_named = user_count <= USERS_LIMIT as u64;
        Findings {
            client_count: clients,
            users: if is_named { users.collect() } else { BTreeSet::new() },
            other_users: if is_named { 0 } else { user_count },
            ..Findings::default()
        }
    }

    /// How many users were counted. One whom two nodes count without naming is counted twice.
    pub fn user_count(&self) -> u64 {
        (self.users.len() as u64).saturating_add(self.other_users)
    }

    pub fn merge(&mut self, other: Findings) {
        self.clients.extend(other.clients);
        self.client_count = self.client_count.saturating_add(other.client_count);
        self.users.extend(other.users);
        self.other_users = self.other_users.saturating_add(other.other_users);
        for (channel, count) in other.channels {
            let all = self.channels.entry(channel).or_default();
            *all = all.saturating_add(count);
        }
        self.has_more |= other.has_more;
    }

    /// Splits them into parts that each fit into one announcement: at least one.
    pub(crate) fn parts(self) -> Vec<Findings> {
        let Findings { clients, client_count, users, other_users, channels, has_more } = self;
        let mut parts = vec![Findings { client_count, other_users, has_more, ..Findings::default() }];
        let mut bytes = 0;
        for client in clients {
            part_for(&mut parts, &mut bytes, 40 + client.client.len() + 2 * client.user.username.len())
                .clients
                .push(client);
        }
        for user in users {
            part_for(&mut parts, &mut bytes, 20).users.insert(user);
        }
        for (channel, count) in channels {
            part_for(&mut parts, &mut bytes, 25 + channel.len()).channels.insert(channel, count);
        }
        parts
    }
}

/// The part that has room for so many bytes more.
fn part_for<'a>(parts: &'a mut Vec<Findings>, bytes: &mut usize, more: usize) -> &'a mut Findings {
    if *bytes > 0 && *bytes + more > PART_BYTES {
        parts.push(Findings::default());
        *bytes = 0;
    }
    *bytes += more;
    let last = parts.len() - 1;
    &mut parts[last]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).matches(name)
    }

    #[test]
    fn a_pattern_matches_characters_and_not_bytes() {
        for (pattern, name) in [
            ("", ""),
            ("*", "room:any/thing"),
            ("room:*", "room:"),
            ("room:?", "room:é"),
            ("room:???", "room:日本語"),
            ("room:[à-é]", "room:é"),
            ("room:[!a-z]", "room:é"),
            ("room:[a-c-]", "room:-"),
            ("room:[\\]]", "room:]"),
            ("{room,live}:**", "live:a/b"),
            ("room:{a,b{c,d}}x", "room:bdx"),
            ("room:a,b", "room:a,b"),
            ("room:\\*.+^$|()#&-~", "room:*.+^$|()#&-~"),
            ("live:a?b", "live:a/b"),
            ("live:a?b", "live:a\u{2028}b"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("", "x"),
            ("room:?", "room:ab"),
            ("room:??", "room:é"),
            ("room:[a-c]", "room:d"),
            ("room:[!a-c]", "room:b"),
            ("oom:*", "room:x"),
            ("room:\\*", "room:x"),
            ("ROOM:*", "room:x"),
            ("room:{a,b}", "room:c"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_character_means_itself() {
        for c in ' '..='~' {
            let name = c.to_string();
            for pattern in [format!("\\{c}"), format!("[\\{c}]"), format!("[\\{c}-\\{c}]")] {
                assert!(matches(&pattern, &name) && !matches(&pattern, "é"), "{pattern}");
            }
            if !"*?[]{}\\!".contains(c) {
                assert!(matches(&name, &name) && matches(&format!("[{c}]"), &name), "{c}");
                assert!(matches(&format!("live:a{c}b*"), &format!("live:a{c}bc")), "{c}");
                assert!(!matches(&format!("[!{c}]"), &name), "{c}");
            }
        }
    }

    #[test]
    fn a_pattern_that_is_not_valid_is_explained() {
        for (pattern, words) in [
            ("[", "not closed"),
            ("[a", "not closed"),
            ("[a-", "not closed"),
            ("[]", "without characters"),
            ("[!]", "without characters"),
            ("[z-a]", "ends before"),
            ("{a", "not closed"),
            ("a}", "without {"),
            ("a\\", "ends with"),
            (&"{".repeat(300), "not closed"),
            (&format!("{}{}", "{".repeat(250), "}".repeat(250)), "complex"),
            (&"x".repeat(513), "512 bytes"),
        ] {
            let error = Pattern::new(pattern).unwrap_err();
            assert!(error.contains(words), "{pattern}: {error}");
        }
        // The longest ones of each kind are matched quickly.
        for pattern in ["*a".repeat(256), "?".repeat(512), "{a,*}".repeat(100) + "c", "[!a]".repeat(128)] {
            assert!(!matches(&pattern, &"b".repeat(700)));
        }
    }
}
