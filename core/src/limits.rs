//! Every limit, once, with its unit in its name. Each can be set by `--limit NAME=VALUE`, so that tests shorten the
//! long ones and operators widen the narrow ones.

/// Declares the limits: name, default, smallest and largest value that make sense, and what it is for.
macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident = $default:expr, $range:expr;)+) => {
        /// The limits in force. Times in milliseconds, sizes in bytes, the rest counts.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits { $($(#[doc = $doc])+ pub $name: u64,)+ }

        impl Default for Limits {
            fn default() -> Limits {
                Limits { $($name: $default,)+ }
            }
        }

        impl Limits {
            /// Name, default and purpose of each limit, in the order declared. For `--help` and the README.
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

impl Limits {
    /// How long a revocation has to be known to tell every token that it ended, in milliseconds: as long as one lives, and
    /// a minute for clocks that differ and for a token that was being issued.
    pub fn revocations_kept_ms(&self) -> u64 {
        self.token_lifetime_ms.saturating_add(60_000)
    }

    /// Whether they fit to each other.
    pub fn check(&self) -> Result<(), LimitError> {
        // Escaped as JSON a text grows at most sixfold; names, ids and the rest are around it.
        let needed = 6 * self.text_limit_bytes + 4 * KIB;
        if self.outbound_message_limit_bytes < needed {
            return Err(LimitError::Message { text: self.text_limit_bytes, needed });
        }
        Ok(())
    }
}

/// Why a `--limit` is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("'{0}' is not of the form NAME=VALUE")]
    Form(String),
    #[error("there is no limit '{0}'; `uproar --help` lists them")]
    Name(String),
    #[error("'{value}' is no value for the limit {name}; it takes a whole number from {low} to {high}")]
    Value { name: String, value: String, low: u64, high: u64 },
    #[error(
        "with text_limit_bytes={text} a message may need {needed} bytes; set outbound_message_limit_bytes to that or more"
    )]
    Message { text: u64, needed: u64 },
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const DAY_MS: u64 = 24 * 3600 * 1000;

