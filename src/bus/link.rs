//! The two sessions with PostgreSQL: one sends, one receives. Each is opened again when it has ended.

use std::future::pending;
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;
use tokio::time::sleep;
use uproar_store::PostgresBus;

/// Messages that have arrived and are not processed yet.
const RECEIVED_LIMIT: usize = 1_024;
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What the link reports.
pub(super) enum Event {
    /// It receives from now on.
    Opened,
    Message(String),
    /// It has missed something, for this reason.
    Lost(String),
}

pub(super) struct Link {
    bus: PostgresBus,
    batches: Sender<Vec<String>>,
    events: Receiver<Event>,
    /// They end with the link.
    tasks: JoinSet<()>,
}

impl Link {
    /// Opens the sessions, again and again until that is possible.
    pub fn start(bus: PostgresBus) -> Link {
        // One batch may wait while another one is being sent.
        let (batches, to_send) = mpsc::channel(1);
        let (received, events) = mpsc::channel(RECEIVED_LIMIT);
        let mut tasks = JoinSet::new();
        tasks.spawn(send(bus.clone(), to_send, received.clone()));
        tasks.spawn(receive(bus.clone(), received));
        Link { bus, batches, events, tasks }
    }

    /// Opens both sessions again.
    pub fn reopen(&mut self) {
        self.tasks.abort_all();
        *self = Link::start(self.bus.clone());
    }

    /// The next event. `None`: there is a place for a batch, which the caller wants. Cancel safe.
    pub async fn next(&mut self, wants_place: bool) -> Option<Event> {
        tokio::select! {
            Some(event) = self.events.recv() => Some(event),
            Ok(_) = self.batches.reserve(), if wants_place => None,
            else => pending().await,
        }
    }

    pub fn is_writable(&self) -> bool {
        self.batches.capacity() > 0
    }

    /// Waits until it takes a batch.
    pub async fn writable(&self) {
        if self.batches.reserve().await.is_err() {
            pending::<()>().await;
        }
    }

    /// Sends a batch, for which there must be a place.
    pub fn send(&self, batch: Vec<String>) {
        let sent = self.batches.try_send(batch);
        debug_assert!(sent.is_ok(), "the caller has looked for a place");
    }
}

async fn send(bus: PostgresBus, mut batches: Receiver<Vec<String>>, events: Sender<Event>) {
    let mut sender = None;
    while let Some(batch) = batches.recv().await {
        if sender.is_none() {
            sender = bus.sender().await.inspect_err(|error| tracing::debug!(error, "the bus can't be reached")).ok();
        }
        // What is lost leaves a gap in the numbers.
        let Some(open) = &mut sender else {
            sleep(RETRY_PAUSE).await;
            continue;
        };
        if let Err(error) = open.send(&batch).await {
            sender = None;
            if events.send(Event::Lost(error)).await.is_err() {
                return;
            }
        }
    }
}

async fn receive(bus: PostgresBus, events: Sender<Event>) {
    loop {
        let lost = match bus.receiver().await {
            Err(error) => error,
            Ok(mut receiver) => {
                if events.send(Event::Opened).await.is_err() {
                    return;
                }
                loop {
                    match receiver.next().await {
                        Ok(message) => {
                            if events.send(Event::Message(message)).await.is_err() {
                                return;
                            }
                        }
                        Err(error) => break error,
                    }
                }
            }
        };
        if events.send(Event::Lost(lost)).await.is_err() {
            return;
        }
        sleep(RETRY_PAUSE).await;
    }
}
