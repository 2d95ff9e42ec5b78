//! Commands that an application's own backend has left in the outbox, and what becomes of them.

use super::caller::{Caller, Reply};
use super::error::MethodError;
use super::params::Params;
use super::publishing::Target;
use crate::app::App;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use uproar_core::protocol::{INTERNAL, TOO_MANY_REQUESTS, UNKNOWN_CHANNEL};
use uproar_store::{ApiKey, OutboxRow};

/// What became of a row of the outbox. The texts are one line, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowAnswer {
    Done,
    /// It was refused, and would be again. Of a broadcast, something may have been published.
    Refused(String),
    /// It may succeed later. Whether anything was done is not known.
    Later(String),
}

/// What attempts to execute a row have reached. It is passed to the next attempt, which does not repeat that.
#[derive(Debug, Default)]
pub struct RowProgress {
    has_begun: AtomicBool,
    /// The final responses of a broadcast, by the positions of its channels.
    responses: Mutex<BTreeMap<usize, String>>,
}

impl RowProgress {
    /// What the channel of a broadcast at this position was answered in an earlier attempt.
    pub(super) fn response(&self, number: usize) -> Option<String> {
        self.responses.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    pub(super) fn keep_response(&self, number: usize, response: String) {
        self.responses.lock().unwrap_or_else(PoisonError::into_inner).insert(number, response);
    }
}

/// The answer to a broadcast.
#[derive(Deserialize)]
struct Responses {
    responses: Vec<Response>,
}

#[derive(Deserialize)]
struct Response {
    error: Option<ResponseError>,
}

#[derive(Deserialize)]
struct ResponseError {
    code: u16,
    message: String,
}

/// Executes a row of the outbox with the rights of a key. A message without an id gets one from the row, so that it is
/// stored once however often this is called.
pub(crate) async fn execute_row(
    app: &Arc<App>,
    key: &Arc<ApiKey>,
    row: &OutboxRow,
    progress: &Arc<RowProgress>,
) -> RowAnswer {
    let is_repeated = progress.has_begun.swap(true, Ordering::Relaxed);
    let caller = Caller::for_row(Arc::clone(app), Arc::clone(key), row, Arc::clone(progress));
    let reply = match caller.run(&row.method, &row.payload).await {
        Ok(Reply::Result(result)) if row.method == "broadcast" => return answer_of_broadcast(&result),
        Ok(Reply::Result(_) | Reply::Replies(_)) => return RowAnswer::Done,
        Err(error) => error,
    };
    let MethodError { code, message } = reply;
    // The attempt before, whose outcome was not known, has deleted the room.
    if is_repeated && row.method == "delete_room" && code == UNKNOWN_CHANNEL {
        return RowAnswer::Done;
    }
    let text = format!("error {code}: {message}");
    if is_temporary(code) { RowAnswer::Later(text) } else { RowAnswer::Refused(text) }
}

/// Whether a command with this error may succeed later.
pub(super) fn is_temporary(code: u16) -> bool {
    matches!(code, INTERNAL | TOO_MANY_REQUESTS)
}

/// A broadcast that failed for a while in one channel is tried again there.
fn answer_of_broadcast(result: &str) -> RowAnswer {
    let responses = serde_json::from_str::<Responses>(result).map(|it| it.responses).unwrap_or_default();
    let count = responses.len();
    let mut failed = 0;
    let mut first = None;
    for (index, error) in responses.into_iter().enumerate().filter_map(|(index, it)| Some((index, it.error?))) {
        let ResponseError { code, message } = error;
        if is_temporary(code) {
            return RowAnswer::Later(format!("channel {}: error {code}: {message}", index + 1));
        }
        failed += 1;
        first.get_or_insert_with(|| format!("channel {}: error {code}: {message}", index + 1));
    }
    match first {
        None => RowAnswer::Done,
        Some(first) => RowAnswer::Refused(format!("{failed} of {count} channels failed; {first}")),
    }
}

/// The channel of a `publish`, by one name, if its parameters are valid so far. `None` stands for commands that may
/// concern anything.
pub fn channel_of(row: &OutboxRow) -> Option<String> {
    if row.method != "publish" {
        return None;
    }
    let channel = Params::of(&row.payload).ok()?.text("channel").ok().flatten()?;
    match Target::of(&channel).ok()? {
        Target::Room(name) => Some(format!("room:{name}")),
        Target::Live(_) => Some(channel),
        // The same user may have several names.
        Target::User(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(method: &str, payload: &str) -> OutboxRow {
        OutboxRow { id: 1, method: method.to_owned(), payload: payload.to_owned(), created_at: 0 }
    }

    #[test]
    fn a_room_is_one_channel_however_it_is_written() {
        let channel = |payload: &str| channel_of(&row("publish", payload));
        assert_eq!(channel(r#"{"channel": "room:Lobby", "data": {}}"#).as_deref(), Some("room:lobby"));
        assert_eq!(channel(r#"{"channel": "live:A"}"#).as_deref(), Some("live:A"));
        for payload in [r#"{"channel": "user:7"}"#, r#"{"channel": 7}"#, "{}", r#"{"channel": "nonsense"}"#] {
            assert_eq!(channel(payload), None, "{payload}");
        }
        assert_eq!(channel_of(&row("subscribe", r#"{"channel": "room:lobby"}"#)), None);
    }

    #[test]
    fn a_broadcast_is_done_when_it_is_done_in_all_channels() {
        let answer = |responses: &str| answer_of_broadcast(&format!("{{\"responses\":[{responses}]}}"));
        let (good, bad) = (r#"{"result":{"offset":1}}"#, r#"{"error":{"code":102,"message":"no room"}}"#);
        let later = r#"{"error":{"code":100,"message":"slow"}}"#;
        assert_eq!(answer(good), RowAnswer::Done);
        let refused = RowAnswer::Refused("1 of 2 channels failed; channel 2: error 102: no room".to_owned());
        assert_eq!(answer(&format!("{good},{bad}")), refused);
        let unknown = RowAnswer::Later("channel 2: error 100: slow".to_owned());
        assert_eq!(answer(&format!("{bad},{later}")), unknown);
    }
}
