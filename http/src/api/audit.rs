//! The audit log: what was done with each key. Entries wait in memory for a moment, where equal ones are counted
//! together, and are written in one transaction.

use crate::app::App;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;
use uproar_model::UnixMillis;
use uproar_model::text::cut;
use uproar_store::AuditEntry;

/// How often entries are written.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long to wait after they could not be written.
const RETRY: Duration = Duration::from_secs(1);
/// Different entries that may wait: of all keys, and of one. Beyond that nothing more is done with keys, or with that
/// one, until the database has taken them.
const WAITING_LIMIT: usize = 40_000;
const KEY_WAITING_LIMIT: usize = 10_000;
/// Entries that are written in one transaction.
const CHUNK: usize = 1_000;
const TARGET_LIMIT_BYTES: usize = 256;

/// What makes entries equal: actor, action, target and outcome.
type What = (Arc<str>, Cow<'static, str>, String, u16);

#[derive(Default)]
pub(crate) struct Audit {
    waiting: Mutex<Waiting>,
    is_new: Notify,
}

#[derive(Default)]
struct Waiting {
    /// When it was done the last time, and how often.
    entries: HashMap<What, (UnixMillis, u64)>,
    /// How many of these entries each actor has.
    by_actor: HashMap<Arc<str>, usize>,
}

impl Audit {
    /// Whether there is room for what is about to be done. Commands that are under way may exceed the bound a little.
    pub(crate) fn has_room(&self, actor: &Arc<str>) -> bool {
        let waiting = self.lock();
        let of_actor = waiting.by_actor.get(actor).copied().unwrap_or_default();
        waiting.entries.len() < WAITING_LIMIT && of_actor < KEY_WAITING_LIMIT
    }

    /// Notes that `actor` has done something. A long target is cut.
    pub(crate) fn note(&self, at: UnixMillis, actor: &Arc<str>, action: Cow<'static, str>, target: &str, outcome: u16) {
        // No control characters: operators read this in a terminal. (Nor could U+0000 be stored.)
        let target = cut(target, TARGET_LIMIT_BYTES).replace(|c: char| c.is_control(), "\u{fffd}");
        let mut waiting = self.lock();
        let (last, times) = waiting.entries.entry((Arc::clone(actor), action, target, outcome)).or_default();
        let is_new = *times == 0;
        *last = at;
        *times += 1;
        if is_new {
            *waiting.by_actor.entry(Arc::clone(actor)).or_default() += 1;
        }
        drop(waiting);
        self.is_new.notify_one();
    }

    /// Takes what waits, the oldest first.
    fn take(&self) -> Vec<AuditEntry> {
        let waiting = std::mem::take(&mut *self.lock());
        let entry =
            |((actor, action, target, outcome), (at, times))| AuditEntry { at, actor, action, target, outcome, times };
        let mut entries: Vec<AuditEntry> = waiting.entries.into_iter().map(entry).collect();
        entries.sort_by(|a, b| (a.at, &a.actor, &a.action, &a.target).cmp(&(b.at, &b.actor, &b.action, &b.target)));
        entries
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the entries to the store until it is dropped.
pub(crate) async fn keep_audit(app: &App) {
    loop {
        app.audit.is_new.notified().await;
        sleep(INTERVAL).await;
        finish_audit(app).await;
    }
}

/// Writes the entries that wait, however often the database fails.
pub(crate) async fn finish_audit(app: &App) {
    let kept = app.settings.limits.audit_rows_limit;
    for entries in app.audit.take().chunks(CHUNK) {
        while let Err(error) = app.store.record_audit(entries, kept).await {
            error.log("the audit log can't be written; will retry");
            sleep(RETRY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_entries_are_counted_together() {
        let audit = Audit::default();
        let (a, b): (Arc<str>, Arc<str>) = ("key a".into(), "key b".into());
        for at in 1..=3 {
            audit.note(at, &a, "publish".into(), "room:x", 0);
        }
        audit.note(2, &a, "publish".into(), "room:x", 102);
        audit.note(5, &b, "publish".into(), &format!("ro\0om{}", "x".repeat(1000)), 0);
        let entries = audit.take();
        let short: Vec<_> = entries.iter().map(|it| (it.at, &*it.actor, it.outcome, it.times)).collect();
        assert_eq!(short, [(2, "key a", 102, 1), (3, "key a", 0, 3), (5, "key b", 0, 1)]);
        assert!(entries[2].target.starts_with("ro\u{fffd}om") && entries[2].target.len() < 300);
        assert!(audit.take().is_empty());
    }

    #[test]
    fn only_so_many_entries_wait_of_one_key_and_of_all() {
        let audit = Audit::default();
        let keys: Vec<Arc<str>> = (0..=WAITING_LIMIT / KEY_WAITING_LIMIT).map(|key| key.to_string().into()).collect();
        let (last, others) = keys.split_last().unwrap();
        for key in others {
            for number in 0..KEY_WAITING_LIMIT {
                assert!(audit.has_room(key));
                audit.note(1, key, "publish".into(), &number.to_string(), 0);
                audit.note(1, key, "publish".into(), &number.to_string(), 0);
            }
            assert!(!audit.has_room(key));
        }
        assert!(!audit.has_room(last));
        audit.take();
        assert!(keys.iter().all(|key| audit.has_room(key)));
    }
}
