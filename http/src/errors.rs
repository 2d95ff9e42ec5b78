//! The errors of the API: one shape, one closed list of codes.

use crate::fields::FieldError;
use crate::passwords::PoolError;
use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use std::borrow::Cow;
use uproar_model::{NameError, TokenError, UnixMillis};
use uproar_store::{CreateUserError, InvitedUserError, JoinError, RoomError, StoreError};

/// Declares each code once: the variant, its string on the wire, its status.
macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $status:ident;)+) => {
        /// What went wrong, for programs. The strings are listed in `openapi.json` and are never renamed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// All codes.
            pub const ALL: &[Code] = &[$(Code::$name,)+];

            /// The value of `error.code` on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)+ }
            }

            /// What the code means, in Markdown. `openapi.json` says the same.
            pub fn description(self) -> &'static str {
                match self { $(Code::$name => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The HTTP status that always accompanies this code.
            pub fn status(self) -> StatusCode {
                match self { $(Code::$name => StatusCode::$status,)+ }
            }
        }
    };
}

codes! {
    /// The request itself is malformed: its head is not valid HTTP or lacks `Host`, its path is not UTF-8, or its body
    /// is truncated.
    BadRequest = "bad_request", BAD_REQUEST;
    /// The body is not JSON.
    MalformedJson = "malformed_json", BAD_REQUEST;
    /// The WebSocket upgrade violates RFC 6455.
    BadUpgrade = "bad_upgrade", BAD_REQUEST;
    /// The call needs a token and the request carries none.
    TokenMissing = "token_missing", UNAUTHORIZED;
    /// The token was not issued by this server or a system that it trusts, was revoked, or its user no longer exists.
    TokenInvalid = "token_invalid", UNAUTHORIZED;
    /// The token was valid and has expired.
    TokenExpired = "token_expired", UNAUTHORIZED;
    /// Sign-in: there is no such user, or the password is wrong. The response does not reveal which.
    WrongCredentials = "wrong_credentials", UNAUTHORIZED;
    /// Password change: the current password is wrong.
    WrongPassword = "wrong_password", FORBIDDEN;
    /// Sign-in: the user is blocked.
    UserBlocked = "user_blocked", FORBIDDEN;
    /// The user is not a member of this (public) room.
    NotMember = "not_member", FORBIDDEN;
    /// The user's role in the room does not allow this.
    NotAllowed = "not_allowed", FORBIDDEN;
    /// There can be no new direct room: the user has blocked one of the others, or the other way round.
    Blocked = "blocked", FORBIDDEN;
    /// A moderator has silenced the user. The error has `until`, in Unix milliseconds.
    Silenced = "silenced", FORBIDDEN;
    /// A moderator has banned the user from this (public) room.
    Banned = "banned", FORBIDDEN;
    /// Users of this server don't sign in with a password.
    PasswordSignInOff = "password_sign_in_off", FORBIDDEN;
    /// Nobody can create an account by signing up.
    SignUpClosed = "sign_up_closed", FORBIDDEN;
    /// One needs an invite to sign up here.
    InviteRequired = "invite_required", FORBIDDEN;
    /// The token is of another system, so only that system can issue another one.
    NotRenewable = "not_renewable", FORBIDDEN;
    /// Only the author may do this.
    NotYours = "not_yours", FORBIDDEN;
    /// The request comes from a page of another origin, which `--allow-origin` does not name.
    OriginNotAllowed = "origin_not_allowed", FORBIDDEN;
    /// There is no such path.
    NotFound = "not_found", NOT_FOUND;
    /// There is no such room, or it is private and the user is not in it.
    NoSuchRoom = "no_such_room", NOT_FOUND;
    /// The user that the request names does not exist.
    NoSuchUser = "no_such_user", NOT_FOUND;
    /// The user that the request names is not a member of the room.
    NoSuchMember = "no_such_member", NOT_FOUND;
    /// The message that the path names does not exist or was deleted.
    NoSuchMessage = "no_such_message", NOT_FOUND;
    /// The room has no hook with this id.
    NoSuchHook = "no_such_hook", NOT_FOUND;
    /// There is no such invite, or its room was deleted.
    NoSuchInvite = "no_such_invite", NOT_FOUND;
    /// The path does not support this method. `Allow` lists the methods that it supports.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED;
    /// The body did not arrive in time.
    BodyTimeout = "body_timeout", REQUEST_TIMEOUT;
    /// The username is taken.
    UsernameTaken = "username_taken", CONFLICT;
    /// The e-mail address belongs to another account.
    EmailTaken = "email_taken", CONFLICT;
    /// A room of this name already exists, or was deleted recently and had another owner.
    RoomNameTaken = "room_name_taken", CONFLICT;
    /// The user owns as many rooms as one user may own.
    TooManyRooms = "too_many_rooms", CONFLICT;
    /// The room is full.
    RoomFull = "room_full", CONFLICT;
    /// The room would have no owner.
    LastOwner = "last_owner", CONFLICT;
    /// The room has as many pinned messages as a room may have.
    TooManyPins = "too_many_pins", CONFLICT;
    /// The room already has a hook of this name, or a person has the name that its user would have.
    HookNameTaken = "hook_name_taken", CONFLICT;
    /// The room has as many hooks as a room may have.
    TooManyHooks = "too_many_hooks", CONFLICT;
    /// The user has blocked as many others as one user may block.
    TooManyBlocks = "too_many_blocks", CONFLICT;
    /// The room has as many invites as a room may have.
    TooManyInvites = "too_many_invites", CONFLICT;
    /// The message that the request refers to does not exist or was deleted.
    NoTarget = "no_target", CONFLICT;
    /// The message has as many kinds of reactions as a message, or of one user, may have.
    TooManyReactions = "too_many_reactions", CONFLICT;
    /// The message id was used before, for something else.
    IdReused = "id_reused", CONFLICT;
    /// The message was meant for another room of this name, which was deleted, or for an earlier state of the database.
    WrongEpoch = "wrong_epoch", CONFLICT;
    /// The account has no password to change.
    NoPassword = "no_password", CONFLICT;
    /// The invite was revoked, has expired or is used up, or its creator may not invite others any more.
    InviteEnded = "invite_ended", GONE;
    /// The body is longer than allowed.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE;
    /// The request does not declare its body as JSON.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE;
    /// The body is compressed.
    UnsupportedEncoding = "unsupported_encoding", UNSUPPORTED_MEDIA_TYPE;
    /// The request expects something other than `100-continue`.
    ExpectationFailed = "expectation_failed", EXPECTATION_FAILED;
    /// A required field or parameter is missing.
    MissingField = "missing_field", UNPROCESSABLE_ENTITY;
    /// There is no such field or parameter. A misspelt one would otherwise be ignored in silence.
    UnknownField = "unknown_field", UNPROCESSABLE_ENTITY;
    /// A field or parameter has the wrong type or an invalid value.
    InvalidField = "invalid_field", UNPROCESSABLE_ENTITY;
    /// The text of a message is longer than allowed.
    TextTooLarge = "text_too_large", UNPROCESSABLE_ENTITY;
    /// The database cannot store this content.
    BadData = "bad_data", UNPROCESSABLE_ENTITY;
    /// The path serves only WebSocket.
    UpgradeRequired = "upgrade_required", UPGRADE_REQUIRED;
    /// The user sends faster than a limit, or the room's slow mode, allows.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS;
    /// The user has too many WebSocket connections.
    TooManyConnections = "too_many_connections", TOO_MANY_REQUESTS;
    /// Too many sign-ups, wrong passwords or lookups of invites from this address, or too many of its password checks are
    /// waiting.
    TooManyAttempts = "too_many_attempts", TOO_MANY_REQUESTS;
    /// The head of the request is longer than allowed, or has more than 100 headers.
    HeadTooLarge = "head_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE;
    /// An error in the server.
    Internal = "internal", INTERNAL_SERVER_ERROR;
    /// A queue is full and nothing was done. Try again.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE;
    /// It is not known whether the message was stored. A retry with the same id is safe.
    OutcomeUnknown = "not_known", SERVICE_UNAVAILABLE;
    /// The database does not respond, the server is starting or stopping, or the key that verifies a token of another
    /// system could not be fetched yet.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE;
    /// The response was not ready in time. If the request was meant to change something, that may have happened.
    DeadlinePassed = "deadline_passed", SERVICE_UNAVAILABLE;
}

