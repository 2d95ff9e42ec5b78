//! Methods about rooms: who is a member, and what was said.

use super::caller::Caller;
use super::error::{Answered, MethodError};
use super::params::Params;
use super::publishing::Target;
use crate::objects::fitting;
use crate::validation;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use uproar_core::protocol::data;
use uproar_core::protocol::{NOT_AVAILABLE, UNRECOVERABLE_POSITION};
use uproar_model::{Head, Offset, PageRequest, Publication, RoomId, User, UserEvent, UserId, fold_name, shown_name};
use uproar_store::{MemberEntry, MemberPage, NewRoom, RoomError, RoomKind};

/// A publication in the form of the client protocol.
#[derive(Serialize)]
struct PublicationObject {
    offset: Offset,
    data: Box<RawValue>,
    info: Info,
    /// Unix milliseconds.
    time: u64,
}

#[derive(Serialize)]
struct HistoryResult<'a> {
    publications: Vec<Box<RawValue>>,
    offset: Offset,
    epoch: &'a str,
}

#[derive(Serialize)]
struct Info {
    user: String,
    client: &'static str,
    conn_info: ConnInfo,
}

#[derive(Serialize)]
struct ConnInfo {
    username: String,
}

impl Caller {
    /// `{user, channel}`: makes the user a member of the room. What Centrifugo's method knows besides describes one
    /// subscription, and there is none yet.
    pub(super) async fn subscribe(&self, params: &mut Params<'_>) -> Answered {
        let (user, channel) = (params.required_id("user")?, params.required_text("channel")?);
        for name in ["client", "session", "info", "b64info", "data", "b64data", "recover_since", "override"] {
            params.refuse(name, || {
                MethodError::not_available(format!(
                    "{name} is not available: subscribe makes the user a member, and their clients subscribe"
                ))
            })?;
        }
        params.finish()?;
        let Target::Room(room) = Target::of(&channel)? else {
            return Err(MethodError::new(NOT_AVAILABLE, "only rooms have members"));
        };
        let user = self.user(&user).await?;
        self.enroll(&room, &user).await?;
        Ok("{}".to_owned())
    }

    /// `{name, title?, private?, size?, owner?}`: `{channel, offset, epoch}`. The owner is the key's bot user unless
    /// another is named.
    pub(super) async fn create_room(&self, params: &mut Params<'_>) -> Answered {
        let (name, title) = (params.required_text("name")?, params.text("title")?);
        let is_private = params.flag("private")?;
        let size: Option<u32> = params.parsed("size", "a number")?;
        let owner = params.id("owner")?;
        params.finish()?;
        let limits = &self.app.settings.limits;
        let wrong = |field: &str, error: String| MethodError::bad_request(format!("{field} {error}"));
        validation::new_room_name(&name, limits).map_err(|error| wrong("name", error.to_string()))?;
        if let Some(title) = &title {
            validation::title(title, limits).map_err(|error| wrong("title", error.to_string()))?;
        }
        if let Some(size) = &size {
            validation::room_size(size, limits).map_err(|error| wrong("size", error.to_string()))?;
        }
        let owner = match owner {
            Some(owner) => self.user(&owner).await?.id,
            None => self.key.user.id,
        };
        let room = NewRoom {
            name: fold_name(&name).map_err(|error| wrong("name", error.to_string()))?,
            title: shown_name(title.as_ref().unwrap_or(&name)),
            kind: if is_private { RoomKind::Private } else { RoomKind::Public },
            size: size.unwrap_or(limits.room_size_default.min(limits.room_size_limit) as u32),
            owner,
        };
        let room = self.app.store.create_room_for(room, self.key.user.id).await?;
        self.app.chat.notify(owner, UserEvent::Joined { room: room.name.as_str().into() });
        let channel = format!("room:{}", room.name);
        Ok(json!({"channel": channel, "offset": room.offset, "epoch": &*room.epoch.0}).to_string())
    }

