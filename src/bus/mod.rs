//! Runs a node on the bus: brings its messages to the transport and back, and to the shards. What they mean is decided in
//! the core (`core/src/bus/`).
//!
//! | file | holds |
//! | --- | --- |
//! | `link.rs` | the sessions that send and receive |
//! | `nats.rs` | NATS as a transport; PostgreSQL is one in `store/src/postgres/bus.rs` |

mod link;
pub mod nats;

use crate::mesh::Port;
use link::{Event, Link, Transport};
use nats::Nats;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use uproar_core::message::{Endpoint, Message};
use uproar_core::survey::{Findings, Survey};
use uproar_core::{BusConfig, BusMetrics, BusNode, BusState, Notice, Placement};
use uproar_model::boottime;
use uproar_store::{Commits, PostgresBus, SharedStore, UnwrittenMarkers};

/// How long the last announcements may take when the server stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Everything that the bus needs.
pub struct BusSetup {
    pub port: Port<Message>,
    /// `None`: there are no other nodes.
    pub bus: Option<PostgresBus>,
    /// `None`: PostgreSQL is the bus.
    pub nats: Option<Nats>,
    pub store: SharedStore,
    pub state: Arc<BusState>,
    pub metrics: Arc<BusMetrics>,
    pub placement: Placement,
    pub shards: u16,
    /// Calls to one shard that may be under way.
    pub calls_limit: u64,
    pub beat_interval: Duration,
    /// Told when tokens were revoked.
    pub revoked: Arc<Notify>,
    /// What the other nodes are to be asked, and how long they have.
    pub surveys: mpsc::Receiver<SurveyCall>,
    pub survey_timeout_ms: u64,
    /// Turns true when nothing more will be announced.
    pub stop: watch::Receiver<bool>,
}

/// A survey of the other nodes.
pub struct SurveyCall {
    pub survey: Survey,
    /// Gets what they found; `None` if not all of them have answered.
    pub sender: oneshot::Sender<Option<Findings>>,
}

/// Runs until it is told to stop, and has sent what was announced or failed to.
pub async fn run_bus(setup: BusSetup) {
    let BusSetup {
        mut port,
        bus,
        nats,
        store,
        state,
        metrics,
        placement,
        shards,
        calls_limit,
        beat_interval,
        revoked,
        mut surveys,
        survey_timeout_ms,
        mut stop,
    } = setup;
    let Some(bus) = bus else {
        // Nothing is announced, and nobody is heard. The watchdog wants to see turns.
        while !*stop.borrow() {
            port.inbox.pop_each(|_, _| {});
            tokio::select! {
                () = port.inbox.woken() => {}
                Some(SurveyCall { sender, .. }) = surveys.recv() => {
                    let _ = sender.send(Some(Findings::default()));
                }
                Ok(()) = stop.changed() => {}
            }
        }
        return;
    };
    metrics.exists.store(true, Ordering::Relaxed);
    let config = BusConfig {
        cluster: bus.cluster().to_owned(),
        session: format!("{:016x}", getrandom::u64().unwrap_or_else(|_| now_micros())),
        message_limit_bytes: match nats {
            None => PostgresBus::MESSAGE_LIMIT_BYTES,
            Some(_) => nats::MESSAGE_LIMIT_BYTES,
        },
        state: Arc::clone(&state),
        metrics,
        placement,
        shards,
        calls_limit,
    };
    let mut surveyed = HashMap::new();
    let mut node = BusNode::new(config, now_micros());
    let (markers, commits) = (store.unwritten_markers(), store.commits());
    let mut link = Link::start(Transport { postgres: bus, nats });
    // Where it is the bus, the beats tell.
    let mut hears_postgres = true;
    let mut beats = interval(beat_interval);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*stop.borrow() {
        let more = take_announcements(&mut node, &mut port);
        pass_on(&mut node, &mut port, &revoked, &markers, &commits);
        for (number, findings) in node.take_surveyed() {
            if let Some(sender) = surveyed.remove(&number) {
                // It fails if the caller no longer waits.
                let _ = oneshot::Sender::send(sender, findings);
            }
        }
        if node.has_to_send() && link.is_writable() {
            link.send(node.take_batch(now_micros()));
        }
        if more {
            tokio::task::yield_now().await;
            continue;
        }
        let wants_place = node.has_to_send();
        tokio::select! {
            () = port.inbox.woken() => {}
            event = link.next(wants_place) => match event {
                Some(Event::Opened) => node.opened(now_micros()),
                Some(Event::Message(text)) => node.hear(now_micros(), &text),
                Some(Event::Lost(reason)) => node.lost(now_micros(), &reason),
                Some(Event::HearsPostgres) => {
                    let heard = std::mem::replace(&mut hears_postgres, true);
                    if !heard {
                        tracing::info!("PostgreSQL's notifications arrive again");
                    }
                }
                Some(Event::Missed(reason)) => {
                    node.missed(now_micros());
                    if std::mem::replace(&mut hears_postgres, false) {
                        tracing::warn!(
                            "PostgreSQL's notifications do not arrive: {reason}; until they do, this node finds out \
                             within 500 ms which rights were taken away"
                        );
                    }
                }
                None => {}
            },
            Some(SurveyCall { survey, sender }) = surveys.recv() => {
                surveyed.insert(node.survey(now_micros(), survey_timeout_ms, survey), sender);
            }
            _ = beats.tick() => {
                state.set_version(store.bus_version());
                if node.tick(now_micros(), store.peers() as u64) {
                    link.reopen();
                }
            }
            Ok(()) = stop.changed() => {}
        }
    }
    while take_announcements(&mut node, &mut port) {}
    let _ = timeout(FLUSH_TIMEOUT, flush(&mut node, &mut link)).await;
}

