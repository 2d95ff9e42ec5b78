//! Surveys: what a backend asks all shards of all nodes about their clients, or has them do with those of one user.
//! Each shard answers with its own findings, which are merged.

use crate::message::Channel;
use crate::protocol::centrifuge::ClientInfo;
use globset::GlobMatcher;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uproar_model::{UnixMillis, UserId};

/// The longest pattern, in bytes. (A survey must fit into one message of the bus.)
const PATTERN_LIMIT_BYTES: usize = 512;
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

/// A pattern of channel names, as Centrifugo has them: `*`, `?`, `[a-z]`, `{a,b}`.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Arc<str>,
    matcher: GlobMatcher,
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
        let glob = globset::Glob::new(text).map_err(|error| format!("the pattern is not valid: {}", error.kind()))?;
        Ok(Pattern { text: text.into(), matcher: glob.compile_matcher() })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn matches(&self, channel: &str) -> bool {
        self.matcher.is_match(channel)
    }
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