    /// `{channel, epoch?}`: `{}`. Deletes the room with everything in it, as its owner could.
    pub(super) async fn delete_room(&self, params: &mut Params<'_>) -> Answered {
        let (name, epoch) = (room_in(params)?, params.text("epoch")?);
        params.finish()?;
        let only = self.room_of_epoch(&name, epoch).await?;
        let app = &self.app;
        let reserved_ms = app.settings.limits.room_name_reserved_ms;
        let deleted = app.store.delete_room_for(&name, only, self.key.user.id, reserved_ms).await;
        let room = deleted.inspect_err(|error| app.sweep_if_unknown(error)).map_err(|error| of_room(error, &name))?;
        app.chat.close_room(room).await;
        Ok("{}".to_owned())
    }

    /// `{user, channel, epoch?}`: `{}`, also for somebody who is not a member.
    pub(super) async fn remove_member(&self, params: &mut Params<'_>) -> Answered {
        let (user, name, epoch) = (params.required_id("user")?, room_in(params)?, params.text("epoch")?);
        params.finish()?;
        let user = self.user(&user).await?;
        let only = self.room_of_epoch(&name, epoch).await?;
        let app = &self.app;
        let before = app.store.generation();
        let removal = match app.store.expel(&name, only, user.id, self.key.user.id).await {
            Ok(removal) => removal,
            Err(RoomError::NotMember) => return Ok("{}".to_owned()),
            Err(error) => {
                app.sweep_if_unknown(&error);
                return Err(of_room(error, &name));
            }
        };
        app.chat.learn(removal.room, app.history_since(before), removal.publication);
        app.chat.notify(removal.member, UserEvent::Left { room: name.as_str().into() });
        Ok("{}".to_owned())
    }

    /// The room that a command is meant for, if it gives an epoch: the room with this name must have it.
    async fn room_of_epoch(&self, name: &str, epoch: Option<String>) -> Answered<Option<RoomId>> {
        let Some(epoch) = epoch else { return Ok(None) };
        let found = self.app.store.room_named(name, self.key.user.id).await?;
        let (room, head) = found.ok_or_else(|| MethodError::no_such_room(name))?;
        if *epoch != *head.epoch.0 {
            return Err(MethodError::other_room());
        }
        Ok(Some(room))
    }

    /// `{channel, after?, limit?}`: `{members, total, next?}`. `after` is the `next` of the page before.
    pub(super) async fn members(&self, params: &mut Params<'_>) -> Answered {
        let name = room_in(params)?;
        let after = params.id("after")?;
        let limit: Option<u64> = params.parsed("limit", "a number")?;
        params.finish()?;
        let after = after.map(|after| after.parse::<i64>().ok().filter(|id| *id >= 0).map(UserId).ok_or(after));
        let after =
            after.transpose().map_err(|_| MethodError::bad_request("after must be the next of another page"))?;
        let limit = self.app.page_limit(limit.filter(|limit| *limit > 0));
        // One more than the page holds tells whether there are more.
        let page = self.app.store.members_for(&name, self.key.user.id, after, limit + 1).await;
        let MemberPage { mut members, count } = page.map_err(|error| of_room(error, &name))?;
        let has_more = members.len() > limit;
        members.truncate(limit);
        let names = self.names_of(members.iter().map(|member| &member.user)).await?;
        let object = |member: &MemberEntry| {
            let User { id, username } = &member.user;
            let role = member.role.word();
            json!({"user": names.get(id), "username": &**username, "role": role, "joined_at": member.joined_at})
        };
        let mut result = json!({"members": members.iter().map(object).collect::<Vec<_>>(), "total": count});
        if let Some(last) = members.last().filter(|_| has_more) {
            result["next"] = last.user.id.to_string().into();
        }
        Ok(result.to_string())
    }

    /// Makes a user a member of a room, and tells the chat. `name`: the room's, folded.
    pub(super) async fn enroll(&self, name: &str, user: &User) -> Answered<()> {
        let app = &self.app;
        let before = app.store.generation();
        let enrolled = app.store.enroll(name, user.id, self.key.user.id).await?;
        if let Some(publication) = enrolled.publication {
            app.chat.learn(enrolled.room, app.history_since(before), publication);
        }
        if enrolled.joined {
            app.chat.notify(user.id, UserEvent::Joined { room: name.into() });
        }
        Ok(())
    }