/// An error response: `{"error":{"code","message","field"}}`, where `field` is null unless a field is at fault. If the
/// request's fields were checked, the error also has `fields`: every one at fault, as `{"field","code","message"}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub code: Code,
    /// For people: what is wrong and, if possible, what to do.
    pub message: Cow<'static, str>,
    /// The field of the body, or the parameter of the path or query, that is at fault.
    pub field: Option<Cow<'static, str>>,
    /// All fields that are at fault, if the error is about fields. The code, message and field are those of the first.
    pub fields: Vec<FieldError>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
    /// Until when the right is taken away.
    pub until: Option<UnixMillis>,
}

impl ApiError {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError { code, message: message.into(), field: None, fields: Vec::new(), retry_after: None, until: None }
    }

    /// Fields that are wrong. There must be at least one.
    pub(crate) fn fields(errors: Vec<FieldError>) -> ApiError {
        let Some(first) = errors.first().cloned() else { return ApiError::internal() };
        ApiError { fields: errors, ..ApiError::new(first.code, first.message).on(first.field) }
    }

    /// A field with an invalid value: 422.
    pub fn invalid(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(Code::InvalidField, message).on(field)
    }

    /// Names the field that is at fault.
    pub fn on(mut self, field: impl Into<Cow<'static, str>>) -> ApiError {
        self.field = Some(field.into());
        self
    }

    /// Tells the client until when it has lost a right.
    pub fn until(mut self, until: UnixMillis) -> ApiError {
        self.until = Some(until);
        self
    }

    /// Tells the client when to retry.
    pub fn retry_after(mut self, seconds: u32) -> ApiError {
        self.retry_after = Some(seconds);
        self
    }

    /// An error in the server. The log has the details.
    pub fn internal() -> ApiError {
        ApiError::new(Code::Internal, "internal server error")
    }

    pub fn no_such_path() -> ApiError {
        ApiError::new(Code::NotFound, "there is nothing at this path; /openapi.json lists all paths")
    }

    pub fn no_such_room() -> ApiError {
        ApiError::new(Code::NoSuchRoom, "there is no such room")
    }

    /// The user whom the field names does not exist.
    pub fn no_such_user(message: &'static str, field: &'static str) -> ApiError {
        ApiError::new(Code::NoSuchUser, message).on(field)
    }

    pub fn no_such_invite() -> ApiError {
        ApiError::new(Code::NoSuchInvite, "there is no such invite; check the link, or ask for another one")
    }

    pub fn not_member() -> ApiError {
        ApiError::new(Code::NotMember, "you are not a member of this room; join it first")
    }

    pub fn room_full() -> ApiError {
        ApiError::new(Code::RoomFull, "the room is full")
    }

    pub fn banned() -> ApiError {
        ApiError::new(Code::Banned, JoinError::Banned.to_string())
    }

    /// A request that exceeds a rate, with the time until the next one is possible.
    pub fn too_often(message: String, wait_ms: u64) -> ApiError {
        let seconds = u32::try_from(wait_ms.div_ceil(1000)).unwrap_or(u32::MAX);
        ApiError::new(Code::RateLimited, message).retry_after(seconds)
    }

    /// A valid token of a user who no longer exists.
    pub fn user_gone() -> ApiError {
        ApiError::from(TokenError::Invalid)
    }

    /// An invalid name.
    pub fn name(field: &'static str, error: NameError) -> ApiError {
        ApiError::invalid(field, error.to_string())
    }

    /// The error for a room operation that the store refused, where `RoomError` speaks of the requesting user.
    pub fn from_room(error: RoomError) -> ApiError {
        match error {
            RoomError::NoRoom => ApiError::no_such_room(),
            RoomError::Full => ApiError::room_full(),
            RoomError::Banned => ApiError::banned(),
            RoomError::LastOwner => ApiError::new(Code::LastOwner, error.to_string()),
            RoomError::TooSmall => ApiError::invalid("size", "must not be below the number of members"),
            RoomError::NoMessage => ApiError::new(Code::NoSuchMessage, error.to_string()).on("offset"),
            RoomError::TooManyPins => ApiError::new(Code::TooManyPins, error.to_string()),
            RoomError::NameTaken => ApiError::new(
                Code::RoomNameTaken,
                "there is a room of this name, or it is reserved for the owner of a room that was deleted recently",
            )
            .on("name"),
            RoomError::NoUser => ApiError::user_gone(),
            RoomError::NotMember => ApiError::not_member(),
            RoomError::NotAllowed(why) => ApiError::new(Code::NotAllowed, format!("not allowed: {why}")),
            RoomError::TooOften { wait_ms } => ApiError::too_often(error.to_string(), wait_ms),
            RoomError::TooManyOwned(_) => ApiError::new(Code::TooManyRooms, error.to_string()),
            RoomError::HookNameTaken => ApiError::new(
                Code::HookNameTaken,
                "the room already has a hook of this name, or a person has the name that its user would have",
            )
            .on("name"),
            RoomError::TooManyHooks(_) => ApiError::new(Code::TooManyHooks, error.to_string()),
            RoomError::Blocked { .. } => ApiError::new(Code::Blocked, error.to_string()).on("usernames"),
            RoomError::TooManyBlocks(_) => ApiError::new(Code::TooManyBlocks, error.to_string()),
            RoomError::NoHook => ApiError::new(Code::NoSuchHook, "the room has no hook with this id").on("id"),
            RoomError::TooManyInvites(_) => ApiError::new(Code::TooManyInvites, error.to_string()),
            RoomError::NoInvite => ApiError::no_such_invite(),
            RoomError::InviteEnded(_) => ApiError::new(Code::InviteEnded, format!("{error}; ask for another one")),
            RoomError::Store(error) => error.into(),
        }
    }

    /// The error for a room operation that the store refused, where `RoomError` speaks of the user named in `username`.
    pub fn from_member(error: RoomError) -> ApiError {
        match error {
            RoomError::NoUser => ApiError::no_such_user("there is no such user", "username"),
            RoomError::NotMember => {
                ApiError::new(Code::NoSuchMember, "this user is not a member of the room").on("username")
            }
            error => ApiError::from_room(error),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        error.log("a request failed in the database");
        match error {
            StoreError::Overloaded => {
                ApiError::new(Code::Overloaded, "too many requests wait for the database; nothing was done")
            }
            StoreError::Failed(_) => ApiError::new(
                Code::Unavailable,
                "the database failed; if the request was meant to change something, it is not known whether it did",
            ),
        }
        .retry_after(1)
    }
}

