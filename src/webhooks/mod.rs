//! Webhooks: what is committed in rooms is sent to other servers, in order, without gaps, at least once.
//!
//! Each hook is a reader of the log (`src/readers/`), with a task of its own, so that one with a slow receiver holds up
//! none of the others.
//!
//! | file | holds |
//! | --- | --- |
//! | `settings.rs`, `secret.rs` | the tables of the configuration file; the keys, and how they sign |
//! | `hook.rs` | the task of a hook: which rooms are worked on, and when |
//! | `deliver.rs` | one step in one room: usually one POST |
//! | `plan.rs` | what is stored beside a batch |
//! | `body.rs`, `memory.rs` | what a POST says, and the memory for it |
//! | `pacing.rs` | pauses after failures |
//! | `status.rs` | what operators see |

mod body;
mod deliver;
mod hook;
mod memory;
mod pacing;
mod plan;
mod secret;
mod settings;
mod status;

pub use settings::{Hook, from_options};
pub use status::{Current, HookStatus, State, Status};

use crate::chat::Chat;
use crate::outgoing::Client;
use crate::readers::{PositionWriter, run_writer};
use deliver::{Sender, Skipped};
use memory::Memory;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use uproar_core::limits::Limits;
use uproar_store::{Lead, SharedStore};

/// How often a node asks whether it may send.
const LEAD_PAUSE: Duration = Duration::from_secs(1);

/// Reads of all webhooks that are under way at the same time.
const READS_LIMIT: usize = 4;

/// Everything that webhooks need.
pub struct WebhooksSetup {
    pub hooks: Vec<Hook>,
    /// For the same hooks.
    pub status: Arc<Status>,
    pub store: SharedStore,
    /// Has the latest publications in memory.
    pub chat: Arc<Chat>,
    pub client: Client,
    pub limits: Limits,
    /// Where positions are written: others wait for the database's only writer, so it must not be held by a thread of
    /// low priority.
    pub writing: Handle,
    /// Turns true when nothing more is to be sent.
    pub stop: watch::Receiver<bool>,
}

/// Runs until it is told to stop. Of several nodes, one sends.
pub async fn run_webhooks(setup: WebhooksSetup) {
    let WebhooksSetup { hooks, status, store, chat, client, limits, writing: runtime, mut stop } = setup;
    if hooks.is_empty() {
        let _ = stop.wait_for(|stop| *stop).await;
        return;
    }
    let reads = Arc::new(Semaphore::new(READS_LIMIT));
    let memory_bytes = limits.webhook_bytes_limit as usize / hooks.len();
    let names: Vec<Arc<str>> = hooks.iter().map(|hook| format!("webhook:{}", hook.name).into()).collect();
    tokio::select! {
        () = end_pauses(&store, &names) => {}
        _ = stop.wait_for(|stop| *stop) => return,
    }
    loop {
        let mut lead = tokio::select! {
            lead = take_lead(&store) => lead,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        tracing::info!(hooks = hooks.len(), "this server sends to the webhooks");
        // A set, so that everything ends with it.
        let mut tasks = JoinSet::new();
        let (writer, moves) = PositionWriter::new();
        let interval = Duration::from_millis(limits.reader_write_interval_ms);
        let mut writing = JoinSet::new();
        writing.spawn_on(run_writer(moves, Arc::clone(&store), interval, stop.clone()), &runtime);
        for ((hook, reader), shown) in hooks.iter().zip(&names).zip(&status.hooks) {
            let sender = Sender {
                hook: hook.clone(),
                reader: Arc::clone(reader),
                store: Arc::clone(&store),
                chat: Some(Arc::clone(&chat)),
                client: client.clone(),
                writer: writer.clone(),
                reads: Arc::clone(&reads),
                memory: Memory::new(memory_bytes),
                skipped: Skipped::default(),
                is_pause_unrecorded: AtomicBool::new(false),
                limits: limits.clone(),
            };
            tasks.spawn(hook::run(sender, Arc::clone(shown), stop.clone()));
        }
        drop(writer);
        let is_lost = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => false,
            // They end only because of a bug, which the panic hook has reported.
            _ = tasks.join_next() => return,
            _ = writing.join_next() => return,
            () = lead.lost() => true,
        };
        if is_lost {
            tracing::warn!("this server can't be sure that no other one sends to the webhooks, and stops sending");
            // They must not change what is shown afterwards.
            tasks.shutdown().await;
            for shown in &status.hooks {
                shown.lock().stand_by();
            }
            continue;
        }
        while tasks.join_next().await.is_some() {}
        while writing.join_next().await.is_some() {}
        return;
    }
}

/// A receiver that has answered 410 is tried again after any server has started, even one that does not send: the node
/// that sends notices.
async fn end_pauses(store: &SharedStore, readers: &[Arc<str>]) {
    for reader in readers {
        while let Err(error) = store.pause_reader(reader, 0).await {
            error.log("it can't be recorded that a webhook is not paused any more; will retry");
            sleep(LEAD_PAUSE).await;
        }
    }
}

async fn take_lead(store: &SharedStore) -> Lead {
    loop {
        match store.lead().await {
            Ok(Some(lead)) => return lead,
            Ok(None) => {}
            Err(error) => error.log("it is not known which server sends to the webhooks; will retry"),
        }
        sleep(LEAD_PAUSE).await;
    }
}