    /// `{channel, limit?, since?, reverse?}`: `{publications, offset, epoch}`, as in the client protocol. Without a
    /// limit there are no publications, and a negative limit asks for as many as fit.
    pub(super) async fn history(&self, params: &mut Params<'_>) -> Answered {
        let channel = params.required_text("channel")?;
        let limit: i64 = params.parsed("limit", "a number")?.unwrap_or_default();
        let reverse = params.flag("reverse")?;
        let since = match params.object("since")? {
            None => None,
            Some(mut since) => {
                let offset: Offset = since.parsed("offset", "a number")?.unwrap_or_default();
                let epoch = since.text("epoch")?.unwrap_or_default();
                since.finish()?;
                Some((offset, epoch))
            }
        };
        params.finish()?;
        let Target::Room(name) = Target::of(&channel)? else {
            return Err(MethodError::not_available("only rooms have a history"));
        };
        if reverse && since.as_ref().is_some_and(|(offset, _)| *offset == 0) {
            return Err(MethodError::bad_request("there is nothing before offset 0"));
        }
        let bot = self.key.user.id;
        let (room, head) =
            self.app.store.room_named(&name, bot).await?.ok_or_else(|| MethodError::no_such_room(&name))?;
        if limit == 0 {
            return answer_history(since.map(|(_, epoch)| epoch), &head, Vec::new());
        }
        let limits = &self.app.settings.limits;
        let page_limit = limits.history_page_limit as usize;
        let request = PageRequest {
            from: match (&since, reverse) {
                (Some((offset, _)), _) => *offset,
                (None, false) => 0,
                (None, true) => Offset::MAX,
            },
            ascending: !reverse,
            up_to: Offset::MAX,
            items_limit: usize::try_from(limit).map_or(page_limit, |limit| limit.min(page_limit)),
            bytes_limit: limits.response_limit_bytes as usize,
        };
        let page = self.app.store.page_for(room, request, bot).await?;
        let page = page.ok_or_else(|| MethodError::no_such_room(&name))?;
        let names = self.names_of(page.publications.iter().map(|publication| &publication.user)).await?;
        let objects = page.publications.iter().map(|publication| object_of(publication, &names));
        let (publications, _) = fitting(objects, limits.response_limit_bytes);
        answer_history(since.map(|(_, epoch)| epoch), &page.head, publications)
    }

    /// `history_remove {channel}`: the log of a room is what clients resume from.
    pub(super) fn history_remove(&self, params: &mut Params<'_>) -> Answered {
        params.required_text("channel")?;
        params.finish()?;
        Err(MethodError::not_available("a room's history can't be removed; delete messages, or the room"))
    }
}

/// `names`: how the key names the authors.
fn object_of(publication: &Publication, names: &BTreeMap<UserId, String>) -> PublicationObject {
    let mut json = Vec::new();
    data::encode(&mut json, publication);
    // It is JSON, which is UTF-8.
    let json = String::from_utf8(json).unwrap_or_default();
    let Publication { offset, user, time, .. } = publication;
    let conn_info = ConnInfo { username: user.username.to_string() };
    let info = Info { user: names.get(&user.id).cloned().unwrap_or_default(), client: "", conn_info };
    PublicationObject { offset: *offset, data: RawValue::from_string(json).unwrap_or_default(), info, time: *time }
}

/// The folded name of the room in `channel`.
fn room_in(params: &mut Params<'_>) -> Answered {
    match Target::of(&params.required_text("channel")?)? {
        Target::Room(name) => Ok(name),
        Target::Live(_) | Target::User(_) => Err(MethodError::not_available("only rooms have members")),
    }
}

/// The error of a call about this room.
fn of_room(error: RoomError, name: &str) -> MethodError {
    match error {
        RoomError::NoRoom => MethodError::no_such_room(name),
        error => error.into(),
    }
}

fn answer_history(wanted: Option<String>, head: &Head, publications: Vec<Box<RawValue>>) -> Answered {
    if wanted.is_some_and(|wanted| !wanted.is_empty() && *wanted != *head.epoch.0) {
        let text = "there is no such position in the room: it was made again, or the database was restored";
        return Err(MethodError::new(UNRECOVERABLE_POSITION, text));
    }
    let result = HistoryResult { publications, offset: head.offset, epoch: &head.epoch.0 };
    // It fails only for maps without string keys, and there are none.
    Ok(serde_json::to_string(&result).unwrap_or_default())
}
