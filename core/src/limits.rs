//! Every limit, each defined once, with its unit in its name. `--limit NAME=VALUE` sets one: tests shorten the long
//! ones, operators raise the low ones.

use uproar_model::META_LIMIT_BYTES;
use uproar_model::fairness::Rate;

/// Declares the limits. Each has a purpose (its doc comment), a name, a default and a range of valid values.
macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident = $default:expr, $range:expr;)+) => {
        /// The limits in force. Names that end in `_ms` are milliseconds, those in `_bytes` bytes; the others are
        /// counts.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits { $($(#[doc = $doc])+ pub $name: u64,)+ }

        impl Default for Limits {
            fn default() -> Limits {
                Limits { $($name: $default,)+ }
            }
        }

        impl Limits {
            /// The name, default and purpose of each limit, in the order of declaration, for `--help` and
            /// docs/options.md.
            pub fn described() -> Vec<(&'static str, u64, String)> {
                vec![$((stringify!($name), $default, concat!($($doc),+).trim().to_string()),)+]
            }

            /// Sets one limit from `NAME=VALUE`.
            pub fn set(&mut self, assignment: &str) -> Result<(), LimitError> {
                let (name, value) = assignment.split_once('=').ok_or_else(|| LimitError::Form(assignment.into()))?;
                let (name, value) = (name.trim(), value.trim());
                let number = value.replace('_', "").parse::<u64>();
                match name {
                    $(stringify!($name) => {
                        let range: std::ops::RangeInclusive<u64> = $range;
                        let number = number.ok().filter(|n| range.contains(n)).ok_or_else(|| LimitError::Value {
                            name: name.into(), value: value.into(), low: *range.start(), high: *range.end(),
                        })?;
                        self.$name = number;
                        Ok(())
                    })+
                    _ => Err(LimitError::Name(name.into())),
                }
            }
        }
    };
}

/// How long a revocation must be remembered, in milliseconds: for the longest lifetime of the tokens that it ended,
/// plus a minute for a token that was being issued meanwhile.
pub fn revocations_kept_ms(longest_token_lifetime_ms: u64) -> u64 {
    longest_token_lifetime_ms.saturating_add(60_000)
}

impl Limits {
    /// How often one user may publish; `None` means as often as they like.
    pub fn publish_rate(&self) -> Option<Rate> {
        let rate = Rate::per_second(self.publish_rate_per_second, self.publish_burst_limit);
        (rate.tokens > 0).then_some(rate)
    }

    /// How often commands of the server API may come with one key; `None` means as often as they like.
    pub fn api_rate(&self) -> Option<Rate> {
        let rate = Rate::per_second(self.api_rate_per_second, self.api_burst_limit);
        (rate.tokens > 0).then_some(rate)
    }

    /// How often one user may ask for lists: who is in a channel, and which rooms they are in.
    pub fn list_rate(&self) -> Rate {
        Rate::per_second(self.list_rate_per_second, self.list_burst_limit)
    }

    /// How often one user may change rooms and memberships; `None` means as often as they like.
    pub fn user_writes_rate(&self) -> Option<Rate> {
        let rate = Rate::per_minute(self.user_writes_per_minute, self.user_writes_burst_limit);
        (rate.tokens > 0).then_some(rate)
    }

    /// How often one user may join rooms; `None` means as often as they like.
    pub fn joins_rate(&self) -> Option<Rate> {
        let rate = Rate::per_hour(self.joins_per_hour_limit, self.joins_per_hour_limit);
        (rate.tokens > 0).then_some(rate)
    }

    /// How often one user may join the same room; `None` means as often as they like.
    pub fn rejoins_rate(&self) -> Option<Rate> {
        let rate = Rate::per_minute(self.rejoins_per_minute, self.rejoin_burst_limit);
        (rate.tokens > 0).then_some(rate)
    }

    /// How often one user may be added to rooms by others; `None` means as often as they like.
    pub fn additions_rate(&self) -> Option<Rate> {
        let rate = Rate::per_hour(self.additions_per_hour_limit, self.additions_per_hour_limit);
        (rate.tokens > 0).then_some(rate)
    }

    /// How often one user may make a direct room; `None` means as often as they like.
    pub fn direct_rooms_rate(&self) -> Option<Rate> {
        let rate = Rate::per_hour(self.direct_rooms_per_hour_limit, self.direct_rooms_per_hour_limit);
        (rate.tokens > 0).then_some(rate)
    }

