//! Every error that the service answers, in one shape and from one closed list of codes.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use std::borrow::Cow;
use uproar_model::{NameError, TokenError};
use uproar_store::{CreateUserError, JoinError, RoomError, StoreError};

/// Declares the codes once: the variant, its string on the wire, its status.
macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $status:ident;)+) => {
        /// What went wrong, for programs. The strings are listed in `openapi.json`; none is ever renamed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[doc = $doc])+ $name,)+ }

        impl Code {
            /// All of them.
            pub const ALL: &[Code] = &[$(Code::$name,)+];

            /// The `error.code` on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)+ }
            }

            /// The HTTP status that this code always comes with.
            pub fn status(self) -> StatusCode {
                match self { $(Code::$name => StatusCode::$status,)+ }
            }
        }
    };
}

codes! {
    /// The request as such makes no sense: a path that is no UTF-8, a body cut short.
    BadRequest = "bad_request", BAD_REQUEST;
    /// The body is no JSON.
    MalformedJson = "malformed_json", BAD_REQUEST;
    /// A WebSocket upgrade that RFC 6455 does not allow.
    BadUpgrade = "bad_upgrade", BAD_REQUEST;
    /// No token came with a call that needs one.
    TokenMissing = "token_missing", UNAUTHORIZED;
    /// The token was not made by this server, was revoked, or its user is gone.
    TokenInvalid = "token_invalid", UNAUTHORIZED;
    /// The token was good once.
    TokenExpired = "token_expired", UNAUTHORIZED;
    /// Sign-in: no such user, or another password; which one is not said.
    WrongCredentials = "wrong_credentials", UNAUTHORIZED;
    /// Password change: the current password is another.
    WrongPassword = "wrong_password", FORBIDDEN;
    /// The user is not a member of this (public) room.
    NotMember = "not_member", FORBIDDEN;
    /// The user's role in the room does not allow this.
    NotAllowed = "not_allowed", FORBIDDEN;
    /// Only the author may do this.
    NotYours = "not_yours", FORBIDDEN;
    /// A browser's page of another origin, which `--allow-origin` does not name.
    OriginNotAllowed = "origin_not_allowed", FORBIDDEN;
    /// There is no such path.
    NotFound = "not_found", NOT_FOUND;
    /// There is no such room, or it is private and the user is not in it.
    NoSuchRoom = "no_such_room", NOT_FOUND;
    /// The user who is meant does not exist.
    NoSuchUser = "no_such_user", NOT_FOUND;
    /// The user who is meant is not a member of the room.
    NoSuchMember = "no_such_member", NOT_FOUND;
    /// The path exists, the method does not; `Allow` lists those that do.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED;
    /// The body did not come in time.
    BodyTimeout = "body_timeout", REQUEST_TIMEOUT;
    /// Someone has this username.
    UsernameTaken = "username_taken", CONFLICT;
    /// Someone has this e-mail address.
    EmailTaken = "email_taken", CONFLICT;
    /// There is a room of this name.
    RoomNameTaken = "room_name_taken", CONFLICT;
    /// The room has as many members as it takes.
    RoomFull = "room_full", CONFLICT;
    /// The message that is meant does not exist or was deleted.
    NoTarget = "no_target", CONFLICT;
    /// This message id was used before, for something else.
    IdReused = "id_reused", CONFLICT;
    /// The account has no password, so there is none to change.
    NoPassword = "no_password", CONFLICT;
    /// The body is longer than allowed.
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE;
    /// The body is not declared as JSON.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE;
    /// A field or parameter that must be there is not.
    MissingField = "missing_field", UNPROCESSABLE_ENTITY;
    /// A field or parameter has the wrong type or a value that is not allowed.
    InvalidField = "invalid_field", UNPROCESSABLE_ENTITY;
    /// The text of a message is longer than allowed.
    TextTooLarge = "text_too_large", UNPROCESSABLE_ENTITY;
    /// The database cannot store this content.
    BadData = "bad_data", UNPROCESSABLE_ENTITY;
    /// The path speaks WebSocket only.
    UpgradeRequired = "upgrade_required", UPGRADE_REQUIRED;
    /// The user sends faster than a limit allows.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS;
    /// The user has too many WebSockets.
    TooManyConnections = "too_many_connections", TOO_MANY_REQUESTS;
    /// Too many password checks of one address wait already.
    TooManyAttempts = "too_many_attempts", TOO_MANY_REQUESTS;
    /// A fault of the server.
    Internal = "internal", INTERNAL_SERVER_ERROR;
    /// Nothing was done: a queue is full. Try again.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE;
    /// It is not known whether the message was stored; a retry with the same id is safe.
    NotKnown = "not_known", SERVICE_UNAVAILABLE;
    /// The database does not answer, or the server is starting or stopping.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE;
    /// The answer was not ready in time; what the request was to change may have changed.
    DeadlinePassed = "deadline_passed", SERVICE_UNAVAILABLE;
}

