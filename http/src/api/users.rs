//! Methods about users, who may be created before they ever connect.

use super::caller::Caller;
use super::error::{Answered, CONFLICT, MethodError};
use super::params::Params;
use crate::validation;
use serde_json::json;
use std::sync::Arc;
use uproar_model::{UserEvent, fold_name, shown_name};
use uproar_store::{Account, UsersBy};

impl Caller {
    /// `{username, user?}`: `{user, username}`. The user has no password. A key that names users by subject says in
    /// `user` who it is; the name may then get a number.
    pub(super) async fn create_user(&self, params: &mut Params<'_>) -> Answered {
        let username = params.required_text("username")?;
        if self.key.users == UsersBy::Subject {
            let user = params.required_id("user")?;
            params.finish()?;
            return self.create_identity(&user, &username).await;
        }
        params.refuse("user", || MethodError::bad_request("user is only for keys that name users by subject"))?;
        params.finish()?;
        let key = self.new_username(&username)?;
        let account = self.app.store.create_bare_user(&shown_name(&username), &key, self.key.user.id).await?;
        Ok(self.user_object(&account, ""))
    }

    async fn create_identity(&self, subject: &str, username: &str) -> Answered {
        let identity = self.identity(subject)?;
        self.new_username(username)?;
        if self.app.store.account_of(&identity).await?.is_some() {
            return Err(MethodError::new(CONFLICT, "there is a user with this subject already"));
        }
        let account = self.app.store.ensure_identity(&identity, &shown_name(username)).await?;
        Ok(self.user_object(&account, subject))
    }

    /// `{user, username}`: the same, with the new name.
    pub(super) async fn rename_user(&self, params: &mut Params<'_>) -> Answered {
        let (name, username) = (params.required_id("user")?, params.required_text("username")?);
        params.finish()?;
        let key = self.new_username(&username)?;
        let user = self.user(&name).await?;
        let account = self.app.store.rename_user(user.id, &shown_name(&username), &key, self.key.user.id).await?;
        self.app.chat.notify(user.id, UserEvent::Renamed { username: Arc::clone(&account.username) });
        Ok(self.user_object(&account, &name))
    }

    /// `{user}`: `{}`. Revokes the tokens, and closes the connections that were opened with them.
    pub(super) async fn invalidate_user_tokens(&self, params: &mut Params<'_>) -> Answered {
        let user = params.required_id("user")?;
        for name in ["expire_at", "issued_before", "channel"] {
            params.refuse(name, || MethodError::not_available("all tokens of the user are invalidated, for good"))?;
        }
        params.finish()?;
        let user = self.user(&user).await?;
        if let Some(revocation) = self.app.store.revoke_tokens(user.id).await? {
            self.app.chat.revoke(revocation).await;
        }
        Ok("{}".to_owned())
    }

    /// `{user}`: `{}`. While a user is blocked, no token of theirs is valid.
    pub(super) async fn set_blocked(&self, params: &mut Params<'_>, is_blocked: bool) -> Answered {
        let user = params.required_id("user")?;
        params.refuse("expire_at", || MethodError::not_available("a block lasts until unblock_user"))?;
        params.finish()?;
        let user = self.user(&user).await?;
        let account = self.app.store.set_blocked(user.id, is_blocked).await?;
        if let Some(revocation) = account.and_then(|account| account.revocation()) {
            self.app.chat.revoke(revocation).await;
        }
        Ok("{}".to_owned())
    }

    /// The key of a name that a user is about to get.
    fn new_username(&self, username: &str) -> Answered {
        let wrong = |error: String| MethodError::bad_request(format!("username {error}"));
        validation::new_username(username, &self.app.settings.limits).map_err(|error| wrong(error.to_string()))?;
        fold_name(username).map_err(|error| wrong(error.to_string()))
    }

    /// The answer to a change that was made. `subject`: what a key that names users by subject has called the user.
    /// Nothing is asked here, because an error would look as if nothing had been changed.
    fn user_object(&self, account: &Account, subject: &str) -> String {
        let user = match self.key.users {
            UsersBy::Id => account.id.to_string(),
            UsersBy::Username => account.username.to_string(),
            UsersBy::Subject => subject.to_owned(),
        };
        json!({"user": user, "username": &*account.username}).to_string()
    }
}
