//! Runs commands on behalf of a key: finds the method, checks scope and rate, and notes what was done.

use super::error::{Answered, MethodError};
use super::keys::Authorized;
use super::outbox::RowProgress;
use super::params::Params;
use super::publishing::author_in;
use super::shares::Share;
use crate::app::App;
use crate::traces::SpanContext;
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use uproar_core::protocol::{INTERNAL, PERMISSION_DENIED, TOO_MANY_REQUESTS};
use uproar_model::{Identity, User, UserId, fold_name};
use uproar_store::{ApiKey, OutboxRow, Scopes, UsersBy};

/// Commands in one batch.
const BATCH_LIMIT: usize = 1_000;
/// Commands of one request that are executed at the same time.
pub(super) const PARALLEL: usize = 64;
/// Those of them that may have long answers.
const READS: usize = 4;

macro_rules! methods {
    ($($variant:ident = $name:literal, $scope:literal;)+) => {
        /// What a command asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Method { $($variant,)+ }

        impl Method {
            #[cfg(test)]
            const ALL: &[Method] = &[$(Method::$variant,)+];

            fn named(name: &str) -> Option<Method> {
                match name {
                    $($name => Some(Method::$variant),)+
                    _ => None,
                }
            }

            fn name(self) -> &'static str {
                match self { $(Method::$variant => $name,)+ }
            }

            /// The scope that a key needs.
            fn scope(self) -> &'static str {
                match self { $(Method::$variant => $scope,)+ }
            }
        }
    };
}

methods! {
    Publish = "publish", "publish";
    Broadcast = "broadcast", "publish";
    History = "history", "read";
    Presence = "presence", "read";
    PresenceStats = "presence_stats", "read";
    Channels = "channels", "read";
    Info = "info", "read";
    HistoryRemove = "history_remove", "manage";
    Subscribe = "subscribe", "manage";
    Unsubscribe = "unsubscribe", "manage";
    Disconnect = "disconnect", "manage";
    Refresh = "refresh", "manage";
    InvalidateUserTokens = "invalidate_user_tokens", "manage";
    BlockUser = "block_user", "manage";
    UnblockUser = "unblock_user", "manage";
    CreateUser = "create_user", "manage";
    RenameUser = "rename_user", "manage";
    CreateRoom = "create_room", "manage";
    DeleteRoom = "delete_room", "manage";
    RemoveMember = "remove_member", "manage";
    Members = "members", "read";
}

/// What a request is answered with.
pub(super) enum Reply {
    /// The method's result, as JSON.
    Result(String),
    /// The replies to the commands of a batch, as JSON.
    Replies(Vec<String>),
}

/// The row of the outbox that a command comes from.
pub(super) struct RowOfCaller {
    /// The id of its message, if the message has none of its own.
    message_id: String,
    pub(super) progress: Arc<RowProgress>,
}

/// Somebody with a key, who has sent a request.
pub(super) struct Caller {
    pub(super) app: Arc<App>,
    pub(super) key: Arc<ApiKey>,
    pub(super) span: Option<SpanContext>,
    /// `None`: the command comes from the outbox.
    authorized: Option<Authorized>,
    /// The key, as the audit log names it.
    actor: Arc<str>,
    /// When to begin no more commands, so that the answer is there in time. `None`: nobody waits for it.
    until: Option<Instant>,
    /// The row of the outbox that the command comes from.
    pub(super) row: Option<RowOfCaller>,
    /// How long the answers to the commands of the request are so far.
    answered_bytes: AtomicU64,
    reads: Semaphore,
}

impl Caller {
    /// For a request with this key.
    pub(super) fn of_request(app: Arc<App>, authorized: Authorized, span: Option<SpanContext>) -> Caller {
        let key = Arc::clone(&authorized.key);
        Caller { authorized: Some(authorized), ..Caller::new(app, key, span) }
    }

    fn new(app: Arc<App>, key: Arc<ApiKey>, span: Option<SpanContext>) -> Caller {
        let limits = &app.settings.limits;
        // What has begun may take as long as a publish.
        let time = limits.request_timeout_ms.saturating_sub(limits.append_deadline_ms + 2_000);
        let until = Instant::now() + Duration::from_millis(time.max(limits.request_timeout_ms / 2));
        let actor = format!("key {}", key.name).into();
        let (answered_bytes, reads) = (AtomicU64::new(0), Semaphore::new(READS));
        Caller { app, key, span, authorized: None, actor, until: Some(until), row: None, answered_bytes, reads }
    }

