//! The ids that senders give their messages.

/// The longest id of a message, in bytes.
pub const MESSAGE_ID_LIMIT_BYTES: usize = 64;

/// The first character of the ids that the server makes for messages sent without one.
const SERVER_PREFIX: char = '~';

/// Why an id is not accepted. Reads as a sentence after the name of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageIdError {
    #[error("must be 1 to {MESSAGE_ID_LIMIT_BYTES} bytes long")]
    Length,
    #[error("must not begin with '{SERVER_PREFIX}', which is reserved")]
    Reserved,
    #[error("must not contain control characters")]
    Control,
}

/// Checks an id that a sender chose.
pub fn check_message_id(id: &str) -> Result<(), MessageIdError> {
    if id.is_empty() || id.len() > MESSAGE_ID_LIMIT_BYTES {
        return Err(MessageIdError::Length);
    }
    if id.starts_with(SERVER_PREFIX) {
        return Err(MessageIdError::Reserved);
    }
    if id.chars().any(char::is_control) {
        return Err(MessageIdError::Control);
    }
    Ok(())
}

/// The id as clients see it: `None` if the server made it.
pub fn shown_message_id(id: &str) -> Option<&str> {
    Some(id).filter(|id| !id.starts_with(SERVER_PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_short_printable_and_not_one_of_the_servers() {
        for id in ["1", "a~", "ä b", &"x".repeat(64), &"ä".repeat(32)] {
            assert_eq!(check_message_id(id), Ok(()), "{id:?}");
            assert_eq!(shown_message_id(id), Some(id));
        }
        for (id, error) in [
            ("", MessageIdError::Length),
            (&"x".repeat(65), MessageIdError::Length),
            (&"ä".repeat(33), MessageIdError::Length),
            ("~1", MessageIdError::Reserved),
            ("a\0", MessageIdError::Control),
            ("a\n", MessageIdError::Control),
            ("a\u{85}", MessageIdError::Control),
        ] {
            assert_eq!(check_message_id(id), Err(error), "{id:?}");
        }
        assert_eq!(shown_message_id("~1"), None);
    }
}
