//! The sessions that carry the messages: two with PostgreSQL, of which one sends and one receives, or one with NATS and
//! one that receives from PostgreSQL. Each is opened again when it has ended.

use super::nats::{Nats, Session};
use std::future::pending;
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;
use tokio::time::sleep;
use uproar_store::PostgresBus;

/// Messages that have arrived and are not processed yet.
const RECEIVED_LIMIT: usize = 1_024;
/// The same for NATS, whose messages are longer. Its client has a queue of its own.
const RECEIVED_FROM_NATS_LIMIT: usize = 16;
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What the link reports.
pub(super) enum Event {
    /// It receives from now on.
    Opened,
    Message(String),
    /// It has missed something, for this reason.
    Lost(String),
    /// With NATS: PostgreSQL is heard, too.
    HearsPostgres,
    /// With NATS: something that only PostgreSQL tells may have been missed, for this reason.
    Missed(String),
}

/// What carries the messages.
#[derive(Clone)]
pub(super) struct Transport {
    /// If there is NATS, this still brings what a transaction tells by itself, such as that a right was taken away.
    pub postgres: PostgresBus,
    pub nats: Option<Nats>,
}

pub(super) struct Link {
    transport: Transport,
    batches: Sender<Vec<String>>,
    events: Receiver<Event>,
    /// They end with the link.
    tasks: JoinSet<()>,
}

impl Link {
    /// Opens the sessions, again and again until that is possible.
    pub fn start(transport: Transport) -> Link {
        // One batch may wait while another one is being sent.
        let (batches, to_send) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        let Transport { postgres, nats } = transport.clone();
        let events = match nats {
            None => {
                let (received, events) = mpsc::channel(RECEIVED_LIMIT);
                tasks.spawn(send(postgres.clone(), to_send, received.clone()));
                tasks.spawn(receive(postgres, received));
                events
            }
            Some(nats) => {
                let (received, events) = mpsc::channel(RECEIVED_FROM_NATS_LIMIT);
                tasks.spawn(exchange(nats, postgres.cluster().to_owned(), to_send, received.clone()));
                tasks.spawn(receive_beside_nats(postgres, received));
                events
            }
        };
        Link { transport, batches, events, tasks }
    }

    /// Opens all sessions again.
    pub fn reopen(&mut self) {
        self.tasks.abort_all();
        *self = Link::start(self.transport.clone());
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

/// Receives what transactions tell by themselves. On the bus a node hears its own beats. Here it has to make sure in
/// another way that it hears anything.
async fn receive_beside_nats(bus: PostgresBus, events: Sender<Event>) {
    loop {
        let missed = match bus.receiver().await {
            Err(error) => error,
            Ok(mut receiver) => {
                let mut is_confirmed = false;
                loop {
                    let message = match receiver.next_checked().await {
                        Ok(message) => message.map(Event::Message),
                        Err(error) => break error,
                    };
                    let confirmed = (!std::mem::replace(&mut is_confirmed, true)).then_some(Event::HearsPostgres);
                    for event in [confirmed, message].into_iter().flatten() {
                        if events.send(event).await.is_err() {
                            return;
                        }
                    }
                }
            }
        };
        if events.send(Event::Missed(missed)).await.is_err() {
            return;
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Sends and receives over NATS.
async fn exchange(nats: Nats, cluster: String, mut batches: Receiver<Vec<String>>, events: Sender<Event>) {
    loop {
        let lost = match dropping(&mut batches, nats.open(&cluster)).await {
            Err(error) => error,
            Ok(mut session) => {
                if events.send(Event::Opened).await.is_err() {
                    return;
                }
                match run(&mut session, &mut batches, &events).await {
                    Some(lost) => lost,
                    None => return,
                }
            }
        };
        if events.send(Event::Lost(lost)).await.is_err() {
            return;
        }
        dropping(&mut batches, sleep(RETRY_PAUSE)).await;
    }
}

/// Runs a session until it ends, for the reason that is returned. `None`: the link has ended.
async fn run(session: &mut Session, batches: &mut Receiver<Vec<String>>, events: &Sender<Event>) -> Option<String> {
    let (sender, receiver) = session.split();
    let send = async {
        while let Some(batch) = batches.recv().await {
            if let Err(error) = sender.send(&batch).await {
                return Some(error);
            }
        }
        None
    };
    let receive = async {
        loop {
            match receiver.next().await {
                Ok(message) => events.send(Event::Message(message)).await.ok()?,
                Err(error) => return Some(error),
            }
        }
    };
    tokio::select! {
        ended = send => ended,
        ended = receive => ended,
    }
}

/// Does this work. What is to be sent meanwhile is lost, which leaves a gap in the numbers.
async fn dropping<T>(batches: &mut Receiver<Vec<String>>, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            Some(_) = batches.recv() => {}
        }
    }
}
