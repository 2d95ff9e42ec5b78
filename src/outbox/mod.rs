//! The outbox: commands of the server API that an application has written into a table of PostgreSQL, in its own
//! transactions, are executed and then deleted.
//!
//! Rows go in the order of their ids. Messages in different channels may overtake each other; any other command waits
//! for all before it, and all behind it wait for it. There is no position, because a row with a lower id may be
//! committed later: the rows that are there are those that wait. A row whose deletion is lost is executed again, and
//! then its message is known by its id.

mod status;

pub use status::Status;

use crate::config::Options;
use anyhow::{Result, bail};
use futures_util::{FutureExt, StreamExt, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use uproar_core::limits::Limits;
use uproar_http::Service;
use uproar_http::api::{RowAnswer, RowProgress, channel_of};
use uproar_store::{ApiKey, DatabaseUrl, Lead, OutboxListener, OutboxRow, SharedStore, StoreError};

/// How often a node asks whether it is the one that empties the outbox.
const LEAD_PAUSE: Duration = Duration::from_secs(1);
/// How often to look for rows that no notification has announced.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long to go without listening after it has failed.
const LISTEN_PAUSE: Duration = Duration::from_secs(5);
/// How often the rows are counted.
const STATE_INTERVAL: Duration = Duration::from_secs(5);
/// Rows that are read together, and about how many bytes their payloads have.
const BATCH_ROWS: usize = 100;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Channels in which rows are executed at the same time.
const PARALLEL: usize = 16;
/// Pauses after an error: each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long the key is used without asking the database for it.
const KEY_KNOWN_FOR: Duration = Duration::from_secs(1);
/// Rows of one batch that the log names when they are set aside. (The table names all of them.)
const LOGGED_ROWS: usize = 3;
const ERROR_LIMIT_CHARS: usize = 1_000;

/// The name of the key in `--outbox`, if there is one.
///
/// # Errors
/// If the database has no outbox, in one line.
pub fn from_options(options: &Options) -> Result<Option<String>> {
    let Some(key) = &options.outbox else { return Ok(None) };
    if key.is_empty() {
        bail!("--outbox must be the name of an API key, as `uproar api-key list` shows it");
    }
    // What is wrong with the URL is reported elsewhere.
    if matches!(options.database_url(), Ok(DatabaseUrl::Sqlite(_))) {
        bail!(
            "--outbox needs PostgreSQL (--database postgres://…), where your backend can write into the same database"
        );
    }
    Ok(Some(key.clone()))
}

/// Everything that the outbox needs.
pub struct OutboxSetup {
    /// The name of the key whose rights the rows have. `None`: there is nothing to do.
    pub key: Option<String>,
    pub status: Option<Arc<Status>>,
    pub store: SharedStore,
    pub service: Arc<Service>,
    pub limits: Limits,
    /// Turns true when no more rows are to be executed.
    pub stop: watch::Receiver<bool>,
}

/// Runs until it is told to stop. Of several nodes, one empties the outbox.
pub async fn run_outbox(setup: OutboxSetup) {
    let OutboxSetup { key, status, store, service, limits, mut stop } = setup;
    let (Some(key_name), Some(status)) = (key, status) else {
        let _ = stop.wait_for(|stop| *stop).await;
        return;
    };
    let mut worker = Worker {
        key_name,
        status,
        store,
        service,
        limits,
        stop: stop.clone(),
        key: None,
        is_key_missing: false,
        listener: None,
        listen_again_at: Instant::now(),
        state_at: None,
        finished: Finished::default(),
        stuck: BTreeMap::new(),
        begun: None,
        batch_rows: BATCH_ROWS,
        failures: 0,
    };
    loop {
        let mut lead = tokio::select! {
            lead = take_lead(&worker.store) => lead,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        tracing::info!(key = worker.key_name, "this server empties the outbox");
        tokio::select! {
            () = worker.run() => return,
            () = lead.lost() => {
                tracing::warn!("this server can't be sure that no other one empties the outbox, and stops");
                worker.status.set(None);
                worker.forget_attempts();
                worker.listener = None;
            }
        }
    }
}

async fn take_lead(store: &SharedStore) -> Lead {
    loop {
        match store.lead_outbox().await {
            Ok(Some(lead)) => return lead,
            Ok(None) => {}
            Err(error) => error.log("it is not known which server empties the outbox; will retry"),
        }
        sleep(LEAD_PAUSE).await;
    }
}

/// Rows whose end the database does not know yet.
#[derive(Default)]
struct Finished {
    done: Vec<i64>,
    /// With the reasons.
    failed: Vec<(i64, String)>,
    /// What the log says of the first of these.
    notices: Vec<String>,
}

impl Finished {
    fn is_empty(&self) -> bool {
        self.done.is_empty() && self.failed.is_empty()
    }

    /// Leaves out the rows that were to be set aside. They are executed again.
    fn forget_failed(&mut self) {
        self.failed.clear();
        self.notices.clear();
    }
}

/// What to wait for before the next batch.
enum Next {
    AtOnce,
    /// There are no rows.
    Rows,
    After(Duration),
}

struct Worker {
    key_name: String,
    status: Arc<Status>,
    store: SharedStore,
    service: Arc<Service>,
    limits: Limits,
    stop: watch::Receiver<bool>,
    /// When the database was asked for it.
    key: Option<(Instant, Arc<ApiKey>)>,
    /// It was reported that there is no such key.
    is_key_missing: bool,
    listener: Option<OutboxListener>,
    listen_again_at: Instant,
    /// When the rows were counted.
    state_at: Option<Instant>,
    finished: Finished,
    /// The rows that must be tried again, since when.
    stuck: BTreeMap<i64, Instant>,
    /// The command that must be tried again, if it is more than a message in one channel, and what it has reached.
    begun: Option<(OutboxRow, Arc<RowProgress>)>,
    /// Rows to read together.
    batch_rows: usize,
    /// Attempts that have failed, one after the other.
    failures: u32,
}

impl Worker {
    /// Runs until the server stops. It finishes the row that it is executing first: otherwise the row would be executed
    /// twice.
    async fn run(&mut self) {
        while !self.is_stopped() {
            let next = match self.step().await {
                Ok(Next::After(pause)) => Next::After(pause),
                Ok(next) => {
                    self.failures = 0;
                    next
                }
                Err(error) => {
                    error.log("the outbox can't be read or written; will retry");
                    // If nothing succeeds, that is not the fault of these rows.
                    self.stuck.clear();
                    Next::After(self.pause())
                }
            };
            let mut stop = self.stop.clone();
            tokio::select! {
                () = self.wait(next) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    /// Another node may now execute the rows or set them aside, and somebody may release those again before this node
    /// looks at them.
    fn forget_attempts(&mut self) {
        self.stuck.clear();
        self.begun = None;
        self.finished.forget_failed();
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    fn pause(&mut self) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    async fn wait(&mut self, next: Next) {
        match next {
            Next::AtOnce => {}
            Next::After(pause) => sleep(pause).await,
            Next::Rows => {
                let Some(listener) = &mut self.listener else { return self.listen().await };
                match timeout(SWEEP_INTERVAL, listener.heard()).await {
                    Ok(Ok(())) | Err(_) => {}
                    Ok(Err(_)) => self.listener = None,
                }
            }
        }
    }

    /// Begins to listen. Without that, rows are found by the sweeps. What was added before must be looked for.
    async fn listen(&mut self) {
        if Instant::now() < self.listen_again_at {
            return sleep(SWEEP_INTERVAL).await;
        }
        self.listen_again_at = Instant::now() + LISTEN_PAUSE;
        match self.store.outbox_listener().await {
            Ok(listener) => self.listener = Some(listener),
            Err(reason) => tracing::debug!(reason, "can't listen for new rows of the outbox; looks for them instead"),
        }
    }

    /// Executes the rows that are there now.
    async fn step(&mut self) -> Result<Next, StoreError> {
        self.forget_news();
        // First of all: what is done must not be done again.
        self.record().await?;
        let read = self.store.outbox_rows(self.batch_rows, BATCH_BYTES).await;
        self.batch_rows = next_batch_rows(self.batch_rows, read.as_deref().ok());
        let rows = read?;
        self.count(rows.is_empty()).await?;
        if rows.is_empty() {
            self.stuck.clear();
            return Ok(Next::Rows);
        }
        let mut stuck = BTreeMap::new();
        for wave in waves(rows) {
            // It may have been removed meanwhile.
            let Some(key) = self.key().await? else {
                self.stuck.clear();
                return Ok(Next::After(SWEEP_INTERVAL));
            };
            let answers = self.execute(&key, wave).await;
            // Rows behind one that is to be tried again have not been executed.
            let mut is_cut = false;
            for (row, progress, answer) in answers {
                match answer {
                    RowAnswer::Done => self.finished.done.push(row.id),
                    RowAnswer::Refused(reason) => self.set_aside(&row, &reason),
                    RowAnswer::Later(reason) => {
                        is_cut = true;
                        self.status.retries.fetch_add(1, Ordering::Relaxed);
                        let since = self.stuck.get(&row.id).copied().unwrap_or_else(Instant::now);
                        if since.elapsed() >= Duration::from_millis(self.limits.outbox_retry_limit_ms) {
                            self.set_aside(&row, &format!("{reason} (tried for {} s)", since.elapsed().as_secs()));
                            continue;
                        }
                        stuck.insert(row.id, since);
                        if channel_of(&row).is_none() {
                            self.begun = Some((row, progress));
                        }
                    }
                }
            }
            self.record().await?;
            if is_cut || self.is_stopped() {
                break;
            }
        }
        self.stuck = stuck;
        Ok(if self.stuck.is_empty() { Next::AtOnce } else { Next::After(self.pause()) })
    }

    /// Executes rows that may be executed at the same time, except those behind one that must be tried again.
    async fn execute(&self, key: &Arc<ApiKey>, wave: Wave) -> Vec<(OutboxRow, Arc<RowProgress>, RowAnswer)> {
        let channels = wave.into_iter().map(|rows| async move {
            let mut answers = Vec::with_capacity(rows.len());
            for row in rows {
                if self.is_stopped() {
                    break;
                }
                let progress = match &self.begun {
                    Some((begun, progress)) if *begun == row => Arc::clone(progress),
                    _ => Arc::default(),
                };
                let answer = self.service.execute_row(key, &row, &progress).await;
                let is_later = matches!(answer, RowAnswer::Later(_));
                answers.push((row, progress, answer));
                if is_later {
                    break;
                }
            }
            answers
        });
        stream::iter(channels).buffer_unordered(PARALLEL).concat().await
    }

    fn set_aside(&mut self, row: &OutboxRow, reason: &str) {
        let reason: String =
            reason.chars().take(ERROR_LIMIT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let Finished { failed, notices, .. } = &mut self.finished;
        if failed.len() < LOGGED_ROWS {
            let method = row.method.escape_debug();
            notices.push(format!("row {} of the outbox ({method}) is set aside: {reason}", row.id));
        }
        failed.push((row.id, reason));
    }

    /// Writes what is finished to the database.
    async fn record(&mut self) -> Result<(), StoreError> {
        if self.finished.is_empty() {
            return Ok(());
        }
        let Finished { done, failed, notices } = &self.finished;
        let kept = self.limits.outbox_failed_rows_limit;
        let forgotten = match self.store.finish_outbox_rows(done, failed, kept).await {
            Ok(forgotten) => forgotten,
            Err(error) => {
                // A row may have been tried in vain only because nothing can be written. The others are refused again.
                self.finished.forget_failed();
                return Err(error);
            }
        };
        for notice in notices {
            tracing::warn!("{notice}");
        }
        if failed.len() > notices.len() {
            tracing::warn!(
                "more rows of the outbox are set aside; the table has the reasons (SELECT * FROM uproar_outbox)"
            );
        }
        if forgotten > 0 {
            tracing::error!(
                "rows of the outbox that were set aside are deleted ({forgotten}), as only the newest {kept} are kept \
                 (outbox_failed_rows_limit)"
            );
        }
        // If somebody releases such a row later, all of it is executed.
        let is_finished = |(row, _): &(OutboxRow, _)| done.contains(&row.id) || failed.iter().any(|it| it.0 == row.id);
        if self.begun.as_ref().is_some_and(is_finished) {
            self.begun = None;
        }
        self.status.done.fetch_add(done.len() as u64, Ordering::Relaxed);
        self.status.failed.fetch_add(failed.len() as u64, Ordering::Relaxed);
        self.finished = Finished::default();
        Ok(())
    }

    /// Counts the rows from time to time, and when there are no more.
    async fn count(&mut self, is_empty: bool) -> Result<(), StoreError> {
        let shown = self.status.state();
        let is_wrong = is_empty && shown.is_some_and(|shown| shown.waiting > 0);
        if is_wrong || self.state_at.is_none_or(|at| at.elapsed() >= STATE_INTERVAL) || shown.is_none() {
            self.status.set(Some(self.store.outbox_state().await?));
            self.state_at = Some(Instant::now());
        }
        Ok(())
    }

    /// The key, if there is one with this name.
    async fn key(&mut self) -> Result<Option<Arc<ApiKey>>, StoreError> {
        if let Some((at, key)) = &self.key
            && at.elapsed() < KEY_KNOWN_FOR
        {
            return Ok(Some(Arc::clone(key)));
        }
        let asked = Instant::now();
        let found = self.store.api_key_named(&self.key_name).await?.map(Arc::new);
        if found.is_none() && !std::mem::replace(&mut self.is_key_missing, true) {
            let name = self.key_name.escape_debug();
            tracing::error!(
                "rows of the outbox wait, as there is no API key '{name}' (--outbox); `uproar api-key add` adds one"
            );
        }
        self.is_key_missing = found.is_none();
        self.key = found.as_ref().map(|key| (asked, Arc::clone(key)));
        Ok(found)
    }

    /// What was heard before the rows are read need not be heard again.
    fn forget_news(&mut self) {
        while let Some(listener) = &mut self.listener
            && let Some(heard) = listener.heard().now_or_never()
        {
            if heard.is_err() {
                self.listener = None;
            }
        }
    }
}

/// How many rows to read together after a read of at most `limit` rows. `read`: what was read; `None`: it failed.
///
/// The database looks at the payloads of all of them, even if only the first ones fit into a batch.
fn next_batch_rows(limit: usize, read: Option<&[OutboxRow]>) -> usize {
    let next = match read {
        None => limit / 2,
        Some(rows) if rows.iter().map(|row| row.payload.len()).sum::<usize>() >= BATCH_BYTES => 2 * rows.len(),
        Some(_) => 2 * limit,
    };
    next.clamp(1, BATCH_ROWS)
}

/// Rows that may be executed at the same time: a list for each channel, in which they go one after the other.
type Wave = Vec<Vec<OutboxRow>>;

/// Divides rows into what is executed one after the other.
fn waves(rows: Vec<OutboxRow>) -> Vec<Wave> {
    let mut waves = Vec::new();
    let mut channels: BTreeMap<String, Vec<OutboxRow>> = BTreeMap::new();
    for row in rows {
        if let Some(channel) = channel_of(&row) {
            channels.entry(channel).or_default().push(row);
            continue;
        }
        if !channels.is_empty() {
            waves.push(std::mem::take(&mut channels).into_values().collect());
        }
        waves.push(vec![vec![row]]);
    }
    if !channels.is_empty() {
        waves.push(channels.into_values().collect());
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_without_a_channel_waits_for_all_before_it() {
        let row = |id, method: &str, channel: &str| OutboxRow {
            id,
            method: method.to_owned(),
            payload: format!("{{\"channel\":\"{channel}\"}}"),
            created_at: 0,
        };
        let rows = vec![
            row(1, "publish", "room:a"),
            row(2, "publish", "room:b"),
            row(3, "publish", "room:A"),
            row(4, "subscribe", "room:a"),
            row(5, "publish", "user:7"),
            row(6, "publish", "room:b"),
        ];
        let ids: Vec<Vec<Vec<i64>>> = waves(rows)
            .iter()
            .map(|wave| wave.iter().map(|rows| rows.iter().map(|row| row.id).collect()).collect())
            .collect();
        assert_eq!(ids, [vec![vec![1, 3], vec![2]], vec![vec![4]], vec![vec![5]], vec![vec![6]]]);
    }

    #[test]
    fn fewer_rows_are_read_together_while_their_payloads_are_long() {
        let rows = |count: usize, bytes: usize| {
            let row = OutboxRow { id: 1, method: String::new(), payload: "x".repeat(bytes), created_at: 0 };
            vec![row; count]
        };
        assert_eq!(next_batch_rows(100, Some(&rows(4, BATCH_BYTES / 4))), 8);
        assert_eq!(next_batch_rows(8, Some(&rows(8, 10))), 16);
        assert_eq!(next_batch_rows(100, Some(&[])), 100);
        assert_eq!(next_batch_rows(100, None), 50);
        assert_eq!(next_batch_rows(1, None), 1);
    }
}