/// Takes the shards' messages. True: there are more.
fn take_announcements(node: &mut BusNode, port: &mut Port<Message>) -> bool {
    node.count_dropped();
    port.inbox.pop_each(|from, message| node.receive(from, message))
}

/// Gives the shards, the poll of revocations, the store and the log what is for them.
fn pass_on(
    node: &mut BusNode,
    port: &mut Port<Message>,
    revoked: &Notify,
    markers: &UnwrittenMarkers,
    commits: &Commits,
) {
    for (shard, message) in node.take_calls() {
        match &message {
            Message::Announced { room, .. } => commits.note(std::iter::once(*room)),
            // Something was lost, or could not be passed on.
            Message::SweepNow => commits.note_loss(),
            _ => {}
        }
        let pushed = port.outbox.push(Endpoint::Shard(shard), message);
        debug_assert!(pushed.is_ok(), "each credit has room in the queue");
    }
    port.outbox.flush();
    for notice in node.take_notices() {
        match notice {
            Notice::Revoked => revoked.notify_one(),
            Notice::Read(user, room, marker) => markers.hear(user, room, marker),
            Notice::Works => tracing::info!("the bus works"),
            Notice::Fails(reason) => tracing::warn!(
                "the bus does not work: {reason}; until it does, nodes find out within 500 ms what others commit"
            ),
            Notice::Ignored(bytes, what) => tracing::warn!(
                bytes,
                "ignored a message on the bus: {what} (uproar_bus_ignored_total counts further ones)"
            ),
        }
    }
}

/// Sends the rest, and says goodbye.
async fn flush(node: &mut BusNode, link: &mut Link) {
    loop {
        link.writable().await;
        let (messages, is_last) = node.take_last();
        link.send(messages);
        if is_last {
            // It has been sent when the batch after it is taken.
            link.writable().await;
            link.send(Vec::new());
            link.writable().await;
            return;
        }
    }
}

fn now_micros() -> u64 {
    u64::try_from(boottime().as_micros()).unwrap_or(u64::MAX)
}
