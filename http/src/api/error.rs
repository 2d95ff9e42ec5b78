//! The errors of methods, with the codes of Centrifugo's server API.

use crate::chat::{ChatError, PublishError};
use http::StatusCode;
use serde_json::json;
use uproar_core::protocol::{
    self, BAD_REQUEST, INTERNAL, LIMIT_EXCEEDED, METHOD_NOT_FOUND, NOT_AVAILABLE, PERMISSION_DENIED, ProtocolError,
    TOO_MANY_REQUESTS, UNKNOWN_CHANNEL, UNRECOVERABLE_POSITION,
};
use uproar_model::Refusal;
use uproar_store::{CreateUserError, RenameError, RoomError, StoreError};

/// The same id was used for something else, or a name is taken.
pub(crate) const CONFLICT: u16 = 113;

/// Why a command was not done, as the caller reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MethodError {
    pub code: u16,
    pub message: String,
}

pub(crate) type Answered<T = String> = Result<T, MethodError>;

impl MethodError {
    pub(crate) fn new(code: u16, message: impl Into<String>) -> MethodError {
        MethodError { code, message: message.into() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> MethodError {
        MethodError::new(BAD_REQUEST, message)
    }

    pub(crate) fn not_available(message: impl Into<String>) -> MethodError {
        MethodError::new(NOT_AVAILABLE, message)
    }

    pub(crate) fn no_such_method(name: &str) -> MethodError {
        MethodError::new(METHOD_NOT_FOUND, format!("there is no method '{}'", shortened(name)))
    }

    pub(crate) fn no_such_room(name: &str) -> MethodError {
        MethodError::new(UNKNOWN_CHANNEL, format!("there is no room '{}'", shortened(name)))
    }

    /// The room with this name has another epoch than the caller's.
    pub(crate) fn other_room() -> MethodError {
        let text = "this was meant for another room of this name, which was deleted, or for an earlier state of the \
                    database";
        MethodError::new(UNRECOVERABLE_POSITION, text)
    }

    pub(crate) fn no_such_user(name: &str) -> MethodError {
        let text = format!("there is no user '{}'; create_user creates one", shortened(name));
        MethodError::new(BAD_REQUEST, text)
    }

    /// A command that was not begun.
    pub(crate) fn no_time() -> MethodError {
        MethodError::new(INTERNAL, "the commands before this one took too long; it was not executed")
    }

    /// The same, as there is no room for more answers.
    pub(crate) fn no_space(limit_bytes: u64) -> MethodError {
        let text = format!(
            "the answers to the commands before this one are longer than {limit_bytes} bytes \
             (api_response_limit_bytes); it was not executed"
        );
        MethodError::new(LIMIT_EXCEEDED, text)
    }

    pub(crate) fn to_json(&self) -> String {
        json!({"code": self.code, "message": self.message}).to_string()
    }

    /// The status of a response in the error mode `transport`.
    pub(crate) fn status(&self) -> StatusCode {
        match self.code {
            INTERNAL => StatusCode::INTERNAL_SERVER_ERROR,
            UNKNOWN_CHANNEL | METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
            PERMISSION_DENIED => StatusCode::FORBIDDEN,
            TOO_MANY_REQUESTS => StatusCode::TOO_MANY_REQUESTS,
            UNRECOVERABLE_POSITION => StatusCode::RANGE_NOT_SATISFIABLE,
            CONFLICT => StatusCode::CONFLICT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// A name from a request, as an error repeats it: printable, and at most 64 characters.
fn shortened(name: &str) -> String {
    let mut shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
    if name.chars().nth(64).is_some() {
        shown.push('…');
    }
    shown
}

impl From<ProtocolError> for MethodError {
    fn from(error: ProtocolError) -> MethodError {
        MethodError::new(error.code, error.message)
    }
}

impl From<StoreError> for MethodError {
    fn from(error: StoreError) -> MethodError {
        error.log("a command of the server API failed in the database");
        MethodError::new(
            INTERNAL,
            match error {
                StoreError::Overloaded => "too many requests wait for the database; nothing was done",
                StoreError::Failed(_) => {
                    "the database failed; if the command was meant to change something, it is not known whether it did"
                }
            },
        )
    }
}

impl From<PublishError> for MethodError {
    fn from(error: PublishError) -> MethodError {
        let code = match &error {
            PublishError::Refused(Refusal::NoRoom) => UNKNOWN_CHANNEL,
            PublishError::Refused(
                Refusal::NotMember
                | Refusal::NotYours
                | Refusal::Silenced { .. }
                | Refusal::ModeratorsOnly
                | Refusal::NobodyPosts,
            ) => PERMISSION_DENIED,
            PublishError::Refused(Refusal::SlowMode { .. }) => TOO_MANY_REQUESTS,
            PublishError::Refused(Refusal::IdReused) => CONFLICT,
            PublishError::Refused(Refusal::TooManyReactions) => LIMIT_EXCEEDED,
            PublishError::Refused(_) => BAD_REQUEST,
            PublishError::OutcomeUnknown | PublishError::Overloaded => protocol::INTERNAL,
        };
        MethodError::new(code, error.to_string())
    }
}

impl From<ChatError> for MethodError {
    fn from(error: ChatError) -> MethodError {
        match error {
            ChatError::Invalid(text) => MethodError::bad_request(text),
            error => MethodError::new(INTERNAL, error.to_string()),
        }
    }
}

impl From<RoomError> for MethodError {
    fn from(error: RoomError) -> MethodError {
        let code = match error {
            RoomError::Store(error) => return error.into(),
            RoomError::NoRoom => UNKNOWN_CHANNEL,
            RoomError::NotMember | RoomError::NotAllowed(_) | RoomError::Banned | RoomError::Blocked { .. } => {
                PERMISSION_DENIED
            }
            RoomError::NameTaken | RoomError::HookNameTaken | RoomError::LastOwner => CONFLICT,
            RoomError::NoUser
            | RoomError::NoHook
            | RoomError::NoMessage
            | RoomError::TooSmall
            | RoomError::NoInvite
            | RoomError::InviteEnded(_) => BAD_REQUEST,
            RoomError::Full
            | RoomError::TooManyOwned(_)
            | RoomError::TooManyHooks(_)
            | RoomError::TooManyPins
            | RoomError::TooManyBlocks(_)
            | RoomError::TooManyInvites(_) => LIMIT_EXCEEDED,
            RoomError::TooOften { .. } => TOO_MANY_REQUESTS,
        };
        MethodError::new(code, error.to_string())
    }
}

impl From<CreateUserError> for MethodError {
    fn from(error: CreateUserError) -> MethodError {
        match error {
            CreateUserError::Store(error) => error.into(),
            error => MethodError::new(CONFLICT, error.to_string()),
        }
    }
}

impl From<RenameError> for MethodError {
    fn from(error: RenameError) -> MethodError {
        let code = match error {
            RenameError::Store(error) => return error.into(),
            RenameError::NoUser => BAD_REQUEST,
            RenameError::UsernameTaken => CONFLICT,
            RenameError::TooOften => LIMIT_EXCEEDED,
        };
        MethodError::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_code() {
        for (refusal, code) in [
            (Refusal::NoRoom, 102),
            (Refusal::NotMember, 103),
            (Refusal::NotYours, 103),
            (Refusal::Silenced { until: 5 }, 103),
            (Refusal::ModeratorsOnly, 103),
            (Refusal::NobodyPosts, 103),
            (Refusal::TooManyReactions, 106),
            (Refusal::NoTarget, 107),
            (Refusal::BadData, 107),
            (Refusal::Unknown, 107),
            (Refusal::SlowMode { wait_ms: 5 }, 111),
            (Refusal::IdReused, 113),
        ] {
            assert_eq!(MethodError::from(PublishError::Refused(refusal)).code, code, "{refusal:?}");
        }
        assert_eq!(MethodError::from(PublishError::OutcomeUnknown).code, 100);
        assert_eq!(MethodError::from(PublishError::Overloaded).code, 100);
    }

    #[test]
    fn each_code_has_its_status() {
        for (code, status) in [
            (100, 500),
            (102, 404),
            (103, 403),
            (104, 404),
            (106, 400),
            (107, 400),
            (108, 400),
            (111, 429),
            (112, 416),
            (113, 409),
        ] {
            assert_eq!(MethodError::new(code, "").status().as_u16(), status, "{code}");
        }
    }

    #[test]
    fn an_error_repeats_no_long_or_invisible_text() {
        let error = MethodError::no_such_method(&format!("a\n\u{202e}{}", "x".repeat(1000)));
        assert!(error.message.len() < 120 && !error.message.contains('\n'), "{}", error.message);
    }
}
