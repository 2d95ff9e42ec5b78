//! The bus: how the nodes of a cluster tell each other what they have committed. It only makes things faster. Whatever
//! it loses is found by the sweep, which it makes run more often while it does not work.
//!
//! | file | holds |
//! | --- | --- |
//! | `envelope.rs` | what is sent, and how it is numbered |
//! | `hearing.rs` | who is heard, and what was missed |
//! | `link.rs` | the sessions with PostgreSQL that send and receive |

mod envelope;
mod hearing;
mod link;

use crate::mesh::Port;
use envelope::{Counts, Envelope, Foreign, Outgoing};
use hearing::Hearing;
use link::{Event, Link};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use uproar_core::message::{Channel, Endpoint, Message};
use uproar_core::{Announcement, Bus, BusState, Placement};
use uproar_model::boottime_ms;
use uproar_store::{PostgresBus, SharedStore};

/// Messages that are sent with one statement.
const BATCH_LIMIT: usize = 64;
/// The bus does not work if none of our own beats that were sent within this time has come back.
const DEAF_MS: u64 = 700;
/// After this time without a beat of our own, the sessions are opened again.
const RENEW_MS: u64 = 5_000;
/// How long the last announcements may take when the server stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Our own beats that are remembered until they come back.
const BEATS_LIMIT: usize = 256;

/// Counters, for metrics and readiness.
#[derive(Debug, Default)]
pub struct BusMetrics {
    /// Whether this process has a bus at all.
    pub exists: AtomicBool,
    /// Whether our own beats are heard.
    pub connected: AtomicBool,
    /// Whether it is known if the bus works.
    pub is_settled: AtomicBool,
    /// Other nodes that are heard.
    pub peers: AtomicU64,
    /// How long the last beat took to come back, in microseconds.
    pub lag_micros: AtomicU64,
    /// Announcements of this node.
    pub announced: AtomicU64,
    /// Announcements of this node that were dropped because a queue was full.
    pub dropped: AtomicU64,
    /// Announcements of other nodes.
    pub received: AtomicU64,
    /// Announcements of other nodes that did not arrive.
    pub missed: AtomicU64,
    /// Messages that were no announcements of this cluster.
    pub ignored: AtomicU64,
}

/// Everything that the bus needs.
pub struct BusSetup {
    pub port: Port<Message>,
    /// `None`: there are no other nodes.
    pub bus: Option<PostgresBus>,
    pub store: SharedStore,
    pub state: Arc<BusState>,
    pub metrics: Arc<BusMetrics>,
    pub placement: Placement,
    pub shards: u16,
    /// Calls to one shard that may be under way.
    pub calls_limit: u64,
    pub beat_interval: Duration,
    /// Turns true when nothing more will be announced.
    pub stop: watch::Receiver<bool>,
}

/// Runs until it is told to stop, and has sent what was announced or failed to.
pub async fn run_bus(setup: BusSetup) {
    let BusSetup { port, bus, store, state, metrics, placement, shards, calls_limit, beat_interval, mut stop } = setup;
    let Some(bus) = bus else {
        // Nothing is announced, and nobody is heard.
        let _ = stop.wait_for(|stop| *stop).await;
        return;
    };
    metrics.exists.store(true, Ordering::Relaxed);
    let session = format!("{:016x}", getrandom::u64().unwrap_or_else(|_| boottime_ms()));
    let cluster = bus.cluster().to_owned();
    let mut link = Link::start(bus);
    let mut node = BusNode {
        port,
        state,
        metrics,
        placement,
        credits: vec![calls_limit; usize::from(shards)],
        must_sweep: vec![false; usize::from(shards)],
        has_lost_live: vec![false; usize::from(shards)],
        outgoing: Outgoing::new(cluster, session, PostgresBus::MESSAGE_LIMIT_BYTES),
        hearing: Hearing::default(),
        beats: VecDeque::new(),
        beat: 0,
        is_beat_due: true,
        heard_own_ms: None,
        opened_ms: boottime_ms(),
        has_logged_foreign: false,
    };
    let mut beats = interval(beat_interval);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*stop.borrow() {
        let more = node.take_announcements();
        node.tell_shards();
        node.send(&mut link);
        node.port.outbox.flush();
        if more {
            tokio::task::yield_now().await;
            continue;
        }
        let wants_place = node.has_to_send();
        tokio::select! {
            () = node.port.inbox.woken() => {}
            event = link.next(wants_place) => if let Some(event) = event { node.on_event(event) },
            _ = beats.tick() => {
                if node.on_tick(&store) {
                    link.reopen();
                }
            }
            Ok(()) = stop.changed() => {}
        }
    }
    while node.take_announcements() {}
    let _ = timeout(FLUSH_TIMEOUT, node.flush(&mut link)).await;
}