    /// How often one incoming hook may be posted to; `None` means as often as senders like.
    pub fn hook_posts_rate(&self) -> Option<Rate> {
        let rate = Rate::per_minute(self.hook_posts_per_minute, self.hook_posts_burst_limit);
        (rate.tokens > 0).then_some(rate)
    }

    /// How often one client address may sign up; `None` means as often as it likes.
    pub fn sign_up_rate(&self) -> Option<Rate> {
        let rate = Rate::per_minute(self.sign_up_rate_per_minute, self.sign_up_burst_limit);
        (rate.tokens > 0).then_some(rate)
    }

    /// How often one client address may look at invites without a token; `None` means as often as it likes.
    pub fn invite_lookups_rate(&self) -> Option<Rate> {
        let rate = Rate::per_minute(self.invite_lookups_per_minute, self.invite_lookups_burst_limit);
        (rate.tokens > 0).then_some(rate)
    }

    /// How often one client address may try wrong passwords for one name; `None` means as often as it likes.
    pub fn wrong_password_rate(&self) -> Option<Rate> {
        let rate = Rate { tokens: 1, per_ms: self.wrong_password_interval_ms, burst: self.wrong_password_burst_limit };
        (rate.per_ms > 0).then_some(rate)
    }

    /// How often one client address may try wrong passwords at all; `None` means as often as it likes.
    pub fn address_wrong_passwords_rate(&self) -> Option<Rate> {
        let (per_ms, burst) = (self.address_wrong_passwords_interval_ms, self.address_wrong_passwords_burst_limit);
        (per_ms > 0).then_some(Rate { tokens: 1, per_ms, burst })
    }

    /// Lowers the limits of connections so that this many descriptors are enough. With too few descriptors, strangers
    /// would not be shared between fairly, but wait until any connection closes.
    pub fn fit_descriptors(&mut self, descriptors: u64, shards: u64) {
        let shards = shards.max(1);
        let for_connections = descriptors.saturating_sub(OWN_DESCRIPTORS + shards * SHARD_DESCRIPTORS);
        let lower = |limit: &mut u64, to: u64| *limit = (*limit).min(to.max(2));
        lower(&mut self.http_connections_limit, for_connections / 4);
        let of_shard = for_connections.saturating_sub(self.http_connections_limit) / shards;
        lower(&mut self.heads_per_shard_limit, of_shard / 4);
        lower(&mut self.connections_per_shard_limit, of_shard.saturating_sub(self.heads_per_shard_limit));
    }

    /// Checks the limits against each other.
    pub fn check(&self) -> Result<(), LimitError> {
        // JSON escapes make a text at most six times as long. The rest is for names, ids and other fields.
        let needed = 6 * self.text_limit_bytes + META_LIMIT_BYTES as u64 + 4 * KIB;
        if self.outbound_message_limit_bytes < needed {
            return Err(LimitError::Message { text: self.text_limit_bytes, needed });
        }
        Ok(())
    }
}

/// Why a `--limit` is rejected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("'{0}' is not of the form NAME=VALUE")]
    Form(String),
    #[error("there is no limit '{0}'; `uproar --help` lists them")]
    Name(String),
    #[error("'{value}' is not a valid value for the limit {name}; it takes a whole number from {low} to {high}")]
    Value { name: String, value: String, low: u64, high: u64 },
    #[error(
        "text_limit_bytes={text} allows messages of {needed} bytes; raise outbound_message_limit_bytes to at least that"
    )]
    Message { text: u64, needed: u64 },
}

/// Descriptors for everything but connections: files of the database, connections to it, listeners, the log.
const OWN_DESCRIPTORS: u64 = 64;

/// Descriptors of each shard: its listeners, wake-ups and the driver's own.
const SHARD_DESCRIPTORS: u64 = 8;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const DAY_MS: u64 = 24 * 3600 * 1000;