    /// For a command that an application has left in this row of the outbox.
    pub(super) fn for_row(app: Arc<App>, key: Arc<ApiKey>, row: &OutboxRow, progress: Arc<RowProgress>) -> Caller {
        // Once the table has been truncated, ids of rows may come again.
        let message_id = format!("outbox-{}-{}", row.id, row.created_at);
        Caller { until: None, row: Some(RowOfCaller { message_id, progress }), ..Caller::new(app, key, None) }
    }

    /// The id of a message that has none of its own.
    pub(super) fn default_id(&self) -> Option<String> {
        self.row.as_ref().map(|row| row.message_id.clone())
    }

    /// Whether there is time for another command.
    pub(super) fn has_time(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }

    /// Runs the method with this name.
    pub(super) async fn run(&self, method: &str, params: &str) -> Answered<Reply> {
        if method == "batch" && self.row.is_none() {
            return self.batch(params).await.map(Reply::Replies);
        }
        self.execute(method, params).await.map(Reply::Result)
    }

    /// Runs one command, and notes it in the audit log.
    async fn execute(&self, name: &str, params: &str) -> Answered {
        let method = Method::named(name);
        let action = method.map_or("unknown", Method::name);
        if let Err(error) = self.admit().await {
            // Without what it concerns: such entries are not to fill the log's memory.
            self.note(Cow::Borrowed(action), "", Some(&error));
            return Err(error);
        }
        let Some(method) = method else {
            let error = match (&self.row, name) {
                (Some(_), "batch") => MethodError::not_available("the outbox takes one row for each command"),
                _ => MethodError::no_such_method(name),
            };
            self.note(Cow::Borrowed(action), name, Some(&error));
            return Err(error);
        };
        let answered = match self.may_call(method) {
            Ok(()) => self.call_with_space(method, params).await,
            Err(error) => Err(error),
        };
        // A broadcast notes each of its channels.
        if method != Method::Broadcast || answered.is_err() {
            self.note(Cow::Borrowed(action), &target_of(params), answered.as_ref().err());
        }
        answered
    }

    /// Calls a method, unless the answers to those before it have become too long.
    async fn call_with_space(&self, method: Method, params: &str) -> Answered {
        let limit = self.app.settings.limits.api_response_limit_bytes;
        let _place = match method.scope() {
            "read" => self.reads.acquire().await.ok(),
            _ => None,
        };
        if self.answered_bytes.load(Ordering::Relaxed) >= limit {
            return Err(MethodError::no_space(limit));
        }
        let answered = self.call(method, params).await;
        let bytes = answered.as_ref().map_or(0, String::len) as u64;
        self.answered_bytes.fetch_add(bytes, Ordering::Relaxed);
        answered
    }

    async fn call(&self, method: Method, params: &str) -> Answered {
        let mut params = Params::of(params)?;
        let params = &mut params;
        match method {
            Method::Publish => self.publish(params).await,
            Method::Broadcast => self.broadcast(params).await,
            Method::History => self.history(params).await,
            Method::HistoryRemove => self.history_remove(params),
            Method::Subscribe => self.subscribe(params).await,
            Method::InvalidateUserTokens => self.invalidate_user_tokens(params).await,
            Method::Presence => self.presence(params).await,
            Method::PresenceStats => self.presence_stats(params).await,
            Method::Channels => self.channels(params).await,
            Method::Unsubscribe => self.unsubscribe(params).await,
            Method::Disconnect => self.disconnect(params).await,
            Method::Refresh => self.refresh(params).await,
            Method::BlockUser => self.set_blocked(params, true).await,
            Method::UnblockUser => self.set_blocked(params, false).await,
            Method::CreateUser => self.create_user(params).await,
            Method::RenameUser => self.rename_user(params).await,
            Method::CreateRoom => self.create_room(params).await,
            Method::DeleteRoom => self.delete_room(params).await,
            Method::RemoveMember => self.remove_member(params).await,
            Method::Members => self.members(params).await,
            Method::Info => self.info(params).await,
        }
    }

