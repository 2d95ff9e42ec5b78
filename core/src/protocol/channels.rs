//! The names of channels.

use uproar_model::fold_room_name;

/// The longest name of a `live:` channel, without the prefix, in bytes.
pub const LIVE_NAME_LIMIT_BYTES: usize = 255;

/// Checks the name of a `live:` channel, without the prefix: 1 to 255 bytes, no control characters, and if it contains
/// a `/`, the name of a room before the first one, as the server spells it.
///
/// # Errors
/// What is wrong with it.
pub fn check_live_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > LIVE_NAME_LIMIT_BYTES || name.chars().any(char::is_control) {
        let text = "bytes, without control characters";
        return Err(format!("the name of a live: channel has 1 to {LIVE_NAME_LIMIT_BYTES} {text}"));
    }
    match room_of_live(name) {
        Some(room) if fold_room_name(room).is_ok_and(|key| key == room) => Ok(()),
        Some(_) => {
            Err("a live: channel that contains / is live:<room>/<name>, with the name of the room as the server \
                        spells it"
                .to_owned())
        }
        None => Ok(()),
    }
}

/// The key of the room to which a `live:` channel belongs (its name without the prefix), if it belongs to one.
pub(crate) fn room_of_live(name: &str) -> Option<&str> {
    name.split_once('/').map(|(room, _)| room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_channel_that_nobody_can_join_has_no_valid_name() {
        let long = "x".repeat(LIVE_NAME_LIMIT_BYTES);
        for name in ["x", "a:b", "é", "lobby/x", "lobby/x/y", "lobby/", long.as_str()] {
            assert_eq!(check_live_name(name), Ok(()), "{name}");
        }
        for (name, words) in [("", "1 to 255"), ("a\nb", "control"), ("Lobby/x", "spells"), ("/x", "spells")] {
            assert!(check_live_name(name).unwrap_err().contains(words), "{name}");
        }
        assert!(check_live_name(&format!("{long}x")).unwrap_err().contains("1 to 255"));
    }
}
