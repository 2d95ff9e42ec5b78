//! Methods about connections: who is in a channel, and what happens to a user's connections.

use super::caller::Caller;
use super::error::{Answered, MethodError};
use super::params::Params;
use super::publishing::Target;
use crate::chat::{Channel, CloseCode, Disconnect, Expiry};
use serde_json::{Map, Value, json};
use uproar_model::User;

/// Connections that a `disconnect` may leave open.
const WHITELIST_LIMIT: usize = 64;

impl Caller {
    /// `{channel}`: `{presence}`, the clients by their ids.
    pub(super) async fn presence(&self, params: &mut Params<'_>) -> Answered {
        let channel = self.channel_in(params).await?;
        let _share = self.take_share()?;
        let clients = self.app.chat.presence(channel).await?;
        let names = self.names_of(clients.iter().map(|it| &it.user)).await?;
        let object = |user: &User, client: &str| {
            let conn_info = json!({"username": &*user.username});
            json!({"client": client, "user": names.get(&user.id), "conn_info": conn_info})
        };
        let clients: Map<String, Value> =
            clients.into_iter().map(|it| (it.client.clone(), object(&it.user, &it.client))).collect();
        Ok(json!({"presence": clients}).to_string())
    }

    /// `{channel}`: `{num_clients, num_users}`.
    pub(super) async fn presence_stats(&self, params: &mut Params<'_>) -> Answered {
        let channel = self.channel_in(params).await?;
        let _share = self.take_share()?;
        let stats = self.app.chat.presence_stats(channel).await?;
        Ok(json!({"num_clients": stats.clients, "num_users": stats.users}).to_string())
    }

    /// `{pattern?}`: `{channels}`, how many clients each of them has.
    pub(super) async fn channels(&self, params: &mut Params<'_>) -> Answered {
        let pattern = params.text("pattern")?;
        params.finish()?;
        let _share = self.take_share()?;
        let channels = self.app.chat.channels(pattern.as_deref()).await?;
        let channels: Map<String, Value> =
            channels.into_iter().map(|(name, clients)| (name, json!({"num_clients": clients}))).collect();
        Ok(json!({"channels": channels}).to_string())
    }

    /// `{user, channel, client?}`: `{}`. The user stays a member of the room.
    pub(super) async fn unsubscribe(&self, params: &mut Params<'_>) -> Answered {
        let (user, channel) = (params.required_id("user")?, params.required_text("channel")?);
        let client = client_in(params)?;
        params.finish()?;
        let channel = match Target::of(&channel)? {
            Target::Room(name) => format!("room:{name}"),
            Target::Live(name) => format!("live:{name}"),
            Target::User(_) => {
                return Err(MethodError::not_available("every connection of a user receives the user's channel"));
            }
        };
        // Somebody who has never been here has no subscriptions.
        if let Some(user) = self.find_user(&user).await? {
            let _share = self.take_share()?;
            self.app.chat.unsubscribe(user.id, &channel, client.as_deref()).await?;
        }
        Ok("{}".to_owned())
    }

    /// `{user, client?, whitelist?, disconnect?: {code?, reason?}}`: `{}`.
    pub(super) async fn disconnect(&self, params: &mut Params<'_>) -> Answered {
        let user = params.required_id("user")?;
        let client = client_in(params)?;
        let whitelist = params.texts("whitelist", WHITELIST_LIMIT)?;
        let code = match params.object("disconnect")? {
            None => CloseCode::default(),
            Some(mut told) => {
                let code: u64 = told.parsed("code", "a number")?.unwrap_or_default();
                let reason = told.text("reason")?;
                told.finish()?;
                let default = CloseCode::default();
                let code = if code == 0 { u64::from(default.code()) } else { code };
                let reason = reason.as_deref().unwrap_or(default.reason());
                CloseCode::new(code, reason).map_err(MethodError::bad_request)?
            }
        };
        params.finish()?;
        if let Some(user) = self.find_user(&user).await? {
            let _share = self.take_share()?;
            self.app.chat.disconnect(Disconnect { user: user.id, client, whitelist, code }).await?;
        }
        Ok("{}".to_owned())
    }

    /// `{user, client?, expired?, expire_at?}`: `{}`.
    pub(super) async fn refresh(&self, params: &mut Params<'_>) -> Answered {
        let user = params.required_id("user")?;
        let client = client_in(params)?;
        let is_expired = params.flag("expired")?;
        let expire_at: Option<u64> = params.parsed("expire_at", "a time in Unix seconds")?;
        params.finish()?;
        let expiry = match (is_expired, expire_at.filter(|at| *at > 0)) {
            (true, _) => Expiry::Now,
            (false, Some(at)) => Expiry::At(at.saturating_mul(1000)),
            (false, None) => Expiry::Never,
        };
        if let Some(user) = self.find_user(&user).await? {
            let _share = self.take_share()?;
            self.app.chat.refresh(user.id, client.as_deref(), expiry).await?;
        }
        Ok("{}".to_owned())
    }

    /// The channel in `channel`, the only parameter.
    async fn channel_in(&self, params: &mut Params<'_>) -> Answered<Channel> {
        let channel = params.required_text("channel")?;
        params.finish()?;
        match Target::of(&channel)? {
            Target::Live(name) => Ok(Channel::Live(name.into())),
            Target::Room(name) => {
                let room = self.app.store.room_named(&name, self.key.user.id).await?;
                room.map(|(room, _)| Channel::Room(room)).ok_or_else(|| MethodError::no_such_room(&name))
            }
            Target::User(_) => Err(MethodError::not_available("a user's channel has no presence")),
        }
    }
}

/// The id of a connection. Sessions have no ids here.
fn client_in(params: &mut Params<'_>) -> Answered<Option<String>> {
    params.refuse("session", || MethodError::not_available("connections have no session; name them by client"))?;
    params.text("client")
}