struct BusNode {
    port: Port<Message>,
    state: Arc<BusState>,
    metrics: Arc<BusMetrics>,
    placement: Placement,
    /// Calls that may still be made, by shard.
    credits: Vec<u64>,
    /// Shards that are to read the heads of their rooms.
    must_sweep: Vec<bool>,
    /// Shards whose subscribers of `live:` channels are to be told that they have missed something.
    has_lost_live: Vec<bool>,
    outgoing: Outgoing,
    hearing: Hearing,
    /// Our own beats that were sent and not heard yet: number, and time by two clocks.
    beats: VecDeque<(u64, u64, Instant)>,
    beat: u64,
    is_beat_due: bool,
    /// When the last of our own beats that has come back was sent.
    heard_own_ms: Option<u64>,
    /// When the sessions were opened.
    opened_ms: u64,
    has_logged_foreign: bool,
}

impl BusNode {
    /// Takes the shards' messages. True: there are more.
    fn take_announcements(&mut self) -> bool {
        let BusNode { port, credits, outgoing, metrics, .. } = self;
        let (live, others) = self.state.take_dropped();
        outgoing.skip(Counts { live, others });
        let (mut announced, mut dropped) = (0, live + others);
        let more = port.inbox.pop_each(|from, message| match (from, message) {
            (Endpoint::Shard(shard), Message::CreditReturned) => credits[usize::from(shard)] += 1,
            (_, Message::Announce(announcement)) => {
                announced += 1;
                dropped += u64::from(!outgoing.push(announcement));
            }
            (from, other) => debug_assert!(false, "{from:?} sent the bus {other:?}"),
        });
        metrics.announced.fetch_add(announced, Ordering::Relaxed);
        metrics.dropped.fetch_add(dropped, Ordering::Relaxed);
        more
    }

    fn has_to_send(&self) -> bool {
        self.is_beat_due || !self.outgoing.is_empty()
    }

    /// Gives the link the next messages, if it takes any.
    fn send(&mut self, link: &mut Link) {
        if !self.has_to_send() || !link.is_writable() {
            return;
        }
        let mut messages = self.outgoing.take(BATCH_LIMIT);
        if std::mem::take(&mut self.is_beat_due) {
            self.beat += 1;
            messages.push(self.outgoing.beat(self.beat));
            if self.beats.len() == BEATS_LIMIT {
                self.beats.pop_front();
            }
            self.beats.push_back((self.beat, boottime_ms(), Instant::now()));
        }
        link.send(messages);
    }

    /// Sends the rest, and says goodbye.
    async fn flush(&mut self, link: &mut Link) {
        loop {
            link.writable().await;
            if self.outgoing.is_empty() {
                link.send(vec![self.outgoing.last()]);
                // It has been sent when the batch after it is taken.
                link.writable().await;
                link.send(Vec::new());
                link.writable().await;
                return;
            }
            let messages = self.outgoing.take(BATCH_LIMIT);
            link.send(messages);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Opened => self.opened_ms = boottime_ms(),
            Event::Message(text) => self.on_message(&text),
            // What was sent meanwhile is missing.
            Event::Lost(reason) => {
                self.heard_own_ms = None;
                self.opened_ms = boottime_ms();
                self.settle(Bus::Disconnected, &reason);
                self.hearing.watch(boottime_ms());
            }
        }
    }

    fn on_message(&mut self, text: &str) {
        let envelope = match Envelope::decode(text, &self.outgoing.cluster) {
            Ok(envelope) => envelope,
            Err(foreign) => return self.on_foreign(&foreign, text.len()),
        };
        let now_ms = boottime_ms();
        if envelope.session == self.outgoing.session {
            self.on_own(envelope.beat);
            return;
        }
        self.hearing.hear(now_ms, &envelope);
        self.state.set_has_peers(true);
        self.metrics.peers.store(self.hearing.peers(), Ordering::Relaxed);
        self.metrics.received.fetch_add(envelope.announcements.len() as u64, Ordering::Relaxed);
        for announcement in envelope.announcements {
            self.deliver(announcement);
        }
        self.metrics.missed.fetch_add(self.hearing.take_missed(), Ordering::Relaxed);
        if self.hearing.take_lost_live() {
            self.has_lost_live.fill(true);
        }
        self.must_sweep_if_due(now_ms);
    }

    fn on_foreign(&mut self, foreign: &Foreign, bytes: usize) {
        self.metrics.ignored.fetch_add(1, Ordering::Relaxed);
        if !std::mem::replace(&mut self.has_logged_foreign, true) {
            let what = match foreign {
                Foreign::Garbage => "something that this release does not understand",
                Foreign::Cluster => "the announcements of another cluster",
            };
            tracing::warn!(
                bytes,
                "ignored a message on the bus: {what} (uproar_bus_ignored_total counts further ones)"
            );
        }
    }

