//! Connects the HTTP service to the shards: [`Chat`] is the service's side, [`run`] the task that speaks to the mesh.

use crate::driver::{self, Adopted, ShardHandle};
use crate::lanes::LaneMetrics;
use crate::mesh::Port;
use crate::metrics::{self, ShardAnswers};
use crate::server::clock::unready_reason;
use crate::traces::Tracer;
use crate::webhooks;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use uproar_core::BusMetrics;
use uproar_core::limits::Limits;
use uproar_core::message::{Append, Caller, Channel, Endpoint, Message};
use uproar_core::metrics::ShardMetrics;
use uproar_core::{Placement, Serial, Slot};
use uproar_http::{Chat as _, ChatCounts, PublishError, PublishRequest};
use uproar_model::{
    Clock, DatabaseGeneration, Item, Lease, Outcome, Publication, Revocation, Revocations, RoomId, Stored, UserEvent,
    UserId, boottime_ms,
};

/// Calls, and likewise notices, that may wait in the task's queues.
const WAITING_LIMIT: usize = 16_384;

/// Notices that wait while events, which may be lost, are still added to them.
const EVENTS_LIMIT: usize = WAITING_LIMIT / 2;

/// How often rooms are compared with the database while a change may still be made.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// How long the shards may take to answer for their metrics.
const METRICS_TIMEOUT: Duration = Duration::from_secs(1);

/// What the service sends to the task.
enum Call {
    Publish(Box<Append>, oneshot::Sender<Result<Outcome, PublishError>>),
    Learn(RoomId, Option<DatabaseGeneration>, Box<Publication>),
    CloseRoom(RoomId),
    Revoke(Revocation),
    StartOver,
    Sweep,
    Notify(UserId, UserEvent),
    /// Whether the metrics are to name the users.
    Count(bool, oneshot::Sender<Vec<ShardMetrics>>),
}

/// Metrics that are being collected from all shards.
struct Collection {
    by_shard: Vec<Option<ShardMetrics>>,
    sender: oneshot::Sender<Vec<ShardMetrics>>,
}

/// The chat as the HTTP service sees it.
pub struct Chat {
    calls: mpsc::Sender<Call>,
    revocations: RwLock<Revocations>,
    lease: Lease,
    /// The database's clock, if this machine's must not differ much from it.
    clock: Option<Clock>,
    handle: ShardHandle,
    next_shard: AtomicUsize,
    ids_made: AtomicU64,
    is_stopping: AtomicBool,
    /// Until when rooms are compared with the database again and again, by `boottime_ms`.
    sweeps_until_ms: Arc<AtomicU64>,
    lane_metrics: Arc<LaneMetrics>,
    bus_metrics: Arc<BusMetrics>,
    webhooks: Arc<webhooks::Status>,
    process: metrics::Process,
    tracer: Option<Arc<Tracer>>,
    limits: Limits,
    shards: u16,
    seed: u64,
}

/// The task's end of the queue.
pub struct Calls(mpsc::Receiver<Call>);

impl Chat {
    #[expect(clippy::too_many_arguments, reason = "they have nothing in common")]
    pub fn new(
        handle: ShardHandle,
        shards: u16,
        seed: u64,
        limits: Limits,
        lane_metrics: Arc<LaneMetrics>,
        bus_metrics: Arc<BusMetrics>,
        webhooks: Arc<webhooks::Status>,
        process: metrics::Process,
        tracer: Option<Arc<Tracer>>,
        revocations: Revocations,
        lease: Lease,
        clock: Option<Clock>,
    ) -> (Chat, Calls) {
        let (calls, receiver) = mpsc::channel(WAITING_LIMIT);
        let chat = Chat {
            calls,
            revocations: RwLock::new(revocations),
            lease,
            clock,
            handle,
            next_shard: AtomicUsize::new(0),
            ids_made: AtomicU64::new(0),
            is_stopping: AtomicBool::new(false),
            sweeps_until_ms: Arc::default(),
            lane_metrics,
            bus_metrics,
            webhooks,
            process,
            tracer,
            limits,
            shards,
            seed,
        };
        (chat, Calls(receiver))
    }