    /// Checks whether the key may use a method.
    fn may_call(&self, method: Method) -> Answered<()> {
        if self.row.is_some() && method.scope() == "read" {
            let text = format!("{} changes nothing, and nobody reads the answer to a row of the outbox", method.name());
            return Err(MethodError::not_available(text));
        }
        let scopes = self.key.scopes;
        let has_scope = match method.scope() {
            "publish" => scopes.publish,
            "read" => scopes.read,
            _ => scopes.manage,
        };
        if has_scope { Ok(()) } else { Err(self.scope_missing(method.scope())) }
    }

    /// Checks whether the key may do something now.
    pub(super) async fn admit(&self) -> Answered<()> {
        if let Some(authorized) = &self.authorized
            && !authorized.is_valid(&self.app).await?
        {
            return Err(MethodError::new(PERMISSION_DENIED, "the key has been removed"));
        }
        if !self.app.audit.has_room(&self.actor) {
            let text = "the audit log can't be written at present, so nothing is done; try again";
            return Err(MethodError::new(INTERNAL, text));
        }
        self.take_rate()
    }

    /// Takes a place for a command that concerns all nodes.
    pub(super) fn take_share(&self) -> Answered<Share<'_>> {
        self.app.api_shares.take(&self.actor).ok_or_else(|| {
            let text = "too many commands that concern all nodes are under way with this key; try again";
            MethodError::new(INTERNAL, text)
        })
    }

    /// Takes one command out of the key's rate.
    fn take_rate(&self) -> Answered<()> {
        // The outbox is read no faster than its rows are done.
        if self.row.is_some() {
            return Ok(());
        }
        self.app.api_rate.take(Arc::clone(&self.actor), Instant::now()).map_err(|wait_ms| {
            let rate = self.app.settings.limits.api_rate_per_second;
            let text = format!(
                "more than {rate} commands per second with this key (api_rate_per_second); try again in {wait_ms} ms"
            );
            MethodError::new(TOO_MANY_REQUESTS, text)
        })
    }

    pub(super) fn scope_missing(&self, scope: &str) -> MethodError {
        let scopes = match self.key.scopes {
            scopes if scopes == Scopes::default() => "none".to_owned(),
            scopes => scopes.to_string(),
        };
        MethodError::new(
            PERMISSION_DENIED,
            format!("the key '{}' lacks the scope '{scope}'; it has {scopes}", self.key.name),
        )
    }

    /// Notes what was done in the audit log.
    pub(super) fn note(&self, action: Cow<'static, str>, target: &str, error: Option<&MethodError>) {
        let at = self.app.store.clock().unix_ms();
        self.app.audit.note(at, &self.actor, action, target, error.map_or(0, |error| error.code));
    }

    /// `{commands, parallel?}`: one reply for each command, in their order. Without `parallel` they are executed one
    /// after the other.
    async fn batch(&self, params: &str) -> Answered<Vec<String>> {
        let mut params = Params::of(params)?;
        let commands = params.take("commands").ok_or_else(|| MethodError::bad_request("commands is missing"))?;
        let commands: Vec<BTreeMap<String, &RawValue>> = serde_json::from_str(commands.get())
            .map_err(|_| MethodError::bad_request("commands must be a list of objects such as {\"publish\":{…}}"))?;
        let parallel = if params.flag("parallel")? { PARALLEL } else { 1 };
        params.finish()?;
        if commands.len() > BATCH_LIMIT {
            let text = format!("a batch can have at most {BATCH_LIMIT} commands; nothing was done");
            return Err(MethodError::bad_request(text));
        }
        let replies: Vec<_> = commands.into_iter().map(|command| self.reply_to(command)).collect();
        Ok(stream::iter(replies).buffered(parallel).collect().await)
    }

    async fn reply_to(&self, command: BTreeMap<String, &RawValue>) -> String {
        let failed = |error: &MethodError| format!("{{\"error\":{}}}", error.to_json());
        let mut entries = command.into_iter();
        let (Some((name, params)), None) = (entries.next(), entries.next()) else {
            return failed(&MethodError::bad_request("a command must be an object with one method"));
        };
        if name == "batch" {
            return failed(&MethodError::bad_request("a batch can't contain a batch"));
        }
        if !self.has_time() {
            return failed(&MethodError::no_time());
        }
        match self.execute(&name, params.get()).await {
            Ok(result) => format!("{{\"{name}\":{result}}}"),
            Err(error) => failed(&error),
        }
    }

    /// The user whom the key names so. `None`: there is no such user.
    pub(super) async fn find_user(&self, name: &str) -> Answered<Option<User>> {
        let store = &self.app.store;
        let account = match self.key.users {
            UsersBy::Id => {
                let id = name.parse::<i64>().ok().filter(|id| *id > 0);
                let id = id.ok_or_else(|| MethodError::bad_request("this key names users by id, which is a number"))?;
                store.account(UserId(id)).await?
            }
            UsersBy::Subject => store.account_of(&self.identity(name)?).await?,
            UsersBy::Username => {
                let key = fold_name(name)
                    .map_err(|error| MethodError::bad_request(format!("the name of the user {error}")))?;
                store.account_named(&key).await?
            }
        };
        Ok(account.as_ref().map(User::from))
    }

    /// The same for a user who must exist.
    pub(super) async fn user(&self, name: &str) -> Answered<User> {
        self.find_user(name).await?.ok_or_else(|| MethodError::no_such_user(name))
    }

    /// Whom a key that names users by subject means.
    pub(super) fn identity(&self, subject: &str) -> Answered<Identity> {
        let issuer = self.subject_issuer()?;
        if subject.len() > Identity::SUBJECT_LIMIT_BYTES || subject.chars().any(char::is_control) {
            let limit = Identity::SUBJECT_LIMIT_BYTES;
            let text = format!("a subject has at most {limit} bytes and no control characters");
            return Err(MethodError::bad_request(text));
        }
        Ok(Identity { issuer: issuer.into(), subject: subject.into() })
    }

    fn subject_issuer(&self) -> Answered<&str> {
        self.app.settings.subject_issuer.as_deref().ok_or_else(|| {
            MethodError::not_available(
                "this key names users by subject, but the server accepts no tokens of another system \
                 (--auth-hmac-key-file, --auth-issuer, --oidc-issuer)",
            )
        })
    }

    /// How the key names these users. Somebody who has no name for it is called by an empty text.
    pub(super) async fn names_of(&self, users: impl Iterator<Item = &User>) -> Answered<BTreeMap<UserId, String>> {
        let users: BTreeMap<UserId, &User> = users.map(|user| (user.id, user)).collect();
        let name = |(id, user): (UserId, &User)| match self.key.users {
            UsersBy::Username => (id, user.username.to_string()),
            UsersBy::Id | UsersBy::Subject => (id, id.to_string()),
        };
        if self.key.users != UsersBy::Subject {
            return Ok(users.into_iter().map(name).collect());
        }
        let ids: Vec<UserId> = users.into_keys().collect();
        let subjects = self.app.store.subjects(self.subject_issuer()?, &ids, self.key.user.id).await?;
        Ok(ids.into_iter().zip(subjects.into_iter().map(Option::unwrap_or_default)).collect())
    }
}

