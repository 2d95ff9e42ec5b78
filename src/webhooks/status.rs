//! What operators see of the webhooks: metrics, and the answer to `GET /admin/webhooks`.

use super::body::rfc3339;
use super::settings::Hook;
use crate::readers::Lag;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uproar_model::{Clock, UnixMillis};

/// All webhooks, in the order of the configuration file.
#[derive(Debug)]
pub struct Status {
    pub hooks: Vec<Arc<HookStatus>>,
    clock: Clock,
}

#[derive(Debug)]
pub struct HookStatus {
    pub name: String,
    origin: String,
    rooms: String,
    events: Vec<&'static str>,
    /// Publications that the receiver has accepted.
    pub delivered: AtomicU64,
    /// POSTs that it has accepted.
    pub posts: AtomicU64,
    /// POSTs that it has not accepted.
    pub failures: AtomicU64,
    /// Publications that will not be sent any more.
    pub given_up: AtomicU64,
    now: Mutex<Current>,
}

#[derive(Clone, Debug, Default)]
pub struct Current {
    pub state: State,
    pub lag: Lag,
    pub under_way: usize,
    pub last_error: Option<LastError>,
    pub last_success_at: Option<UnixMillis>,
}

impl Current {
    /// This node does not send any more. What it has seen is still shown, but not what it had to do.
    pub fn stand_by(&mut self) {
        *self =
            Current { last_error: self.last_error.take(), last_success_at: self.last_success_at, ..Current::default() };
    }
}

#[derive(Clone, Debug)]
pub struct LastError {
    pub at: UnixMillis,
    pub room: String,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Another node sends, or this one is about to.
    #[default]
    Standby,
    /// It notes where the rooms are that it will begin with.
    Preparing,
    Sending,
    /// The last POST was not accepted.
    Failing,
    /// The receiver has answered 410.
    Paused,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Standby => "standby",
            State::Preparing => "preparing",
            State::Sending => "sending",
            State::Failing => "failing",
            State::Paused => "paused",
        }
    }
}

impl Status {
    pub fn new(hooks: &[Hook], clock: Clock) -> Status {
        let hooks = hooks.iter().map(|hook| Arc::new(HookStatus::new(hook)));
        Status { hooks: hooks.collect(), clock }
    }

    /// The answer to `GET /admin/webhooks`.
    pub fn to_json(&self) -> Value {
        let now = self.clock.unix_ms();
        json!({"webhooks": self.hooks.iter().map(|hook| hook.to_json(now)).collect::<Vec<_>>()})
    }

    /// Seconds since the oldest publication that waits was stored.
    pub fn lag_seconds(&self, lag: &Lag) -> f64 {
        lag_seconds(lag, self.clock.unix_ms())
    }
}

fn lag_seconds(lag: &Lag, now: UnixMillis) -> f64 {
    if lag.since == 0 { 0.0 } else { now.saturating_sub(lag.since) as f64 / 1000.0 }
}

impl HookStatus {
    fn new(hook: &Hook) -> HookStatus {
        HookStatus {
            name: hook.name.clone(),
            origin: hook.url.origin().to_owned(),
            rooms: hook.rooms.clone(),
            events: hook.events.names(),
            delivered: AtomicU64::new(0),
            posts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            now: Mutex::default(),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Current> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The URL is shown without its path, and errors have no URLs: both may contain secrets.
    fn to_json(&self, now: UnixMillis) -> Value {
        let Current { state, lag, under_way, last_error, last_success_at } = self.lock().clone();
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let last_error = last_error
            .map(|LastError { at, room, reason }| json!({"time": rfc3339(at), "room": room, "reason": reason}));
        json!({
            "name": self.name,
            "url": self.origin,
            "rooms": self.rooms,
            "events": self.events,
            "state": state.name(),
            "lag": {
                "rooms": lag.rooms,
                "publications": lag.publications,
                "seconds": lag_seconds(&lag, now),
            },
            "under_way": under_way,
            "posts": read(&self.posts),
            "delivered": read(&self.delivered),
            "failures": read(&self.failures),
            "given_up": read(&self.given_up),
            "last_success": last_success_at.map(rfc3339),
            "last_error": last_error,
        })
    }
}