    /// From now on, the server reports that it is not ready.
    pub fn set_stopping(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Closes all connections: the database has another history.
    pub async fn start_over(&self) {
        self.send(Call::StartOver).await;
    }

    /// Applies those of these revocations that are new. Whether there were any: then the shards will learn of them.
    pub async fn follow(&self, revocations: &[Revocation]) -> bool {
        let is_new = |it: &&Revocation| self.revocation(it.user).is_none_or(|known| known.generation < it.generation);
        let mut any = false;
        for revocation in revocations.iter().filter(is_new) {
            self.revoke(*revocation).await;
            any = true;
        }
        any
    }

    /// Whether all shards have taken, within a second, what was sent to them before.
    pub async fn has_reached_shards(&self) -> bool {
        let (sender, receiver) = oneshot::channel();
        let asked = async {
            self.send(Call::Count(false, sender)).await;
            receiver.await.is_ok()
        };
        tokio::time::timeout(METRICS_TIMEOUT, asked).await.unwrap_or(false)
    }

    /// The metrics of all shards, or none if they did not answer in time: they are busy, or the server is stopping.
    async fn ask_shards(&self, with_users: bool) -> Vec<ShardMetrics> {
        let (sender, receiver) = oneshot::channel();
        if self.calls.try_send(Call::Count(with_users, sender)).is_err() {
            return Vec::new();
        }
        let answer = tokio::time::timeout(METRICS_TIMEOUT, receiver).await;
        answer.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Sends a notice that may be lost. A lost publication is detected at the next one or when heads are compared. Lost
    /// events can be asked for.
    fn notice(&self, call: Call) {
        if self.calls.try_send(call).is_err() {
            tracing::error!("the queue to the shards is full; a notice was dropped");
        }
    }

    /// Sends a call that must not be lost. If the queue is full, it waits for a place.
    async fn send(&self, call: Call) {
        if self.calls.send(call).await.is_err() {
            // Its connections are closed anyway.
            tracing::debug!("the server is stopping; a call was dropped");
        }
    }
}

#[async_trait::async_trait]
impl uproar_http::Chat for Chat {
    async fn publish(&self, message: PublishRequest) -> Result<Stored, PublishError> {
        let number = self.ids_made.fetch_add(1, Ordering::Relaxed);
        let id = message.id.unwrap_or_else(|| format!("~{:x}.h.{number:x}", self.seed));
        let now_ms = boottime_ms();
        let append = Append {
            // Each call is a separate sender, as the order of two calls is not defined.
            caller: caller(number),
            era: 0,
            deadline_ms: now_ms + self.limits.append_deadline_ms,
            item: Item {
                room: message.room,
                user: message.user.id,
                id: id.into(),
                kind: message.kind,
                target: message.target,
                body: message.body.map(Into::into),
            },
            username: message.user.username,
        };
        let tracer = self.tracer.as_deref();
        let _publishing = tracer.zip(message.span).map(|(tracer, span)| tracer.publishing(number, span));
        let (sender, receiver) = oneshot::channel();
        self.calls.try_send(Call::Publish(Box::new(append), sender)).map_err(|_| PublishError::Overloaded)?;
        // The lane answers at the deadline. This timeout is for a server that stops before that.
        let timeout = Duration::from_millis(self.limits.append_deadline_ms + 1_000);
        match tokio::time::timeout(timeout, receiver).await {
            Ok(Ok(Ok(Outcome::New(stored) | Outcome::Duplicate(stored)))) => Ok(stored),
            Ok(Ok(Ok(Outcome::Refused(refusal)))) => Err(PublishError::Refused(refusal)),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) | Err(_) => Err(PublishError::OutcomeUnknown),
        }
    }

    fn learn(&self, room: RoomId, generation: Option<DatabaseGeneration>, publication: Publication) {
        self.notice(Call::Learn(room, generation, Box::new(publication)));
    }

    fn sweep(&self) {
        let until_ms = boottime_ms() + self.limits.store_timeout_ms;
        if self.sweeps_until_ms.swap(until_ms, Ordering::Relaxed) > boottime_ms() {
            return;
        }
        // The database may make the change until the statement has reached its time limit.
        let (calls, sweeps_until_ms) = (self.calls.clone(), Arc::clone(&self.sweeps_until_ms));
        tokio::spawn(async move {
            while calls.send(Call::Sweep).await.is_ok() && boottime_ms() < sweeps_until_ms.load(Ordering::Relaxed) {
                tokio::time::sleep(SWEEP_INTERVAL).await;
            }
        });
    }

    async fn close_room(&self, room: RoomId) {
        self.send(Call::CloseRoom(room)).await;
    }

    fn notify(&self, user: UserId, event: UserEvent) {
        self.notice(Call::Notify(user, event));
    }

    async fn revoke(&self, revocation: Revocation) {
        {
            let mut revocations = self.revocations.write().unwrap_or_else(PoisonError::into_inner);
            revocations.sweep(boottime_ms());
            revocations.add(revocation);
        }
        self.send(Call::Revoke(revocation)).await;
    }

    fn revocation(&self, user: UserId) -> Option<Revocation> {
        self.revocations.read().unwrap_or_else(PoisonError::into_inner).of(user)
    }

    fn lease(&self) -> Lease {
        self.lease.clone()
    }

    fn adopt(&self, connection: uproar_http::Adopted) {
        let uproar_http::Adopted { socket, tls, peer, bytes } = connection;
        let shard = self.next_shard.fetch_add(1, Ordering::Relaxed) % usize::from(self.shards);
        if let Err(left) = self.handle.adopt(shard, Adopted { stream: socket, tls, peer, bytes }) {
            tracing::warn!("a shard's queue of connections is full; one was answered with 503");
            driver::input::reject(left.stream.into(), left.tls);
        }
    }

    fn unready_reason(&self) -> Option<String> {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Some("the server is stopping".into());
        }
        if let Some(reason) = self.clock.as_ref().and_then(|clock| unready_reason(clock.ahead_ms())) {
            return Some(reason);
        }
        if !self.lease.is_valid(boottime_ms()) {
            return Some("the database did not say in time which tokens have been revoked".into());
        }
        let bus = &self.bus_metrics;
        if bus.exists.load(Ordering::Relaxed) && !bus.is_settled.load(Ordering::Relaxed) {
            return Some("it is not known yet whether the bus works".into());
        }
        let is_stuck = self.lane_metrics.stuck_lanes.load(Ordering::Relaxed) > 0;
        is_stuck.then(|| "the database does not answer commits".into())
    }

