//! The Protobuf encoding: binary frames, in which each message is preceded by its length.

use super::{ClientInfo, Command, Connect, History, Malformed, Push, Reply, Request, StreamPosition, Subscribe, proto};
use crate::protocol::Entry;
use crate::protocol::{data, is_temporary, write_json};
use prost::Message;
use serde::Serialize;
use uproar_model::User;

// ── from the client ─────────────────────────────────────────────────────────────────────────────────────────────────

/// Decodes the next message of a frame and removes it from the front.
pub fn next_command(frame: &mut &[u8]) -> Option<Result<Command<'static>, Malformed>> {
    if frame.is_empty() {
        return None;
    }
    Some(decode(frame))
}

fn decode(frame: &mut &[u8]) -> Result<Command<'static>, Malformed> {
    let length = prost::decode_length_delimiter(&mut *frame).map_err(|_| Malformed)?;
    let (message, rest) = frame.split_at_checked(length).ok_or(Malformed)?;
    *frame = rest;
    let command = proto::Command::decode(message).map_err(|_| Malformed)?;
    let id = command.id;
    let request = match (id, command.send) {
        (0, None) => Request::Pong,
        // Other requests would need an id.
        (0, Some(send)) => Request::Send { data: send.data.into() },
        (_, send) => decode_request(proto::Command { send, ..command })?,
    };
    Ok(Command { id, request })
}

fn decode_request(command: proto::Command) -> Result<Request<'static>, Malformed> {
    Ok(if let Some(connect) = command.connect {
        let headers = connect.headers.into_iter().map(|(name, value)| (name.into(), value.into()));
        Request::Connect(Connect {
            token: connect.token.into(),
            authorization: super::authorization(headers),
            name: connect.name.into(),
        })
    } else if let Some(subscribe) = command.subscribe {
        Request::Subscribe(Subscribe {
            channel: subscribe.channel.into(),
            recover: subscribe.recover,
            offset: super::check_offset(subscribe.offset)?,
            epoch: subscribe.epoch.into(),
            join_leave: subscribe.join_leave,
            flag: subscribe.flag,
            has_filter: subscribe.tf.is_some(),
            is_special: subscribe.r#type != 0,
        })
    } else if let Some(unsubscribe) = command.unsubscribe {
        Request::Unsubscribe { channel: unsubscribe.channel.into() }
    } else if let Some(publish) = command.publish {
        Request::Publish { channel: publish.channel.into(), data: publish.data.into(), is_special: publish.r#type != 0 }
    } else if let Some(presence) = command.presence {
        Request::Presence { channel: presence.channel.into() }
    } else if let Some(presence_stats) = command.presence_stats {
        Request::PresenceStats { channel: presence_stats.channel.into() }
    } else if let Some(history) = command.history {
        let since = match history.since {
            Some(since) => {
                Some(StreamPosition { offset: super::check_offset(since.offset)?, epoch: since.epoch.into() })
            }
            None => None,
        };
        let (limit, reverse) = (history.limit, history.reverse);
        Request::History(History { channel: history.channel.into(), limit, since, reverse })
    } else if command.ping.is_some() {
        Request::Ping
    } else if let Some(send) = command.send {
        Request::Send { data: send.data.into() }
    } else if let Some(rpc) = command.rpc {
        Request::Rpc { method: rpc.method.into(), data: rpc.data.into() }
    } else if let Some(refresh) = command.refresh {
        Request::Refresh { token: refresh.token.into() }
    } else if command.sub_refresh.is_some() {
        Request::SubRefresh
    } else {
        Request::Unknown
    })
}

// ── to the client ───────────────────────────────────────────────────────────────────────────────────────────────────

/// Publications, each encoded without its length.
#[derive(Debug)]
pub struct Publications {
    messages: Vec<Vec<u8>>,
}

impl Publications {
    pub fn encode<'a>(entries: impl IntoIterator<Item = &'a Entry>, limit_bytes: usize) -> Publications {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        for entry in entries {
            let message = publication(entry).encode_to_vec();
            // In the reply each has a tag of one byte, and its length.
            bytes += 1 + prost::length_delimiter_len(message.len()) + message.len();
            if !messages.is_empty() && bytes > limit_bytes {
                break;
            }
            messages.push(message);
        }
        Publications { messages }
    }

    pub fn count(&self) -> usize {
        self.messages.len()
    }
}

/// Publications of the other encoding are a bug of the caller.
fn messages(publications: super::EncodedPublications) -> Vec<Vec<u8>> {
    debug_assert!(matches!(publications, super::EncodedPublications::Protobuf(_)));
    match publications {
        super::EncodedPublications::Protobuf(publications) => publications.messages,
        super::EncodedPublications::Json(_) => Vec::new(),
    }
}

