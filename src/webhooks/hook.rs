//! The task of one webhook: which rooms it has to look at, which of them are worked on, and when.

use super::deliver::{Delivered, Failure, Outcome, Sender, Step};
use super::pacing::Pacing;
use super::settings::matches_pattern;
use super::status::{HookStatus, LastError, State};
use crate::readers::{self, Backlog, Seen};
use futures_util::FutureExt;
use std::collections::BTreeSet;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use uproar_core::limits::Limits;
use uproar_model::RoomId;
use uproar_model::fairness::{LogLimit, Rate};
use uproar_store::{Following, StoreError, UnreadRoom};

/// How often failures are logged.
const LOG_RATE: Rate = Rate::per_minute(1, 2);
/// Rooms that are looked through by one query.
const SWEEP_ROOMS: usize = 2_000;
/// Between two such queries, and after one that failed.
const SWEEP_PAUSE: Duration = Duration::from_millis(5);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often a webhook that is paused looks whether a server has started since.
const PAUSED_INTERVAL: Duration = Duration::from_secs(2);
/// Rooms that are known not to be the hook's.
const OTHERS_LIMIT: usize = 65_536;
/// How often operators are told how far the hook is, if it has something to do in more than so many rooms.
const SHOW_INTERVAL: Duration = Duration::from_millis(500);
const SHOWN_AT_ONCE: usize = 64;
/// How long POSTs that are under way may take when the server stops. They are sent again after the next start.
const STOP_TIMEOUT: Duration = Duration::from_millis(1500);

type SweptRooms = Result<(Vec<UnreadRoom>, Option<RoomId>), StoreError>;

struct Task {
    sender: Arc<Sender>,
    status: Arc<HookStatus>,
    following: Following,
    backlog: Backlog,
    pacing: Pacing,
    steps: JoinSet<(RoomId, Instant, Outcome)>,
    /// Rooms that are not the hook's. Their names never change.
    others: BTreeSet<RoomId>,
    sweep: JoinSet<SweptRooms>,
    sweep_at: Instant,
    /// When to tell operators how far the hook is: with many rooms, not after each event.
    show_at: Option<Instant>,
    shown_at: Instant,
    /// Where the sweep that is under way goes on.
    swept_to: RoomId,
    is_paused: bool,
    /// While it is paused: whether it still is.
    look: JoinSet<Result<bool, StoreError>>,
    look_at: Instant,
    log: LogLimit,
    began: Instant,
    /// Whether the last thing that was logged is a failure.
    has_logged_failure: bool,
}