/// What a command concerns, for the audit log: the user, the channel, or both, and in whose name it publishes.
fn target_of(params: &str) -> String {
    let Ok(mut params) = Params::of(params) else { return String::new() };
    let mut target: Vec<String> = Vec::new();
    for name in ["user", "username", "channel", "name", "pattern"] {
        let text = params.take(name).and_then(|value| {
            let text = serde_json::from_str::<String>(value.get());
            text.ok().or_else(|| serde_json::from_str::<u64>(value.get()).ok().map(|number| number.to_string()))
        });
        target.extend(text.filter(|text| !text.is_empty()));
    }
    if let Some(author) = params.take("data").and_then(|data| author_in(data.get())) {
        target.push(format!("as {author}"));
    }
    target.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_found_by_its_name() {
        for method in Method::ALL {
            assert_eq!(Method::named(method.name()), Some(*method));
            assert!(Scopes::WORDS.contains(&method.scope()));
        }
        assert_eq!(Method::named("Publish"), None);
    }

    #[test]
    fn the_target_is_the_user_and_the_channel() {
        assert_eq!(target_of(r#"{"channel":"room:x","user":7,"data":{}}"#), "7 room:x");
        assert_eq!(target_of(r#"{"channel":["room:x"]}"#), "");
        assert_eq!(target_of(r#"{"channel":"room:x","data":{"text":"\"as\"","as":"ann"}}"#), "room:x as ann");
        assert_eq!(target_of(r#"{"channel":"room:x","data":{"as":7}}"#), "room:x as 7");
        assert_eq!(target_of(r#"{"channel":"room:x","data":["as"]}"#), "room:x");
        assert_eq!(target_of("nonsense"), "");
    }
}