fn client_info(user: &User, client: &str) -> proto::ClientInfo {
    #[derive(Serialize)]
    struct ConnInfo<'a> {
        username: &'a str,
    }
    let mut conn_info = Vec::new();
    write_json(&mut conn_info, &ConnInfo { username: &user.username });
    proto::ClientInfo { user: user.id.to_string(), client: client.to_owned(), conn_info }
}

fn publication(entry: &Entry) -> proto::Publication {
    let mut json = Vec::new();
    let (user, offset, time) = match entry {
        Entry::Stored(stored) => {
            data::encode(&mut json, stored);
            (Some(&stored.user), stored.offset, stored.time)
        }
        Entry::Live(live) => {
            match live.is_json {
                true => json.extend_from_slice(live.data.as_bytes()),
                false => write_json(&mut json, &*live.data),
            }
            (live.user.as_ref(), 0, live.time)
        }
    };
    proto::Publication { data: json, info: user.map(|user| client_info(user, "")), offset, time: time as i64 }
}

fn push_message(out: &mut Vec<u8>, message: &proto::Reply) {
    let written = message.encode_length_delimited(out);
    debug_assert!(written.is_ok(), "a vector grows as needed");
}

/// What follows the id in the reply to `presence`.
pub(super) fn encode_presence(clients: &[ClientInfo]) -> Vec<u8> {
    let presence = clients.iter().map(|info| (info.client.clone(), client_info(&info.user, &info.client)));
    let presence = Some(proto::PresenceResult { presence: presence.collect() });
    proto::Reply { presence, ..Default::default() }.encode_to_vec()
}

/// Appends a reply.
pub fn push_reply(out: &mut Vec<u8>, id: u32, reply: Reply<'_>) {
    let mut message = proto::Reply { id, ..Default::default() };
    match reply {
        Reply::Error { code, message: text } => {
            let error = proto::Error { code: code.into(), message: text.to_owned(), temporary: is_temporary(code) };
            message.error = Some(error);
        }
        Reply::Connect { client, version, ttl, ping, user_channel } => {
            message.connect = Some(proto::ConnectResult {
                client: client.to_owned(),
                version: version.to_owned(),
                expires: true,
                ttl,
                subs: vec![proto::Sub { channel: user_channel.to_owned(), result: Some(Default::default()) }],
                ping: ping.unwrap_or_default(),
                pong: ping.is_some(),
            });
        }
        Reply::SubscribeLive => message.subscribe = Some(Default::default()),
        Reply::SubscribeRoom { epoch, offset, recovered } => {
            message.subscribe = Some(proto::SubscribeResult {
                recoverable: true,
                epoch: epoch.to_owned(),
                recovered: recovered.unwrap_or_default(),
                offset,
                positioned: true,
                was_recovering: recovered.is_some(),
            });
        }
        Reply::Unsubscribe => message.unsubscribe = Some(Default::default()),
        Reply::Publish { offset: _ } => message.publish = Some(Default::default()),
        Reply::Presence { list } => {
            // The fields of a message may follow each other in any order, so the rest need not be encoded again.
            let rest = list.encoded(super::Encoding::Protobuf);
            let written = prost::encode_length_delimiter(message.encoded_len() + rest.len(), out);
            let written = written.and_then(|()| message.encode(out));
            debug_assert!(written.is_ok(), "a vector grows as needed");
            return out.extend_from_slice(rest);
        }
        Reply::PresenceStats { num_clients, num_users } => {
            message.presence_stats = Some(proto::PresenceStatsResult { num_clients, num_users });
        }
        Reply::History { epoch, offset, publications } => {
            let publications = messages(publications);
            message.history = Some(proto::HistoryResult { publications, epoch: epoch.to_owned(), offset });
        }
        Reply::Ping => message.ping = Some(Default::default()),
        Reply::Rpc { data } => message.rpc = Some(proto::RpcResult { data: data.to_vec() }),
        Reply::Refresh { client, version, ttl } => {
            let (client, version) = (client.to_owned(), version.to_owned());
            message.refresh = Some(proto::RefreshResult { client, version, expires: true, ttl });
        }
    }
    push_message(out, &message);
}

/// Appends a push.
pub fn push_push(out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
    let mut body = proto::Push { channel: channel.to_owned(), ..Default::default() };
    let presence = |info: &ClientInfo| Some(proto::Presence { info: Some(client_info(&info.user, &info.client)) });
    match push {
        Push::Publication(entry) => body.r#pub = Some(publication(entry)),
        Push::Ephemeral { data } => {
            body.r#pub = Some(proto::Publication { data: data.to_vec(), ..Default::default() });
        }
        Push::Join(info) => body.join = presence(info),
        Push::Leave(info) => body.leave = presence(info),
        Push::Unsubscribe { code, reason } => {
            let (code, reason) = ((*code).into(), (*reason).to_owned());
            body.unsubscribe = Some(proto::Unsubscribe { code, reason });
        }
    }
    push_message(out, &proto::Reply { push: Some(body), ..Default::default() });
}