limits! {
    /// The longest text of a message.
    text_limit_bytes = 16 * KIB, 1..=MIB;
    /// The longest WebSocket frame, and the longest message made of fragments, that a client may send.
    inbound_frame_limit_bytes = 64 * KIB, 128..=16 * MIB;
    /// The longest request head.
    head_limit_bytes = 16 * KIB, 256..=MIB;
    /// The longest HTTP body.
    body_limit_bytes = 64 * KIB, 256..=16 * MIB;
    /// Bytes that may wait to be written to one connection; past them it is ended as a slow reader (3008).
    outbound_limit_bytes = MIB, 1..=1024 * MIB;
    /// Bytes that may wait to be written to all connections of a shard, shared buffers counted once; past them the connection that would add more is ended (3008).
    shard_outbound_limit_bytes = 256 * MIB, 1..=64 * 1024 * MIB;
    /// The longest message that a client is sent; histories and recoveries are split. Some SDKs take 1 MiB at most.
    outbound_message_limit_bytes = 256 * KIB, 4 * KIB..=16 * MIB;
    /// The kernel's send buffer of each connection.
    socket_send_buffer_bytes = 128 * KIB, 64 * KIB..=64 * MIB;
    /// How long a write may make no progress before the connection is cut.
    write_timeout_ms = 10_000, 10..=DAY_MS;
    /// How long a connection that is being ended may take to read the close frame.
    close_timeout_ms = 1_000, 1..=DAY_MS;
    /// How long a client may take from connecting to being let in.
    handshake_timeout_ms = 15_000, 10..=DAY_MS;
    /// How often a quiet client is pinged.
    ping_interval_ms = 25_000, 10..=DAY_MS;
    /// How long a pinged client may say nothing before it is ended (3012).
    pong_timeout_ms = 10_000, 10..=DAY_MS;
    /// Pings sent in one turn of a shard's loop.
    pings_per_turn_limit = 512, 1..=MIB;
    /// Sends of a fan-out in one turn of a shard's loop; the rest follow in the next.
    sends_per_turn_limit = 512, 1..=MIB;
    /// Connections that a shard holds; further ones wait in the kernel.
    connections_per_shard_limit = 1_000_000, 1..=16_000_000;
    /// Publications that a room keeps in memory for those who resume.
    ring_limit_publications = 512, 1..=MIB;
    /// Bytes of publications that a room keeps in memory for those who resume.
    ring_limit_bytes = 256 * KIB, 1..=1024 * MIB;
    /// Publications in one page read from the store.
    page_limit_publications = 256, 1..=4096;
    /// Bytes in one page read from the store.
    page_limit_bytes = 128 * KIB, 1..=16 * MIB;
    /// How long a hole in what a room has to show may stay before its subscribers are ended (3010).
    gap_deadline_ms = 5_000, 10..=DAY_MS;
    /// Publications of a room that may wait behind a hole.
    held_limit_publications = 4_096, 1..=MIB;
    /// How long a shard keeps a room that nobody there receives, for those who come back.
    room_idle_ms = 60_000, 0..=DAY_MS;
    /// How long a connection may outlive its token, and how long that can still be exchanged for a fresh one.
    expired_grace_ms = 25_000, 0..=DAY_MS;
    /// Connections of one user on one shard; a further one is refused (429).
    user_connections_limit = 10_000, 1..=16_000_000;
    /// Channels that one connection may be subscribed to.
    subscription_limit = 128, 1..=65_536;
    /// Subscribes a second of one connection.
    subscribe_rate_per_second = 20, 1..=10_000_000;
    /// Subscribes of one connection that may come at once.
    subscribe_burst_limit = 512, 1..=10_000_000;
    /// Commands of one connection, beside publishes, that may wait for an answer.
    pending_commands_limit = 256, 1..=65_536;
    /// How long a command may wait for its answer before it gets error 100. SDKs wait 5 s.
    command_deadline_ms = 4_000, 10..=DAY_MS;
    /// How long a client whose `connect` was refused may take to close.
    refused_timeout_ms = 5_000, 10..=DAY_MS;
    /// Clients named in one answer to `presence`.
    presence_limit = 1_000, 1..=10_000;
    /// Rooms and live: channels with more subscribers than this are told how many there are, not who comes and goes or types.
    join_leave_limit = 100, 0..=10_000;
    /// How often at most subscribers are told how many there are; rarer the more there are.
    online_interval_ms = 1_000, 1..=DAY_MS;
    /// Refused commands of one connection that may come at once; past them it is ended (3509, or 3013 where it was too fast).
    error_burst_limit = 200, 1..=10_000_000;
    /// Refused commands a second of one connection.
    error_rate_per_second = 10, 1..=10_000_000;
    /// How long a sender waits for the database before it gets error 100.
    append_deadline_ms = 4_000, 10..=DAY_MS;
    /// Items in one batch of a lane.
    batch_limit_items = 512, 1..=512;
    /// Bytes in one batch of a lane.
    batch_limit_bytes = MIB, 1..=64 * MIB;
    /// Items that may wait in a lane, of which one room has at most a quarter.
    lane_limit_items = 16_384, 4..=16 * MIB;
    /// Bytes that may wait in a lane, of which one room has at most a quarter.
    lane_limit_bytes = 16 * MIB, 4..=1024 * MIB;
    /// Publishes of one connection that may wait for the database.
    pending_publishes_limit = 64, 1..=4096;
    /// How long a read marker that has moved may wait in memory before it is written to the database.
    read_markers_interval_ms = 5_000, 1..=DAY_MS;
    /// First wait before a batch with an unknown outcome is sent again; doubled each time up to a second.
    retry_delay_ms = 20, 1..=10_000;
    /// Calls that one shard may have under way with another endpoint.
    mesh_calls_limit = 16_384, 1..=MIB;
    /// Publications that may wait on the way from one shard to another.
    mesh_publications_limit = 4_096, 1..=MIB;
    /// Publishes a second of one user on one shard; 0 for no limit.
    publish_rate_per_second = 50, 0..=10_000_000;
    /// Publishes of one user on one shard that may come at once.
    publish_burst_limit = 500, 1..=10_000_000;
    /// Rooms at most this large can be created.
    room_size_limit = 100_000, 1..=100_000;
    /// Messages in one answer of history.
    history_page_limit = 100, 1..=1000;
    /// How long a token is good.
    token_lifetime_ms = 3_600_000, 1_000..=365 * DAY_MS;
    /// How long a browser that does not come back stays signed in; each visit starts it anew.
    session_lifetime_ms = 30 * DAY_MS, 1_000..=365 * DAY_MS;
    /// How long the server may take to stop.
    stop_timeout_ms = 8_000, 10..=DAY_MS;
    /// How long a database call may take before it counts as failed.
    store_timeout_ms = 10_000, 10..=DAY_MS;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_text_must_fit_into_a_message() {
        let mut limits = Limits::default();
        assert_eq!(limits.check(), Ok(()));
        limits.outbound_message_limit_bytes = 6 * 16 * KIB + 4 * KIB;
        assert_eq!(limits.check(), Ok(()));
        limits.text_limit_bytes += 1;
        let error = limits.check().unwrap_err().to_string();
        assert!(error.contains("text_limit_bytes=16385") && error.contains("102406 bytes"), "{error}");
    }

    #[test]
    fn the_readme_lists_them() {
        let readme = include_str!("../../README.md");
        for (name, default, purpose) in Limits::described() {
            let row =
                format!("| `{name}` | {default} | {} |", purpose.split_whitespace().collect::<Vec<_>>().join(" "));
            assert!(readme.contains(&row), "README.md lacks:\n{row}");
        }
    }

    #[test]
    fn set_takes_what_is_in_range_and_says_what_is_wrong_with_the_rest() {
        let mut limits = Limits::default();
        assert_eq!(limits.set("ping_interval_ms=1_000"), Ok(()));
        assert_eq!(limits.ping_interval_ms, 1000);
        assert_eq!(limits.set("ping_interval_ms"), Err(LimitError::Form("ping_interval_ms".into())));
        assert_eq!(limits.set("pings=1"), Err(LimitError::Name("pings".into())));
        let error = limits.set("batch_limit_items=513").unwrap_err();
        assert_eq!(
            error.to_string(),
            "'513' is no value for the limit batch_limit_items; it takes a whole number from 1 to 512"
        );
        assert!(limits.set("batch_limit_items=512").is_ok());
        assert!(limits.set("batch_limit_items=-1").is_err());
    }
}