    async fn metrics(&self) -> String {
        let asked = Instant::now();
        let by_shard = self.ask_shards(false).await;
        let delay = if by_shard.is_empty() { METRICS_TIMEOUT } else { asked.elapsed() };
        let answers = ShardAnswers { by_shard, delay };
        let traces = self.tracer.as_ref().map(|tracer| tracer.metrics());
        metrics::text(
            &answers,
            &self.lane_metrics,
            &self.bus_metrics,
            &self.webhooks,
            &self.limits,
            &self.process,
            traces,
        )
    }

    fn webhooks(&self) -> serde_json::Value {
        self.webhooks.to_json()
    }

    async fn counts(&self) -> Option<ChatCounts> {
        let by_shard = self.ask_shards(true).await;
        if by_shard.is_empty() {
            return None;
        }
        let sum = |of: fn(&ShardMetrics) -> u64| by_shard.iter().map(of).sum::<u64>();
        // Somebody may have connections on several shards.
        let users: HashSet<UserId> = by_shard.iter().flat_map(|shard| shard.users.iter().copied()).collect();
        Some(ChatCounts {
            connections: sum(|shard| shard.connections),
            users: users.len() as u64,
            subscriptions: sum(|shard| shard.subscriptions),
            channels: sum(|shard| shard.homes),
        })
    }
}

/// The sender of the message of a call with this number.
fn caller(number: u64) -> Caller {
    let (slot, generation) = (Slot(number as u32), (number >> 32) as u32);
    Caller { endpoint: Endpoint::Http, slot, generation, serial: Serial(0) }
}

/// The number of the call that sent a message, if it came over HTTP.
pub fn call_number(caller: &Caller) -> Option<u64> {
    (caller.endpoint == Endpoint::Http).then(|| u64::from(caller.generation) << 32 | u64::from(caller.slot.0))
}

/// Runs HTTP's endpoint of the mesh until the service is gone.
pub async fn run(port: Port<Message>, calls: Calls, placement: Placement, shards: u16, limits: Limits) {
    let Calls(mut calls) = calls;
    let mut endpoint = HttpEndpoint::new(port, placement, shards, &limits);
    loop {
        let more = endpoint.process_messages();
        endpoint.send_notices();
        if more {
            continue;
        }
        tokio::select! {
            () = endpoint.port.inbox.woken() => {}
            // The others wait in the queue, which has a bound of its own.
            call = calls.recv(), if endpoint.notices.len() < WAITING_LIMIT => match call {
                Some(call) => endpoint.on_call(call),
                None => return,
            },
        }
    }
}

/// The endpoint's state: the calls that wait for an answer, and the notices that wait for credit.
struct HttpEndpoint {
    port: Port<Message>,
    placement: Placement,
    shards: u16,
    /// By shard: how many more messages it takes.
    credits: Vec<u64>,
    publishes: HashMap<(Slot, u32), oneshot::Sender<Result<Outcome, PublishError>>>,
    collections: HashMap<u32, Collection>,
    last_collection: u32,
    /// Messages that wait for credit. They must not be lost, and must stay in order.
    notices: VecDeque<(u16, Message)>,
}