limits! {
    /// The longest text of a message.
    text_limit_bytes = 16 * KIB, 1..=MIB;
    /// The longest WebSocket frame that a client may send, and the longest message made of fragments.
    inbound_frame_limit_bytes = 64 * KIB, 128..=16 * MIB;
    /// The longest HTTP request head.
    head_limit_bytes = 16 * KIB, 256..=MIB;
    /// The longest HTTP request body.
    body_limit_bytes = 64 * KIB, 256..=16 * MIB;
    /// The longest body of a request to the server API.
    api_body_limit_bytes = MIB, 256..=64 * MIB;
    /// Once the answers to commands of one request to the server API are longer than this, its other commands are not
    /// executed (error 106).
    api_response_limit_bytes = 8 * MIB, 4 * KIB..=64 * MIB;
    /// Bytes that may be queued for one connection. A client that exceeds it reads too slowly and is disconnected
    /// (3008). The exception is a client that has kept up so far, and to which a single turn of the shard's event loop
    /// brings more than fits: it stays connected and is sent the rest as it reads.
    outbound_limit_bytes = MIB, 1..=1024 * MIB;
    /// Bytes that may be queued for all connections of a shard; shared buffers count once. Beyond that, the connections
    /// that hold the most are disconnected (3008), first those of the user who holds the most.
    shard_outbound_limit_bytes = 256 * MIB, 1..=64 * 1024 * MIB;
    /// Bytes that may be queued for all connections of one user on one shard while more than half of
    /// `shard_outbound_limit_bytes` is in use. Beyond that, those of the user's connections that hold the most are
    /// disconnected (3008).
    user_outbound_limit_bytes = 16 * MIB, 1..=64 * 1024 * MIB;
    /// Bytes of request heads and messages that have not arrived completely, of all connections of a shard. Beyond
    /// that, the connections that hold the most are disconnected (3008).
    shard_unfinished_limit_bytes = 64 * MIB, 1..=64 * 1024 * MIB;
    /// Bytes of messages that have not arrived completely, of all connections of one user on one shard, while more than
    /// half of `shard_unfinished_limit_bytes` is in use.
    user_unfinished_limit_bytes = MIB, 1..=64 * 1024 * MIB;
    /// How long a message may take to arrive from its first byte. Then the connection is closed (3008).
    message_timeout_ms = 30_000, 10..=DAY_MS;
    /// The longest message sent to a client. Longer recoveries are split, and longer histories are shortened. Some SDKs
    /// accept no more than 1 MiB.
    outbound_message_limit_bytes = 256 * KIB, 4 * KIB..=16 * MIB;
    /// Bytes of pongs that may wait for one connection. Beyond that, only the latest ping is answered.
    pongs_limit_bytes = 4 * KIB, 1..=MIB;
    /// The kernel's send buffer of each connection.
    socket_send_buffer_bytes = 128 * KIB, 64 * KIB..=64 * MIB;
    /// How long a write may make no progress before the connection is aborted.
    write_timeout_ms = 10_000, 10..=DAY_MS;
    /// How long the server waits for a client to read the close frame before it aborts the connection.
    close_timeout_ms = 1_000, 1..=DAY_MS;
    /// How long a client may take from opening the connection to being admitted.
    handshake_timeout_ms = 15_000, 10..=DAY_MS;
    /// How long a client may be quiet before it is pinged. SDK connections are pinged at this interval, quiet or not.
    ping_interval_ms = 25_000, 10..=DAY_MS;
    /// How long a client may stay silent after a ping before it is disconnected (3012).
    pong_timeout_ms = 10_000, 10..=DAY_MS;
    /// Pings that a shard sends in one turn of its event loop.
    pings_per_turn_limit = 512, 1..=MIB;
    /// Subscribers of one channel that a shard sends to in one turn of its event loop; the rest follow in later turns.
    sends_per_turn_limit = 512, 1..=MIB;
    /// The most WebSockets that a shard may have. When that is not enough for all, client addresses share the places: a
    /// further WebSocket is refused with 503, or takes the place of one from the address that has the most.
    connections_per_shard_limit = 1_000_000, 1..=16_000_000;
    /// The most connections that a shard may have whose first request has not arrived. The places are shared in the
    /// same way.
    heads_per_shard_limit = 4_096, 1..=1_000_000;
    /// Recent publications that are kept in memory per room, for clients that resume.
    ring_limit_publications = 512, 1..=MIB;
    /// Bytes of recent publications that are kept in memory per room, for clients that resume.
    ring_limit_bytes = 256 * KIB, 1..=1024 * MIB;
    /// Publications in one page read from the database.
    page_limit_publications = 256, 1..=4096;
    /// Bytes in one page read from the database.
    page_limit_bytes = 128 * KIB, 1..=16 * MIB;
    /// How long the server tries to read a missing publication of a room before it disconnects the room's subscribers
    /// (3010). For as long, a node that can't reach the database lets new connections wait.
    gap_deadline_ms = 5_000, 10..=DAY_MS;
    /// Publications of a room that may be held in memory until the gap before them is filled.
    held_limit_publications = 4_096, 1..=MIB;
    /// How often a node of a cluster compares the rooms in its memory with the database, while the bus works. While
    /// the bus is down, it does so at least every 500 ms. A server without `--bus` does so every `ping_interval_ms`.
    heads_sweep_interval_ms = 5_000, 10..=DAY_MS;
    /// How often the server looks for publications that it has to send to a webhook and was not told of: after a
    /// failure of the database, or because what another node announced was lost.
    reader_sweep_interval_ms = 30_000, 10..=DAY_MS;
    /// The least time between two writes that record what webhooks have delivered. What is due meanwhile is written
    /// together. If writes take long, it is 30 times as long as the last one took, but at most a second, and a room's
    /// POSTs need fewer of them.
    reader_write_interval_ms = 50, 0..=60_000;
    /// How long a webhook's receiver may take to answer a POST.
    webhook_timeout_ms = 15_000, 10..=DAY_MS;
    /// POSTs of one webhook that may be under way at the same time, each for another room.
    webhook_rooms_limit = 64, 1..=1_024;
    /// Memory for the bodies of POSTs that are under way. Each webhook has an equal share.
    webhook_bytes_limit = 64 * MIB, 8 * MIB..=16_384 * MIB;
    /// The longest pause before a webhook's POST is tried again.
    webhook_pause_limit_ms = 3_600_000, 1..=DAY_MS;
    /// How old a publication must be before the server gives up sending it to a webhook's receiver that does not accept
    /// it.
    webhook_age_limit_ms = 7 * DAY_MS, 1..=3650 * DAY_MS;
    /// How long a node waits for the publications before one that another node has announced, before it asks the
    /// database.
    bus_gap_wait_ms = 10, 0..=60_000;
    /// How often a node of a cluster says on the bus what it has announced, so that the others notice what they missed.
    bus_beat_interval_ms = 250, 10..=300;
    /// How long a shard keeps a room in memory after its last subscriber has left, for clients that reconnect.
    room_idle_ms = 60_000, 0..=DAY_MS;
    /// How long after a token's expiry its connections stay open and it can still be exchanged for a fresh one.
    expired_grace_ms = 25_000, 0..=DAY_MS;
    /// Connections of one user per shard. A further one is rejected (HTTP 429, or close code 3504).
    user_connections_limit = 100, 1..=16_000_000;
    /// Channels that one connection may subscribe to.
    subscription_limit = 128, 1..=65_536;
    /// Subscribes per second of one connection.
    subscribe_rate_per_second = 20, 1..=10_000_000;
    /// Subscribes of one connection that may arrive in one burst.
    subscribe_burst_limit = 512, 1..=10_000_000;
    /// Unanswered commands of one connection, publishes not counted. A further one gets error 100.
    pending_commands_limit = 256, 1..=65_536;
    /// How long a command may wait for its answer before it gets error 100. SDKs wait 5 s.
    command_deadline_ms = 4_000, 10..=DAY_MS;
    /// How long a client may take to close the connection after its `connect` was rejected.
    refused_timeout_ms = 5_000, 10..=DAY_MS;
    /// Clients listed in one answer to `presence`.
    presence_limit = 1_000, 1..=10_000;
    /// Requests for lists (`presence`, `presence_stats`, `rooms`) per second of one user on one shard.
    list_rate_per_second = 10, 1..=10_000_000;
    /// Requests for lists of one user on one shard that may arrive in one burst.
    list_burst_limit = 100, 1..=10_000_000;
    /// A channel with at most this many subscribers reports who joins, leaves and types. A larger channel reports only
    /// how many there are. A room with at most this many members keeps in its history who became a member.
    join_leave_limit = 100, 0..=10_000;
    /// Minimum time between two reports of how many subscribers a large channel has; the actual interval grows with the
    /// number of subscribers.
    online_interval_ms = 1_000, 1..=DAY_MS;
    /// Rejected commands of one connection that may occur in one burst. Beyond that, the connection is closed (3509,
    /// or 3013 if the last one exceeded a rate limit).
    error_burst_limit = 400, 1..=10_000_000;
    /// Rejected commands per second of one connection.
    error_rate_per_second = 10, 1..=10_000_000;
    /// How long a publish may wait for the database before its sender gets error 100.
    append_deadline_ms = 4_000, 10..=DAY_MS;
    /// Publishes in one batch of a lane.
    batch_limit_items = 512, 1..=512;
    /// Bytes in one batch of a lane.
    batch_limit_bytes = MIB, 1..=64 * MIB;
    /// Publishes that may wait in a lane. One room may fill at most a quarter of it.
    lane_limit_items = 16_384, 4..=16 * MIB;
    /// Bytes that may wait in a lane. One room may fill at most a quarter of it.
    lane_limit_bytes = 16 * MIB, 4..=1024 * MIB;
    /// Publishes of one connection that may wait for the database.
    pending_publishes_limit = 64, 1..=4096;
    /// How long a changed read marker may stay in memory before it is written to the database.
    read_markers_interval_ms = 5_000, 1..=DAY_MS;
    /// The delay before a batch with an unknown outcome is sent again. It doubles with each attempt, up to one second.
    retry_delay_ms = 20, 1..=10_000;
    /// Unanswered requests that one shard may have at another shard, at a database writer, or at the task that reads
    /// from the database.
    mesh_calls_limit = 16_384, 1..=MIB;
    /// Questions about the clients of all nodes, and commands to them, that one node may have under way for backends.
    surveys_limit = 256, 1..=65_536;
    /// How long the shards and the other nodes may take to answer such a question.
    survey_timeout_ms = 2_000, 100..=60_000;
    /// Channels that a backend is told of at a time. If there are more, it has to narrow its pattern.
    channels_limit = 10_000, 1..=100_000;
    /// Publications that may be queued from one shard to another.
    mesh_publications_limit = 4_096, 1..=MIB;
    /// Publishes per second of one user on one shard; 0 means no limit.
    publish_rate_per_second = 50, 0..=10_000_000;
    /// Publishes of one user on one shard that may arrive in one burst.
    publish_burst_limit = 500, 1..=10_000_000;
    /// Changes of rooms and memberships of one user that may arrive in one burst: creating, deleting and joining rooms,
    /// adding and removing members.
    user_writes_burst_limit = 200, 1..=10_000_000;
    /// Such changes per minute of one user after a burst; 0 means no limit.
    user_writes_per_minute = 60, 0..=10_000_000;
    /// Rooms that one user may join within an hour, in one burst or not; 0 means no limit.
    joins_per_hour_limit = 600, 0..=10_000_000;
    /// How often one user may join the same room in one burst.
    rejoin_burst_limit = 5, 1..=10_000_000;
    /// How often per minute one user may join the same room after a burst; 0 means no limit.
    rejoins_per_minute = 2, 0..=10_000_000;
    /// How often a user may be added to rooms by others within an hour, in one burst or not. Any one other user may use
    /// at most a tenth of this. 0 means no limit.
    additions_per_hour_limit = 500, 0..=10_000_000;
    /// Rooms that one user may own; 0 means no limit.
    rooms_owned_limit = 1_000, 0..=10_000_000;
    /// Direct rooms that one user may make within an hour, in one burst or not; 0 means no limit.
    direct_rooms_per_hour_limit = 60, 0..=10_000_000;
    /// Users whom one user may block.
    blocks_limit = 1_000, 1..=100_000;
    /// Incoming hooks that a room may have.
    hooks_per_room_limit = 20, 1..=10_000;
    /// Posts to one incoming hook that may arrive in one burst.
    hook_posts_burst_limit = 100, 1..=10_000_000;
    /// Posts to one incoming hook per minute after a burst; 0 means no limit.
    hook_posts_per_minute = 60, 0..=10_000_000;
    /// The longest body of a post to an incoming hook.
    hook_body_limit_bytes = 256 * KIB, 256..=16 * MIB;
    /// Invites that a room may have.
    invites_per_room_limit = 100, 1..=1_000;
    /// The largest member limit that a room can be created with.
    room_size_limit = 100_000, 1..=100_000;
    /// How long the name of a deleted room is reserved for its last owner.
    room_name_reserved_ms = 30 * DAY_MS, 0..=3650 * DAY_MS;
    /// Entries in one page of history, rooms or members.
    history_page_limit = 100, 1..=1000;
    /// Bytes of a list in an HTTP response. A longer one is cut, and the response says that there is more.
    response_limit_bytes = MIB, 4 * KIB..=64 * MIB;
    /// Bytes of HTTP responses that clients have not read yet. One user's responses may take up to half of the space
    /// that the responses to all other users leave free; a response beyond that is replaced by 503. For requests
    /// without a token, the client address counts as the user.
    http_outbound_limit_bytes = 256 * MIB, 64 * KIB..=64 * 1024 * MIB;
    /// How long a token is valid.
    token_lifetime_ms = 3_600_000, 1_000..=365 * DAY_MS;
    /// How long tokens can be renewed after a sign-in. After that the user must sign in again.
    sign_in_lifetime_ms = 90 * DAY_MS, 1_000..=3650 * DAY_MS;
    /// How long a browser stays signed in without a visit. Each visit renews it.
    session_lifetime_ms = 30 * DAY_MS, 1_000..=365 * DAY_MS;
    /// The shortest time between two fetches of an identity provider's keys because a token names an unknown one.
    keys_fetch_interval_ms = 60_000, 100..=DAY_MS;
    /// How long a start waits for an address, a data folder or a database that another process still has.
    start_timeout_ms = 10_000, 0..=DAY_MS;
    /// How long the server may take to finish what is under way when it stops.
    stop_timeout_ms = 8_000, 10..=DAY_MS;
    /// How long a database call may take, including the wait for a connection, before it counts as failed.
    store_timeout_ms = 10_000, 10..=DAY_MS;
    /// How long a session with PostgreSQL is used before a new one replaces it.
    store_session_age_ms = 1_800_000, 10..=DAY_MS;
    /// How long a node of several serves its clients without learning which tokens the others have revoked. It asks
    /// twice as often.
    lease_ms = 1_000, 100..=60_000;
    /// The member limit of a room that is created without `size`.
    room_size_default = 10_000, 1..=100_000;
    /// The most HTTP connections at a time. When that is not enough for all, client addresses share the places: idle
    /// connections of the address that has the most are closed first, and further connections are refused with 503.
    http_connections_limit = 4_096, 1..=1_000_000;
    /// The most connections of the operators' port at a time. The places are shared in the same way.
    admin_connections_limit = 64, 1..=65_536;
    /// Commands of the server API with one key per second after a burst; each channel of a broadcast counts as one. 0
    /// means no limit.
    api_rate_per_second = 1_000, 0..=10_000_000;
    /// Commands of the server API with one key that may arrive in one burst.
    api_burst_limit = 10_000, 1..=10_000_000;
    /// Rows of the audit log that are kept; the oldest ones are deleted.
    audit_rows_limit = 100_000, 100..=100_000_000;
    /// How long a row of the outbox that fails for a reason that may pass is tried again while others wait behind it.
    /// After that it is set aside.
    outbox_retry_limit_ms = 600_000, 0..=30 * DAY_MS;
    /// Rows of the outbox that were set aside and are kept; the oldest ones are deleted.
    outbox_failed_rows_limit = 10_000, 1..=10_000_000;
    /// Threads that hash passwords.
    password_threads = 2, 1..=256;
    /// Password checks that may wait for a thread in each of four queues: those of users whose token or browser shows
    /// that they have signed in before, sign-ins from addresses that have sent a wrong password in the last ten
    /// minutes, other sign-ins, and sign-ups.
    password_queue_limit = 64, 1..=65_536;
    /// Password checks of one client address that may wait for a thread.
    passwords_per_address_limit = 16, 1..=65_536;
    /// Sign-ups from one client address that may arrive in one burst.
    sign_up_burst_limit = 100, 1..=10_000_000;
    /// Sign-ups per minute from one client address after a burst; 0 means no limit.
    sign_up_rate_per_minute = 1, 0..=10_000_000;
    /// Lookups of invites without a token from one client address that may arrive in one burst.
    invite_lookups_burst_limit = 100, 1..=10_000_000;
    /// Such lookups per minute from one client address after a burst; 0 means no limit.
    invite_lookups_per_minute = 60, 0..=10_000_000;
    /// Wrong passwords for one username or e-mail address from one client address that may arrive in one burst. Other
    /// client addresses, and browsers that have signed in to the account before, have a burst of their own.
    wrong_password_burst_limit = 10, 1..=10_000_000;
    /// After such a burst: the time between two attempts. 0 means no limit.
    wrong_password_interval_ms = 10_000, 0..=DAY_MS;
    /// Wrong passwords for any accounts from one client address that may arrive in one burst. Those for an account from
    /// a browser that has signed in to it before do not count.
    address_wrong_passwords_burst_limit = 100, 1..=10_000_000;
    /// After such a burst: the time between two attempts. 0 means no limit.
    address_wrong_passwords_interval_ms = 1_000, 0..=DAY_MS;
    /// How long the head of an HTTP request may take to arrive.
    head_timeout_ms = 30_000, 10..=DAY_MS;
    /// How long an HTTP connection may stay idle between requests. Proxies keep theirs for 60 to 120 s, and they must
    /// be the ones that close first.
    idle_timeout_ms = 180_000, 10..=DAY_MS;
    /// How long the body of an HTTP request may take to arrive.
    body_timeout_ms = 10_000, 10..=DAY_MS;
    /// How long the server may take to respond to an HTTP request.
    request_timeout_ms = 20_000, 10..=DAY_MS;
    /// How long an HTTP request in progress may still take once the server is stopping.
    request_drain_timeout_ms = 6_000, 10..=DAY_MS;
    /// How long the server keeps reading an HTTP connection that it closes, so that the client receives the last
    /// response.
    linger_timeout_ms = 1_000, 1..=DAY_MS;
    /// How long `/readyz` waits for the database.
    ready_timeout_ms = 2_000, 10..=DAY_MS;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_text_must_fit_into_a_message() {
        let mut limits = Limits::default();
        assert_eq!(limits.check(), Ok(()));
        limits.outbound_message_limit_bytes = 6 * 16 * KIB + 8 * KIB;
        assert_eq!(limits.check(), Ok(()));
        limits.text_limit_bytes += 1;
        let error = limits.check().unwrap_err().to_string();
        assert!(error.contains("text_limit_bytes=16385") && error.contains("106502 bytes"), "{error}");
    }

    #[test]
    fn the_limits_of_connections_fit_the_descriptors() {
        for (descriptors, shards) in [(160, 1), (1024, 2), (1024, 64), (1 << 20, 8)] {
            let mut limits = Limits::default();
            limits.fit_descriptors(descriptors, shards);
            let of_shard = limits.heads_per_shard_limit + limits.connections_per_shard_limit;
            let all = OWN_DESCRIPTORS + shards * (SHARD_DESCRIPTORS + of_shard) + limits.http_connections_limit;
            assert!(all <= descriptors, "{all} of {descriptors}");
        }
        let mut limits = Limits::default();
        limits.fit_descriptors(u64::MAX, 2);
        assert_eq!(limits, Limits::default());
    }

    #[test]
    fn docs_options_md_lists_every_limit() {
        let document = include_str!("../../docs/options.md");
        for (name, default, purpose) in Limits::described() {
            let row =
                format!("| `{name}` | {default} | {} |", purpose.split_whitespace().collect::<Vec<_>>().join(" "));
            assert!(document.contains(&row), "docs/options.md lacks:\n{row}");
        }
    }

    #[test]
    fn set_accepts_values_in_range_and_explains_what_is_wrong_with_others() {
        let mut limits = Limits::default();
        assert_eq!(limits.set("ping_interval_ms=1_000"), Ok(()));
        assert_eq!(limits.ping_interval_ms, 1000);
        assert_eq!(limits.set("ping_interval_ms"), Err(LimitError::Form("ping_interval_ms".into())));
        assert_eq!(limits.set("pings=1"), Err(LimitError::Name("pings".into())));
        let error = limits.set("batch_limit_items=513").unwrap_err();
        assert_eq!(
            error.to_string(),
            "'513' is not a valid value for the limit batch_limit_items; it takes a whole number from 1 to 512"
        );
        assert!(limits.set("batch_limit_items=512").is_ok());
        assert!(limits.set("batch_limit_items=-1").is_err());
    }
}