impl From<JoinError> for ApiError {
    fn from(error: JoinError) -> ApiError {
        match error {
            JoinError::NoRoom => ApiError::no_such_room(),
            JoinError::Full => ApiError::room_full(),
            JoinError::Banned => ApiError::banned(),
            JoinError::NoUser => ApiError::user_gone(),
            JoinError::TooOften { wait_ms } => ApiError::too_often(error.to_string(), wait_ms),
        }
    }
}

impl From<CreateUserError> for ApiError {
    fn from(error: CreateUserError) -> ApiError {
        match error {
            CreateUserError::UsernameTaken => {
                ApiError::new(Code::UsernameTaken, "this username is taken").on("username")
            }
            CreateUserError::EmailTaken => ApiError::new(Code::EmailTaken, "this e-mail address is taken").on("email"),
            CreateUserError::Store(error) => error.into(),
        }
    }
}

impl From<InvitedUserError> for ApiError {
    fn from(error: InvitedUserError) -> ApiError {
        match error {
            InvitedUserError::User(error) => error.into(),
            InvitedUserError::Invite(error) => ApiError::from_room(error),
        }
    }
}

impl From<PoolError> for ApiError {
    fn from(error: PoolError) -> ApiError {
        match error {
            PoolError::Full => ApiError::new(Code::Overloaded, error.to_string()).retry_after(1),
            PoolError::AddressFull => ApiError::new(Code::TooManyAttempts, error.to_string()).retry_after(1),
            PoolError::Failed(_) | PoolError::Stopped => {
                tracing::error!(%error, "a password could not be checked");
                ApiError::internal()
            }
        }
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> ApiError {
        let code = match error {
            TokenError::Expired => Code::TokenExpired,
            TokenError::Invalid => Code::TokenInvalid,
            TokenError::KeyMissing => return ApiError::new(Code::Unavailable, error.to_string()).retry_after(2),
        };
        ApiError::new(code, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({"error": {"code": self.code.as_str(), "message": self.message, "field": self.field}});
        if !self.fields.is_empty() {
            let fields = self.fields.iter().map(|FieldError { field, code, message }| {
                let code = code.as_str();
                json!({"field": field, "code": code, "message": message})
            });
            body["error"]["fields"] = fields.collect();
        }
        if let Some(until) = self.until {
            body["error"]["until"] = until.into();
        }
        let mut response = (self.code.status(), Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.code == Code::UnsupportedEncoding {
            response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if self.code.status() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_snake_case_words() {
        let words: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        assert!(words.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }

    #[test]
    fn a_request_for_which_there_was_no_turn_did_nothing() {
        let error = ApiError::from(StoreError::Overloaded);
        assert_eq!((error.code, error.retry_after), (Code::Overloaded, Some(1)));
        assert!(error.message.contains("nothing was done"));
    }

    #[test]
    fn a_database_error_reveals_nothing_about_the_database() {
        let error = ApiError::from(StoreError::Failed("password=hunter2 host=db".into()));
        assert!(!error.message.contains("hunter2"));
        assert_eq!(error.code.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
