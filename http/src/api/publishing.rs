//! Methods that publish.

use super::caller::{Caller, PARALLEL};
use super::error::{Answered, MethodError};
use super::outbox::is_temporary;
use super::params::Params;
use crate::chat::{PublishError, PublishRequest};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::borrow::Cow;
use uproar_core::protocol::check_live_name;
use uproar_core::protocol::data::{self, Publish};
use uproar_core::protocol::{PERMISSION_DENIED, UNKNOWN_CHANNEL};
use uproar_model::{Refusal, User, check_message_id, fold_room_name};

/// Channels of one broadcast.
const CHANNELS_LIMIT: usize = 1_000;
/// The longest name of a channel, in bytes. (Rooms have shorter names.)
const CHANNEL_LIMIT_BYTES: usize = 512;

/// What is published, the same in every channel.
struct Outgoing {
    /// As compact JSON.
    data: String,
    idempotency_key: Option<String>,
    skips_history: bool,
}

/// Where to publish.
pub(super) enum Target<'a> {
    /// The folded name of a room.
    Room(String),
    /// What follows `live:`.
    Live(&'a str),
    /// How the key names the user.
    User(&'a str),
}

impl<'a> Target<'a> {
    pub(super) fn of(channel: &'a str) -> Answered<Target<'a>> {
        if channel.len() > CHANNEL_LIMIT_BYTES {
            let text = format!("a channel's name has at most {CHANNEL_LIMIT_BYTES} bytes");
            return Err(MethodError::bad_request(text));
        }
        match channel.split_once(':') {
            Some(("room", name)) => {
                let folded = fold_room_name(name);
                folded
                    .map(Target::Room)
                    .map_err(|error| MethodError::new(UNKNOWN_CHANNEL, format!("the name of the room {error}")))
            }
            Some(("live", name)) => {
                // Nobody could ever subscribe to another one.
                check_live_name(name).map_err(|error| MethodError::new(UNKNOWN_CHANNEL, error))?;
                Ok(Target::Live(name))
            }
            Some(("user", name)) if !name.is_empty() => Ok(Target::User(name)),
            _ => {
                let text = "the channels are room:NAME, live:NAME and user:USER";
                Err(MethodError::new(UNKNOWN_CHANNEL, text))
            }
        }
    }
}

impl Outgoing {
    fn of(params: &mut Params<'_>) -> Answered<Outgoing> {
        params.refuse("tags", || MethodError::bad_request("there are no tags; put them into data"))?;
        params.refuse("b64data", || MethodError::bad_request("data must be JSON; b64data is not supported"))?;
        for name in ["delta", "version", "version_epoch"] {
            params.refuse(name, || MethodError::not_available(format!("{name} is not available")))?;
        }
        Ok(Outgoing {
            data: params.required_json("data")?,
            idempotency_key: params.text("idempotency_key")?,
            skips_history: params.flag("skip_history")?,
        })
    }
}

/// The field of a message in which a key with the scope `impersonate` names the author.
#[derive(Deserialize)]
struct Author<'a> {
    #[serde(borrow, rename = "as")]
    user: Option<&'a RawValue>,
}

impl Caller {
    /// `{channel, data, idempotency_key?, skip_history?}`: `{offset, epoch}` in a room, otherwise `{}`.
    pub(super) async fn publish(&self, params: &mut Params<'_>) -> Answered {
        let channel = params.required_text("channel")?;
        let outgoing = Outgoing::of(params)?;
        params.finish()?;
        self.publish_in(&channel, &outgoing).await
    }

    /// `{channels, data, idempotency_key?, skip_history?}`: `{responses}`, one for each channel, in their order.
    pub(super) async fn broadcast(&self, params: &mut Params<'_>) -> Answered {
        let channels = params.texts("channels", CHANNELS_LIMIT)?;
        let outgoing = Outgoing::of(params)?;
        params.finish()?;
        if channels.is_empty() {
            return Err(MethodError::bad_request("channels must have at least one entry"));
        }
        let responses: Vec<_> = channels
            .iter()
            .enumerate()
            .map(|(number, channel)| self.broadcast_in(number, channel, &outgoing))
            .collect();
        let responses: Vec<String> = stream::iter(responses).buffered(PARALLEL).collect().await;
        Ok(format!("{{\"responses\":[{}]}}", responses.join(",")))
    }

    /// The response for one channel of a broadcast, as JSON.
    async fn broadcast_in(&self, number: usize, channel: &str, outgoing: &Outgoing) -> String {
        let progress = self.row.as_ref().map(|row| &row.progress);
        if let Some(response) = progress.and_then(|progress| progress.response(number)) {
            return response;
        }
        let (answered, target) = match self.may_continue(number).await {
            Ok(()) => {
                let author = author_in(&outgoing.data).map(|author| format!(" as {author}")).unwrap_or_default();
                (self.publish_in(channel, outgoing).await, format!("{channel}{author}"))
            }
            Err(error) => (Err(error), String::new()),
        };
        self.note(Cow::Borrowed("broadcast"), &target, answered.as_ref().err());
        let is_final = !answered.as_ref().is_err_and(|error| is_temporary(error.code));
        let response = match answered {
            Ok(result) => format!("{{\"result\":{result}}}"),
            Err(error) => format!("{{\"error\":{}}}", error.to_json()),
        };
        if let Some(progress) = progress.filter(|_| is_final) {
            progress.keep_response(number, response.clone());
        }
        response
    }

    /// Whether a broadcast may go on with the channel at this position. The first one was counted as the command.
    async fn may_continue(&self, number: usize) -> Answered<()> {
        if !self.has_time() {
            return Err(MethodError::no_time());
        }
        if number == 0 { Ok(()) } else { self.admit().await }
    }

    async fn publish_in(&self, channel: &str, outgoing: &Outgoing) -> Answered {
        match Target::of(channel)? {
            Target::Room(name) => self.publish_in_room(&name, outgoing).await,
            Target::Live(name) => {
                let data = Bytes::from(outgoing.data.clone());
                self.app.chat.publish_live(name, data, Some(self.key.user.clone())).await?;
                Ok("{}".to_owned())
            }
            Target::User(name) => {
                // Somebody who has never been here is not connected either.
                if let Some(user) = self.find_user(name).await? {
                    self.app.chat.publish_to_user(user.id, Bytes::from(outgoing.data.clone())).await?;
                }
                Ok("{}".to_owned())
            }
        }
    }

    /// Stores a message, edit, deletion or reaction, in the forms that clients publish. Returns after the commit.
    async fn publish_in_room(&self, name: &str, outgoing: &Outgoing) -> Answered {
        if outgoing.skips_history {
            let text = "skip_history is not available in a room, which keeps everything; use a live: channel";
            return Err(MethodError::not_available(text));
        }
        let text_limit = self.app.settings.limits.text_limit_bytes as usize;
        let publish = data::decode(outgoing.data.as_bytes(), text_limit).map_err(|rejected| rejected.error)?;
        let Publish { kind, id, target, body, meta, epoch } = publish;
        let id = one_id(outgoing.idempotency_key.as_deref(), id)?.or_else(|| self.default_id());
        let author = self.author_of(&outgoing.data).await?;
        let room = self.app.store.room_named(name, self.key.user.id).await?;
        let (room, head) = room.ok_or_else(|| MethodError::no_such_room(name))?;
        if epoch.is_some_and(|epoch| *epoch != *head.epoch.0) {
            return Err(MethodError::other_room());
        }
        let is_bot = author.id == self.key.user.id;
        let request = PublishRequest { room, user: author, kind, target, body, meta, id, span: self.span };
        let stored = match self.app.chat.publish(request.clone()).await {
            // The bot user becomes a member of a room when it first publishes there.
            Err(PublishError::Refused(Refusal::NotMember)) if is_bot => {
                self.enroll(name, &self.key.user).await?;
                self.app.chat.publish(request).await?
            }
            Err(PublishError::Refused(Refusal::NotMember)) => {
                let text = "the user in data.as is not a member of the room; subscribe makes them one";
                return Err(MethodError::new(PERMISSION_DENIED, text));
            }
            answered => answered?,
        };
        Ok(json!({"offset": stored.offset, "epoch": &*head.epoch.0}).to_string())
    }

    /// The author of a message: the key's bot user, or the user in `data.as`.
    async fn author_of(&self, data: &str) -> Answered<User> {
        let author = serde_json::from_str::<Author<'_>>(data).ok().and_then(|author| author.user);
        if author.is_none_or(|author| author.get() == "null") {
            return Ok(self.key.user.clone());
        }
        if !self.key.scopes.impersonate {
            return Err(self.scope_missing("impersonate"));
        }
        let mut params = Params::of(data)?;
        let name = params.required_id("as").map_err(|_| MethodError::bad_request("data.as must name a user"))?;
        self.user(&name).await
    }
}

/// How this data names the author of the message, if it does.
pub(super) fn author_in(data: &str) -> Option<String> {
    // Most data does not, and need not be parsed again.
    if !data.contains("\"as\"") {
        return None;
    }
    Params::of(data).ok()?.id("as").ok()?
}

/// The id of a message, which the caller may give in two places.
fn one_id(key: Option<&str>, id: Option<String>) -> Answered<Option<String>> {
    let Some(key) = key else { return Ok(id) };
    check_message_id(key).map_err(|error| MethodError::bad_request(format!("idempotency_key {error}")))?;
    match id {
        Some(id) if id != key => {
            Err(MethodError::bad_request("idempotency_key and data.id are two names of the message's id, but differ"))
        }
        _ => Ok(Some(key.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_one_id() {
        assert_eq!(one_id(None, None), Ok(None));
        assert_eq!(one_id(Some("k"), None), Ok(Some("k".into())));
        assert_eq!(one_id(None, Some("k".into())), Ok(Some("k".into())));
        assert_eq!(one_id(Some("k"), Some("k".into())), Ok(Some("k".into())));
        assert_eq!(one_id(Some("k"), Some("other".into())).unwrap_err().code, 107);
        assert_eq!(one_id(Some("~k"), None).unwrap_err().code, 107);
    }

    #[test]
    fn channels_have_three_kinds() {
        assert!(matches!(Target::of("room:Lobby"), Ok(Target::Room(name)) if name == "lobby"));
        assert!(matches!(Target::of("live:a:b"), Ok(Target::Live("a:b"))));
        assert!(matches!(Target::of("user:7"), Ok(Target::User("7"))));
        for channel in ["", "lobby", "room:", "live:", "user:", "rooms:x", "ROOM:x", "room:a\0"] {
            assert_eq!(Target::of(channel).err().map(|error| error.code), Some(102), "{channel}");
        }
        assert!(matches!(Target::of("live:lobby/x"), Ok(Target::Live("lobby/x"))));
        for channel in ["live:Lobby/x", "live:a\nb", &format!("live:{}", "x".repeat(256))] {
            assert_eq!(Target::of(channel).err().map(|error| error.code), Some(102), "{channel}");
        }
        assert_eq!(Target::of(&format!("live:{}", "x".repeat(600))).err().map(|error| error.code), Some(107));
    }
}