/// An error as it is answered: `{"error":{"code","message","field"}}`, `field` null where no field is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub code: Code,
    /// For people: what is wrong and, where it can be said, what to do.
    pub message: Cow<'static, str>,
    /// The field of the body, or the parameter of the path or query, that is to blame.
    pub field: Option<Cow<'static, str>>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
}

impl ApiError {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError { code, message: message.into(), field: None, retry_after: None }
    }

    /// A value that is not allowed: 422.
    pub fn invalid(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(Code::InvalidField, message).on(field)
    }

    /// Says which field is to blame.
    pub fn on(mut self, field: impl Into<Cow<'static, str>>) -> ApiError {
        self.field = Some(field.into());
        self
    }

    /// Says when to come again.
    pub fn retry_after(mut self, seconds: u32) -> ApiError {
        self.retry_after = Some(seconds);
        self
    }

    pub fn no_such_room() -> ApiError {
        ApiError::new(Code::NoSuchRoom, "there is no such room")
    }

    pub fn not_member() -> ApiError {
        ApiError::new(Code::NotMember, "you are not a member of this room; join it first")
    }

    pub fn room_full() -> ApiError {
        ApiError::new(Code::RoomFull, "the room is full")
    }

    /// A good token of a user who does not exist any more.
    pub fn user_gone() -> ApiError {
        ApiError::from(TokenError::Invalid)
    }

    /// A name that can't be one.
    pub fn name(field: &'static str, error: NameError) -> ApiError {
        ApiError::invalid(field, error.to_string())
    }

    /// What the store refused about a room on behalf of the user who asks.
    pub fn of_room(error: RoomError) -> ApiError {
        match error {
            RoomError::NoRoom => ApiError::no_such_room(),
            RoomError::Full => ApiError::room_full(),
            RoomError::NameTaken => ApiError::new(Code::RoomNameTaken, "there is a room of this name").on("name"),
            RoomError::NoUser => ApiError::user_gone(),
            RoomError::NotMember => ApiError::not_member(),
            RoomError::NotAllowed(why) => ApiError::new(Code::NotAllowed, format!("not allowed: {why}")),
            RoomError::Store(error) => error.into(),
        }
    }

    /// What the store refused about another user of a room, who is named in `username`.
    pub fn of_member(error: RoomError) -> ApiError {
        match error {
            RoomError::NoUser => ApiError::new(Code::NoSuchUser, "there is no such user").on("username"),
            RoomError::NotMember => {
                ApiError::new(Code::NoSuchMember, "this user is not a member of the room").on("username")
            }
            error => ApiError::of_room(error),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        tracing::warn!(%error, "the database failed a request");
        ApiError::new(
            Code::Unavailable,
            "the database did not answer as it should; if the request was to change something, it is not known whether \
             it did",
        )
        .retry_after(1)
    }
}

impl From<JoinError> for ApiError {
    fn from(error: JoinError) -> ApiError {
        match error {
            JoinError::NoRoom => ApiError::no_such_room(),
            JoinError::Full => ApiError::room_full(),
            JoinError::NoUser => ApiError::user_gone(),
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

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> ApiError {
        let code = match error {
            TokenError::Expired => Code::TokenExpired,
            TokenError::Invalid => Code::TokenInvalid,
        };
        ApiError::new(code, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({"error": {"code": self.code.as_str(), "message": self.message, "field": self.field}});
        let mut response = (self.code.status(), Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
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
    fn codes_are_distinct_words() {
        let words: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        assert!(words.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }

    #[test]
    fn a_database_error_says_nothing_of_the_database() {
        let error = ApiError::from(StoreError("password=hunter2 host=db".into()));
        assert!(!error.message.contains("hunter2"));
        assert_eq!(error.code.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