impl HttpEndpoint {
    fn new(port: Port<Message>, placement: Placement, shards: u16, limits: &Limits) -> HttpEndpoint {
        HttpEndpoint {
            port,
            placement,
            shards,
            credits: vec![limits.mesh_calls_limit; usize::from(shards)],
            publishes: HashMap::new(),
            collections: HashMap::new(),
            last_collection: 0,
            notices: VecDeque::new(),
        }
    }

    /// Takes the shards' messages. True: there are more.
    fn process_messages(&mut self) -> bool {
        let HttpEndpoint { port, credits, publishes, collections, .. } = self;
        port.inbox.pop_each(|from, message| {
            let Endpoint::Shard(shard) = from else { return };
            let shard = usize::from(shard);
            match message {
                Message::CreditReturned => credits[shard] += 1,
                Message::Appended { caller, result, is_last, .. } => {
                    credits[shard] += u64::from(is_last);
                    if let Some(sender) = publishes.remove(&(caller.slot, caller.generation)) {
                        // It fails if the caller no longer waits.
                        let _ = sender.send(result.map_err(|_| PublishError::OutcomeUnknown));
                    }
                }
                Message::Metrics { number, metrics } => {
                    credits[shard] += 1;
                    add_to_collection(collections, number, shard, *metrics);
                }
                other => debug_assert!(false, "a shard sent HTTP {other:?}"),
            }
        })
    }

    /// Sends notices in order until one finds no credit.
    fn send_notices(&mut self) {
        while let Some((shard, _)) = self.notices.front() {
            if self.credits[usize::from(*shard)] == 0 {
                break;
            }
            let Some((shard, message)) = self.notices.pop_front() else { break };
            self.send(shard, message);
        }
        self.port.outbox.flush();
    }

    /// Sends a message for which there is credit. The next flush delivers it.
    fn send(&mut self, shard: u16, message: Message) {
        self.credits[usize::from(shard)] -= 1;
        let pushed = self.port.outbox.push(Endpoint::Shard(shard), message);
        debug_assert!(pushed.is_ok(), "each credit has room in the queue");
    }

    fn on_call(&mut self, call: Call) {
        match call {
            Call::Publish(append, sender) => self.publish(append, sender),
            Call::Learn(room, generation, publication) => {
                let learn = Message::Learn { room, generation, publication };
                self.notices.push_back((self.home(room), learn));
            }
            Call::CloseRoom(room) => self.notices.push_back((self.home(room), Message::CloseRoom { room })),
            Call::Revoke(revocation) => self.notify_all(|| Message::Revoke(revocation)),
            Call::StartOver => self.notify_all(|| Message::StartOver),
            Call::Sweep => self.notify_all(|| Message::SweepNow),
            Call::Notify(user, event) => {
                if self.notices.len() < EVENTS_LIMIT {
                    self.notify_all(|| Message::NotifyUser { user, event: event.clone() });
                }
            }
            Call::Count(with_users, sender) => self.collect(with_users, sender),
        }
    }

    fn publish(&mut self, append: Box<Append>, sender: oneshot::Sender<Result<Outcome, PublishError>>) {
        let shard = self.home(append.item.room);
        if self.credits[usize::from(shard)] == 0 {
            let _ = sender.send(Err(PublishError::Overloaded));
            return;
        }
        self.publishes.insert((append.caller.slot, append.caller.generation), sender);
        self.send(shard, Message::Append(append));
    }

    fn collect(&mut self, with_users: bool, sender: oneshot::Sender<Vec<ShardMetrics>>) {
        // Drop the collections whose callers no longer wait.
        self.collections.retain(|_, collection| !collection.sender.is_closed());
        self.last_collection = self.last_collection.wrapping_add(1);
        let number = self.last_collection;
        let by_shard = (0..self.shards).map(|_| None).collect();
        self.collections.insert(number, Collection { by_shard, sender });
        self.notify_all(|| Message::GetMetrics { number, with_users });
    }

    fn notify_all(&mut self, message: impl Fn() -> Message) {
        self.notices.extend((0..self.shards).map(|shard| (shard, message())));
    }

    fn home(&self, room: RoomId) -> u16 {
        self.placement.home_of(&Channel::Room(room))
    }
}