    /// One of our own messages has come back.
    fn on_own(&mut self, beat: Option<u64>) {
        let Some(beat) = beat else { return };
        while let Some((number, sent_ms, sent)) = self.beats.front().copied()
            && number <= beat
        {
            self.beats.pop_front();
            if number == beat {
                let micros = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.metrics.lag_micros.store(micros, Ordering::Relaxed);
                self.heard_own_ms = Some(sent_ms);
                // One that took long says that others take long too. With one limit for both directions, the state could
                // change with every beat.
                if boottime_ms() < sent_ms + DEAF_MS / 2 {
                    self.settle(Bus::Connected, "");
                }
            }
        }
    }

    /// Passes on what another node has announced. Where there is no credit, the heads are read instead.
    fn deliver(&mut self, announcement: Announcement) {
        match announcement {
            Announcement::Stored { room, generation, publication } => {
                let home = self.placement.home_of(&Channel::Room(room));
                let message = Message::Announced { room, generation: Some(generation), publication: Some(publication) };
                self.must_sweep[usize::from(home)] |= !self.call(home, message);
            }
            Announcement::Head { room } => {
                let home = self.placement.home_of(&Channel::Room(room));
                let message = Message::Announced { room, generation: None, publication: None };
                self.must_sweep[usize::from(home)] |= !self.call(home, message);
            }
            Announcement::Live { channel, entry } => {
                let home = self.placement.home_of(&Channel::Live(Arc::clone(&channel)));
                self.has_lost_live[usize::from(home)] |= !self.call(home, Message::Live { channel, entry });
            }
            // What its sender does not know may still be about to happen.
            Announcement::Sweep => self.hearing.watch(boottime_ms()),
            // Events may be lost: a client that misses one can ask.
            Announcement::User { user, event } => {
                for shard in 0..self.credits.len() {
                    self.call(shard as u16, Message::NotifyUser { user, event: event.clone() });
                }
            }
        }
    }

    /// False: too many calls to this shard are under way.
    fn call(&mut self, shard: u16, message: Message) -> bool {
        let credits = &mut self.credits[usize::from(shard)];
        if *credits == 0 {
            return false;
        }
        *credits -= 1;
        let pushed = self.port.outbox.push(Endpoint::Shard(shard), message);
        debug_assert!(pushed.is_ok(), "each credit has room in the queue");
        true
    }

    /// Tells the shards what they have missed.
    fn tell_shards(&mut self) {
        for shard in 0..self.credits.len() {
            if self.must_sweep[shard] {
                self.must_sweep[shard] = !self.call(shard as u16, Message::SweepNow);
            }
            if self.has_lost_live[shard] {
                self.has_lost_live[shard] = !self.call(shard as u16, Message::LiveLost);
            }
        }
    }

    /// Looks at what time has changed. True: the sessions are to be opened again.
    fn on_tick(&mut self, store: &SharedStore) -> bool {
        let now_ms = boottime_ms();
        self.is_beat_due = true;
        self.must_sweep_if_due(now_ms);
        let (heard, registered) = (self.hearing.peers(), store.peers() as u64);
        self.metrics.peers.store(heard, Ordering::Relaxed);
        self.state.set_has_peers(heard > 0 || registered > 0);
        if registered > heard {
            // It can commit without announcing it.
            self.hearing.stay_watchful(now_ms);
        }
        let since_ms = self.heard_own_ms.unwrap_or(self.opened_ms);
        if now_ms.saturating_sub(since_ms) >= DEAF_MS {
            self.settle(Bus::Disconnected, "what this node sends does not come back");
        }
        let is_deaf = now_ms.saturating_sub(since_ms.max(self.opened_ms)) >= RENEW_MS;
        if is_deaf {
            self.opened_ms = now_ms;
        }
        is_deaf
    }

    fn must_sweep_if_due(&mut self, now_ms: u64) {
        if self.hearing.must_sweep(now_ms) {
            self.must_sweep.fill(true);
        }
    }

    /// It is known whether the bus works.
    fn settle(&mut self, bus: Bus, reason: &str) {
        let was_settled = self.metrics.is_settled.swap(true, Ordering::Relaxed);
        if was_settled && self.state.get() == bus {
            return;
        }
        self.state.set(bus);
        if was_settled && bus == Bus::Connected {
            self.has_lost_live.fill(true);
        }
        self.metrics.connected.store(bus == Bus::Connected, Ordering::Relaxed);
        match bus {
            Bus::Connected => tracing::info!("the bus works"),
            _ => tracing::warn!(
                "the bus does not work: {reason}; until it does, nodes find out within 500 ms what others commit"
            ),
        }
        // The shards learn how often they have to sweep, and what they have missed. The others need a moment until they
        // announce again.
        self.must_sweep.fill(true);
        self.hearing.watch(boottime_ms());
    }
}