/// Runs until it is told to stop. It can be aborted at any time.
pub(super) async fn run(sender: Sender, status: Arc<HookStatus>, mut stop: watch::Receiver<bool>) {
    // Before the reader is prepared: what is committed meanwhile is noticed.
    let following = sender.store.commits().follow();
    status.lock().state = State::Preparing;
    let is_paused = tokio::select! {
        is_paused = prepare(&sender) => is_paused,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    status.lock().state = if is_paused { State::Paused } else { State::Sending };
    let limits = &sender.limits;
    let pacing = pacing(limits);
    let task = Task {
        sender: Arc::new(sender),
        status,
        following,
        backlog: Backlog::default(),
        pacing,
        steps: JoinSet::new(),
        others: BTreeSet::new(),
        sweep: JoinSet::new(),
        sweep_at: Instant::now(),
        show_at: None,
        shown_at: Instant::now(),
        swept_to: RoomId(0),
        is_paused,
        look: JoinSet::new(),
        look_at: Instant::now(),
        log: LogLimit::new(LOG_RATE),
        began: Instant::now(),
        has_logged_failure: false,
    };
    task.run(stop).await;
}

fn pacing(limits: &Limits) -> Pacing {
    let places = limits.webhook_rooms_limit as usize;
    Pacing::new(places, Duration::from_millis(limits.webhook_pause_limit_ms))
}

/// Returns whether the hook is paused: its receiver has answered 410, to any node, since the last server started.
async fn prepare(sender: &Sender) -> bool {
    loop {
        match try_to_prepare(sender).await {
            Ok(is_paused) => return is_paused,
            Err(error) => error.log("a webhook can't be prepared; will retry"),
        }
        sleep(RETRY_PAUSE).await;
    }
}

async fn try_to_prepare(sender: &Sender) -> Result<bool, StoreError> {
    let (store, filter) = (&*sender.store, sender.hook.rooms.as_str());
    let is_paused = readers::prepare(store, &sender.reader, filter, matches_pattern).await? > 0;
    if is_paused {
        tracing::error!(
            webhook = sender.hook.name,
            "the webhook's receiver has answered 410, so nothing is sent to it until a server starts"
        );
    }
    Ok(is_paused)
}

impl Task {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            // The same time for both: what could not begin yet is waited for.
            let now = Instant::now();
            self.start_steps(now);
            self.start_sweep();
            self.start_look();
            self.show();
            let next_step_at = self.next_step_at(now);
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                news = self.following.next() => {
                    for room in news.rooms {
                        self.note(room);
                    }
                    if news.may_lack_rooms {
                        // Not at once: it may be told so again and again.
                        self.sweep_at = self.sweep_at.min(Instant::now() + RETRY_PAUSE);
                    }
                }
                Some(ended) = self.steps.join_next() => self.on_step_end(ended),
                Some(ended) = self.sweep.join_next() => self.on_sweep_end(ended),
                Some(ended) = self.look.join_next() => self.on_look_end(ended),
                () = sleep_until(self.sweep_at), if self.may_sweep() => {}
                () = sleep_until(self.look_at), if self.may_look() => {}
                () = wait_until(next_step_at) => {}
                () = wait_until(self.show_at) => {}
            }
        }
        let finish = async {
            while let Some(ended) = self.steps.join_next().await {
                self.on_step_end(ended);
            }
        };
        let _ = timeout(STOP_TIMEOUT, finish).await;
    }

    fn note(&mut self, room: RoomId) {
        if !self.others.contains(&room) && !self.backlog.note(room, None) {
            // It is found again when there is room for it.
            self.swept_to = self.swept_to.min(RoomId(room.0 - 1));
        }
    }

    fn start_steps(&mut self, now: Instant) {
        while !self.is_paused
            && self.pacing.admits(self.steps.len(), now)
            && let Some(room) = self.backlog.take(now)
        {
            let sender = Arc::clone(&self.sender);
            self.steps.spawn(async move { (room, now, or_retry(sender.step(room)).await) });
        }
    }

    /// When a step could begin that can't begin now, unless something else happens before.
    fn next_step_at(&self, now: Instant) -> Option<Instant> {
        if self.is_paused || self.backlog.is_empty() {
            return None;
        }
        let times = [self.pacing.next_at(), self.backlog.next_at()];
        times.into_iter().flatten().filter(|at| *at > now).min()
    }

    fn on_step_end(&mut self, ended: Result<(RoomId, Instant, Outcome), tokio::task::JoinError>) {
        // It does not panic, and is not aborted while the task runs.
        let Ok((room, begun, Outcome { delivered, step })) = ended else { return };
        let now = Instant::now();
        self.count(room, delivered);
        match step {
            Step::Finished => {
                self.pacing.forget(room);
                self.backlog.finished(room);
            }
            Step::Continue { seen } => self.backlog.continued(room, seen),
            Step::NotMine => {
                if self.others.len() >= OTHERS_LIMIT {
                    self.others.clear();
                }
                self.others.insert(room);
                self.backlog.forget(room);
            }
            Step::Retry => self.backlog.delay(room, now + RETRY_PAUSE),
            Step::Failed { seen, room: name, failure } => self.failed(room, seen, &name, begun, now, failure),
            Step::GivenUp { seen, room: name, failure, from, to, publications } => {
                tracing::error!(
                    webhook = self.sender.hook.name,
                    room = name,
                    from,
                    to,
                    publications,
                    reason = failure.reason,
                    "the webhook's receiver has not taken these publications for too long; they will not be sent"
                );
                self.status.given_up.fetch_add(publications, Ordering::Relaxed);
                self.failed(room, seen, &name, begun, now, failure);
            }
        }
    }

    fn count(&mut self, room: RoomId, Delivered { posts, publications }: Delivered) {
        if posts == 0 {
            return;
        }
        if std::mem::take(&mut self.has_logged_failure) {
            tracing::info!(webhook = self.sender.hook.name, "the webhook's receiver accepts what it is sent again");
        }
        if self.pacing.succeeded(room) {
            let pacing = &self.pacing;
            self.backlog.end_delays(|room| pacing.is_refused(room));
        }
        self.status.posts.fetch_add(posts, Ordering::Relaxed);
        self.status.delivered.fetch_add(publications, Ordering::Relaxed);
        let mut shown = self.status.lock();
        if !self.is_paused {
            shown.state = State::Sending;
        }
        shown.last_success_at = Some(self.sender.store.clock().unix_ms());
    }

    fn failed(&mut self, room: RoomId, seen: Seen, name: &str, begun: Instant, now: Instant, failure: Failure) {
        self.status.failures.fetch_add(1, Ordering::Relaxed);
        let Failure { reason, retry_after, is_gone } = failure;
        let failures = self.backlog.failed(room, Some(seen));
        let pause = self.pacing.failed(room, failures, begun, now, retry_after);
        self.backlog.delay(room, now + pause);
        if is_gone && !std::mem::replace(&mut self.is_paused, true) {
            tracing::error!(
                webhook = self.sender.hook.name,
                "the webhook's receiver has answered 410, so nothing more is sent to it until a server starts"
            );
        }
        let mut shown = self.status.lock();
        shown.state = if self.is_paused { State::Paused } else { State::Failing };
        let now_ms = now.duration_since(self.began).as_millis() as u64;
        if !is_gone && let Some(unlogged) = self.log.admit(now_ms) {
            self.has_logged_failure = true;
            tracing::warn!(
                webhook = self.sender.hook.name,
                room = name,
                reason,
                unlogged,
                "the webhook's receiver does not accept what it is sent; it will be sent again"
            );
        }
        let at = self.sender.store.clock().unix_ms();
        shown.last_error = Some(LastError { at, room: name.to_owned(), reason });
    }

    fn may_look(&self) -> bool {
        self.is_paused && self.look.is_empty()
    }

    fn start_look(&mut self) {
        if self.may_look() && self.look_at <= Instant::now() {
            let sender = Arc::clone(&self.sender);
            self.look.spawn(async move { sender.is_still_paused().await });
        }
    }

    fn on_look_end(&mut self, ended: Result<Result<bool, StoreError>, tokio::task::JoinError>) {
        self.look_at = Instant::now() + PAUSED_INTERVAL;
        match ended {
            Ok(Ok(false)) if self.is_paused => self.resume(),
            Ok(Err(error)) => error.log("it is not known whether a webhook is still paused; will retry"),
            _ => {}
        }
    }

    /// A server has started, this one or another, so everything is tried at once, as by a task that starts.
    fn resume(&mut self) {
        self.is_paused = false;
        self.pacing = pacing(&self.sender.limits);
        self.backlog.end_delays(|_| false);
        self.status.lock().state = State::Sending;
        tracing::info!(webhook = self.sender.hook.name, "a server has started, so the webhook is not paused any more");
    }

    fn may_sweep(&self) -> bool {
        self.sweep.is_empty() && self.backlog.has_space()
    }

    fn start_sweep(&mut self) {
        if !self.may_sweep() || self.sweep_at > Instant::now() {
            return;
        }
        let (sender, after) = (Arc::clone(&self.sender), self.swept_to);
        self.sweep.spawn(async move { sender.store.unread_rooms(&sender.reader, after, SWEEP_ROOMS).await });
    }

    fn on_sweep_end(&mut self, ended: Result<SweptRooms, tokio::task::JoinError>) {
        let now = Instant::now();
        let (rooms, next) = match ended {
            Ok(Ok(swept)) => swept,
            Ok(Err(error)) => {
                error.log("a webhook can't look for what it has to send; will retry");
                self.sweep_at = now + RETRY_PAUSE;
                return;
            }
            Err(_) => {
                self.sweep_at = now + RETRY_PAUSE;
                return;
            }
        };
        for UnreadRoom { room, name, head, done, since } in rooms {
            let is_mine = matches_pattern(&self.sender.hook.rooms, &name);
            if is_mine && !self.backlog.note(room, Some(Seen { done, head, since })) {
                // The sweep goes on here when there is space.
                (self.swept_to, self.sweep_at) = (RoomId(room.0 - 1), now + SWEEP_PAUSE);
                return;
            }
        }
        let interval = Duration::from_millis(self.sender.limits.reader_sweep_interval_ms);
        (self.swept_to, self.sweep_at) = match next {
            Some(room) => (room, now + SWEEP_PAUSE),
            None => (RoomId(0), now + interval),
        };
    }

    fn show(&mut self) {
        let next = self.shown_at + SHOW_INTERVAL;
        if self.backlog.len() > SHOWN_AT_ONCE && Instant::now() < next {
            self.show_at = Some(next);
            return;
        }
        (self.show_at, self.shown_at) = (None, Instant::now());
        let lag = self.backlog.lag();
        let mut shown = self.status.lock();
        (shown.lag, shown.under_way) = (lag, self.steps.len());
    }
}

/// A step that panics, which the panic hook reports, is tried again: otherwise its room would wait until the server is
/// started again.
async fn or_retry(step: impl Future<Output = Outcome>) -> Outcome {
    AssertUnwindSafe(step).catch_unwind().await.unwrap_or_else(|_| Step::Retry.into())
}

/// Waits; without a time, for ever.
async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_that_panics_is_tried_again() {
        assert!(matches!(or_retry(async { panic!("a bug") }).await.step, Step::Retry));
        assert!(matches!(or_retry(async { Step::NotMine.into() }).await.step, Step::NotMine));
    }
}