/// Adds one shard's metrics to a collection, and sends the collection once it is complete.
fn add_to_collection(collections: &mut HashMap<u32, Collection>, number: u32, shard: usize, metrics: ShardMetrics) {
    let Some(collection) = collections.get_mut(&number) else { return };
    collection.by_shard[shard] = Some(metrics);
    if collection.by_shard.iter().all(Option::is_some)
        && let Some(Collection { by_shard, sender }) = collections.remove(&number)
    {
        let _ = sender.send(by_shard.into_iter().flatten().collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    fn no_webhooks() -> Arc<webhooks::Status> {
        Arc::new(webhooks::Status::new(&[], Clock::of_machine()))
    }

    /// They were dropped: connections with revoked tokens stayed open, and so did those in deleted rooms.
    #[test]
    fn a_revocation_and_the_end_of_a_room_wait_for_a_full_queue() {
        let (handle, _controls) = ShardHandle::new(Vec::new());
        let revocations = Revocations::new(0, Vec::new());
        let process = metrics::Process::new(".".into(), None);
        let lane_metrics = Arc::new(LaneMetrics::default());
        let (chat, Calls(mut calls)) = Chat::new(
            handle,
            1,
            0,
            Limits::default(),
            lane_metrics,
            Arc::default(),
            no_webhooks(),
            process,
            None,
            revocations,
            Lease::unlimited(),
            None,
        );
        for _ in 0..=WAITING_LIMIT {
            chat.notify(UserId(1), UserEvent::Left { room: "lobby".into() });
        }
        let revocation = Revocation { user: UserId(1), generation: 1, at: 1 };
        let mut cx = Context::from_waker(Waker::noop());
        let (mut revoke, mut close) = (pin!(chat.revoke(revocation)), pin!(chat.close_room(RoomId(1))));
        assert!(revoke.as_mut().poll(&mut cx).is_pending() && close.as_mut().poll(&mut cx).is_pending());
        assert!(chat.revocation(UserId(1)).is_some(), "it is in force nevertheless");
        assert!(calls.try_recv().is_ok() && calls.try_recv().is_ok());
        assert!(revoke.as_mut().poll(&mut cx).is_ready() && close.as_mut().poll(&mut cx).is_ready());
        let rest: Vec<Call> = std::iter::from_fn(|| calls.try_recv().ok()).collect();
        assert!(matches!(rest[..], [.., Call::Revoke(_), Call::CloseRoom(_)]));
    }

    /// A node renews its lease only after that.
    #[tokio::test]
    async fn the_shards_learn_of_the_revocations_of_other_nodes() {
        let (handle, _controls) = ShardHandle::new(Vec::new());
        let revocations = Revocations::new(1_000, Vec::new());
        let process = metrics::Process::new(".".into(), None);
        let (limits, lane_metrics) = (Limits::default(), Arc::new(LaneMetrics::default()));
        let (lease, clock) = (Lease::unlimited(), None);
        let (chat, Calls(mut calls)) = Chat::new(
            handle,
            1,
            0,
            limits,
            lane_metrics,
            Arc::default(),
            no_webhooks(),
            process,
            None,
            revocations,
            lease,
            clock,
        );
        let of = |user, generation| Revocation { user: UserId(user), generation, at: 1 };
        assert!(chat.follow(&[of(1, 1), of(2, 1)]).await);
        assert!(!chat.follow(&[of(1, 1), of(2, 1)]).await, "they are known");
        assert!(chat.follow(&[of(1, 1), of(2, 2)]).await);
        for expected in [of(1, 1), of(2, 1), of(2, 2)] {
            assert!(matches!(calls.try_recv(), Ok(Call::Revoke(revocation)) if revocation == expected));
        }
        assert!(calls.try_recv().is_err());

        let answer = async {
            let Some(Call::Count(_, sender)) = calls.recv().await else { panic!("no call") };
            let _ = sender.send(Vec::new());
            drop(calls.recv().await);
        };
        let reached = async { (chat.has_reached_shards().await, chat.has_reached_shards().await) };
        assert_eq!(tokio::join!(reached, answer).0, (true, false));
    }

    /// While a shard took no messages, this queue grew without end.
    #[tokio::test]
    async fn notices_that_wait_for_a_shard_have_a_bound() {
        let limits = Limits { mesh_calls_limit: 1, ..Limits::default() };
        let mesh = crate::mesh::Mesh::new(1, 1, |_, _| 1).unwrap();
        let (calls, receiver) = mpsc::channel(WAITING_LIMIT);
        let task = tokio::spawn(run(mesh.http, Calls(receiver), Placement::new(0, 1), 1, limits));
        let close = || Call::CloseRoom(RoomId(1));
        // One for which there is credit, those that wait, and as many in the queue behind them.
        for _ in 0..1 + 2 * WAITING_LIMIT {
            calls.send(close()).await.unwrap();
        }
        assert!(calls.try_send(close()).is_err());
        assert!(!task.is_finished());
        task.abort();
    }
}
