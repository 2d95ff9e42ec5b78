//! Connects the HTTP service to the shards: [`Chat`] is the service's side, [`run`] the task that speaks to the mesh.

use crate::bus::SurveyCall;
use crate::driver::{self, Adopted, ShardHandle};
use crate::lanes::LaneMetrics;
use crate::mesh::Port;
use crate::metrics::{self, ShardAnswers};
use crate::outbox;
use crate::server::clock::unready_reason;
use crate::traces::Tracer;
use crate::webhooks;
use bytes::Bytes;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, oneshot};
use uproar_core::limits::Limits;
use uproar_core::message::{Append, Caller, Channel, Endpoint, Message, Recent};
use uproar_core::metrics::ShardMetrics;
use uproar_core::protocol::{LiveEntry, ProtocolError, data};
use uproar_core::survey::{CLIENT_ID_LIMIT_BYTES, Findings, Pattern, SPARED_LIMIT, Survey};
use uproar_core::{BusMetrics, BusState};
use uproar_core::{Placement, Serial, Slot};
use uproar_http::{
    Chat as _, ChatCounts, ChatError, Disconnect, Expiry, PresenceStats, PresentClient, PublishError, PublishRequest,
};
use uproar_model::{
    Clock, DatabaseGeneration, Item, Lease, Offset, Outcome, Publication, Revocation, Revocations, RoomId, Stored,
    User, UserEvent, UserId, boottime_ms,
};

/// Calls, and likewise notices, that may wait in the task's queues.
const WAITING_LIMIT: usize = 16_384;

/// Notices that wait while events, which may be lost, are still added to them.
const EVENTS_LIMIT: usize = WAITING_LIMIT / 2;

/// The longest name of a channel that clients can subscribe to, in bytes.
const CHANNEL_LIMIT_BYTES: usize = 512;

/// How often rooms are compared with the database while a change may still be made.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// How long to wait for a shard before the database is asked instead.
const RECENT_TIMEOUT: Duration = Duration::from_millis(500);

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
    /// What a backend sends to a user, or to a `live:` channel. Whether it was taken.
    Tell(UserId, UserEvent, oneshot::Sender<bool>),
    Live(Arc<str>, LiveEntry, oneshot::Sender<bool>),
    Survey(Survey, oneshot::Sender<Findings>),
    Recent(RoomId, Offset, oneshot::Sender<Option<Box<Recent>>>),
    /// Whether the metrics are to name the users.
    Count(bool, oneshot::Sender<Vec<ShardMetrics>>),
}

/// Metrics that are being collected from all shards.
struct Collection {
    by_shard: Vec<Option<ShardMetrics>>,
    sender: oneshot::Sender<Vec<ShardMetrics>>,
}

/// What the shards of this node have found so far.
struct OwnFindings {
    /// Shards that have not answered.
    awaited: usize,
    findings: Findings,
    sender: oneshot::Sender<Findings>,
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
    bus: Arc<BusState>,
    bus_metrics: Arc<BusMetrics>,
    /// To the task of the bus.
    surveys: mpsc::Sender<SurveyCall>,
    /// One for each survey that may be under way.
    survey_places: Semaphore,
    webhooks: Arc<webhooks::Status>,
    /// `None`: this server does not empty the outbox.
    outbox: Option<Arc<outbox::Status>>,
    process: metrics::Process,
    tracer: Option<Arc<Tracer>>,
    limits: Limits,
    shards: u16,
    seed: u64,
}

/// The task's end of the queue.
pub struct Calls(mpsc::Receiver<Call>);

/// How the chat stands with the other nodes.
pub struct ChatBus {
    pub state: Arc<BusState>,
    pub metrics: Arc<BusMetrics>,
    pub surveys: mpsc::Sender<SurveyCall>,
}

impl Chat {
    #[expect(clippy::too_many_arguments, reason = "they have nothing in common")]
    pub fn new(
        handle: ShardHandle,
        shards: u16,
        seed: u64,
        limits: Limits,
        lane_metrics: Arc<LaneMetrics>,
        bus: ChatBus,
        webhooks: Arc<webhooks::Status>,
        outbox: Option<Arc<outbox::Status>>,
        process: metrics::Process,
        tracer: Option<Arc<Tracer>>,
        revocations: Revocations,
        lease: Lease,
        clock: Option<Clock>,
    ) -> (Chat, Calls) {
        let (calls, receiver) = mpsc::channel(WAITING_LIMIT);
        let ChatBus { state: bus, metrics: bus_metrics, surveys } = bus;
        let survey_places = Semaphore::new(limits.surveys_limit as usize);
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
            bus,
            bus_metrics,
            webhooks,
            outbox,
            surveys,
            survey_places,
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

    /// The publications of a room after this offset, or the first of them, if this node has them in memory. So a reader
    /// that keeps up with the log does not read it from the database.
    pub async fn recent(&self, room: RoomId, after: Offset) -> Option<Box<Recent>> {
        let (sender, recent) = oneshot::channel();
        self.calls.try_send(Call::Recent(room, after, sender)).ok()?;
        tokio::time::timeout(RECENT_TIMEOUT, recent).await.ok()?.ok()?
    }

    /// Asks all shards of all nodes, or has them do something.
    async fn survey(&self, survey: Survey) -> Result<Findings, ChatError> {
        let _place = self.survey_places.try_acquire().map_err(|_| ChatError::Overloaded)?;
        let (sender, own) = oneshot::channel();
        self.calls.try_send(Call::Survey(survey.clone(), sender)).map_err(|_| ChatError::Overloaded)?;
        let (sender, others) = oneshot::channel();
        self.surveys.try_send(SurveyCall { survey, sender }).map_err(|_| ChatError::NotKnown)?;
        // The bus answers at the end of its time.
        let timeout = Duration::from_millis(2 * self.limits.survey_timeout_ms);
        match tokio::time::timeout(timeout, async { tokio::join!(own, others) }).await {
            Ok((Ok(mut findings), Ok(Some(others)))) => {
                findings.merge(others);
                Ok(findings)
            }
            _ => Err(ChatError::NotKnown),
        }
    }

    /// A backend's data, as it goes to clients and to other nodes.
    fn accept(&self, data: &[u8]) -> Result<Arc<str>, ChatError> {
        let invalid = |error: ProtocolError| ChatError::Invalid(error.message);
        let data = data::compact(data).map_err(|wrong| ChatError::Invalid(format!("the data {wrong}")))?;
        data::check_length(&data, self.limits.text_limit_bytes as usize).map_err(invalid)?;
        self.bus.check_length(&data).map_err(invalid)?;
        Ok(data.into())
    }

    /// Sends a call of a backend, unless there are too many.
    async fn pass_on(&self, call: impl FnOnce(oneshot::Sender<bool>) -> Call) -> Result<(), ChatError> {
        let (sender, receiver) = oneshot::channel();
        self.calls.try_send(call(sender)).map_err(|_| ChatError::Overloaded)?;
        match receiver.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(ChatError::Overloaded),
            // The server is stopping.
            Err(_) => Err(ChatError::NotKnown),
        }
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
                meta: message.meta.map(Into::into),
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

    async fn publish_live(&self, channel: &str, data: Bytes, info: Option<User>) -> Result<(), ChatError> {
        // The home sets the time.
        let entry = LiveEntry { user: info, time: 0, data: self.accept(&data)?, is_json: true };
        self.pass_on(|sender| Call::Live(channel.into(), entry, sender)).await
    }

    async fn publish_to_user(&self, user: UserId, data: Bytes) -> Result<(), ChatError> {
        let event = UserEvent::Data { data: self.accept(&data)? };
        self.pass_on(|sender| Call::Tell(user, event, sender)).await
    }

    async fn presence(&self, channel: Channel) -> Result<Vec<PresentClient>, ChatError> {
        let mut clients = self.survey(Survey::Presence { channel }).await?.clients;
        clients.truncate(self.limits.presence_limit as usize);
        Ok(clients.into_iter().map(|info| PresentClient { client: info.client, user: info.user }).collect())
    }

    async fn presence_stats(&self, channel: Channel) -> Result<PresenceStats, ChatError> {
        let findings = self.survey(Survey::PresenceStats { channel }).await?;
        Ok(PresenceStats { clients: findings.client_count, users: findings.user_count() })
    }

    async fn channels(&self, pattern: Option<&str>) -> Result<Vec<(String, u64)>, ChatError> {
        let pattern = pattern.map(Pattern::new).transpose().map_err(ChatError::Invalid)?;
        let findings = self.survey(Survey::Channels { pattern }).await?;
        let limit = self.limits.channels_limit;
        if findings.has_more || findings.channels.len() as u64 > limit {
            let text = format!("more than {limit} channels match (channels_limit); narrow the pattern");
            return Err(ChatError::Invalid(text));
        }
        Ok(findings.channels.into_iter().map(|(channel, count)| (channel.to_string(), count)).collect())
    }

    async fn unsubscribe(&self, user: UserId, channel: &str, client: Option<&str>) -> Result<(), ChatError> {
        let Ok(client) = client.map(client_id).transpose() else { return Ok(()) };
        // No channel has a longer name.
        if channel.len() > CHANNEL_LIMIT_BYTES {
            return Ok(());
        }
        self.survey(Survey::Unsubscribe { user, channel: channel.into(), client }).await?;
        Ok(())
    }

    async fn disconnect(&self, disconnect: Disconnect) -> Result<(), ChatError> {
        let Disconnect { user, client, whitelist, code } = disconnect;
        let Ok(client) = client.as_deref().map(client_id).transpose() else { return Ok(()) };
        let spared: Vec<_> = whitelist.iter().filter_map(|client| client_id(client).ok()).collect();
        if spared.len() > SPARED_LIMIT {
            return Err(ChatError::Invalid(format!("the whitelist has more than {SPARED_LIMIT} clients")));
        }
        let (code, reason) = (code.code(), code.reason().into());
        self.survey(Survey::Disconnect { user, client, spared, code, reason }).await?;
        Ok(())
    }

    async fn refresh(&self, user: UserId, client: Option<&str>, expiry: Expiry) -> Result<(), ChatError> {
        let Ok(client) = client.map(client_id).transpose() else { return Ok(()) };
        self.survey(Survey::Refresh { user, client, expiry }).await?;
        Ok(())
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
            self.outbox.as_deref(),
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

/// The id of a connection, or an error if no connection has such an id.
fn client_id(text: &str) -> Result<Arc<str>, NoSuchClient> {
    let is_id =
        text.len() <= CLIENT_ID_LIMIT_BYTES && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_id { Ok(text.into()) } else { Err(NoSuchClient) }
}

struct NoSuchClient;

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
    surveys: HashMap<u64, OwnFindings>,
    last_survey: u64,
    /// Who waits for the latest publications of a room. Each has taken a credit.
    recent: HashMap<u64, oneshot::Sender<Option<Box<Recent>>>>,
    last_recent: u64,
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
            surveys: HashMap::new(),
            last_survey: 0,
            recent: HashMap::new(),
            last_recent: 0,
            notices: VecDeque::new(),
        }
    }

    /// Takes the shards' messages. True: there are more.
    fn process_messages(&mut self) -> bool {
        let HttpEndpoint { port, credits, publishes, collections, surveys, recent, .. } = self;
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
                Message::Surveyed { number, findings } => {
                    credits[shard] += 1;
                    add_findings(surveys, number, *findings);
                }
                Message::Recent { number, recent: found } => {
                    credits[shard] += 1;
                    if let Some(sender) = recent.remove(&number) {
                        let _ = sender.send(found);
                    }
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
            Call::Tell(user, event, sender) => {
                let is_taken = self.notices.len() < EVENTS_LIMIT;
                if is_taken {
                    self.notify_all(|| Message::NotifyUser { user, event: event.clone() });
                }
                let _ = sender.send(is_taken);
            }
            Call::Live(channel, entry, sender) => {
                let shard = self.placement.home_of(&Channel::Live(Arc::clone(&channel)));
                let is_taken = self.credits[usize::from(shard)] > 0;
                if is_taken {
                    self.send(shard, Message::Live { channel, entry });
                }
                let _ = sender.send(is_taken);
            }
            Call::Survey(survey, sender) => self.survey(&survey, sender),
            Call::Recent(room, after, sender) => {
                let shard = self.home(room);
                // Without an answer the caller asks the database.
                if self.credits[usize::from(shard)] > 0 {
                    self.last_recent += 1;
                    let number = self.last_recent;
                    self.recent.insert(number, sender);
                    self.send(shard, Message::GetRecent { number, room, after });
                }
            }
            Call::Count(with_users, sender) => self.collect(with_users, sender),
        }
    }

    fn survey(&mut self, survey: &Survey, sender: oneshot::Sender<Findings>) {
        self.surveys.retain(|_, survey| !survey.sender.is_closed());
        self.last_survey += 1;
        let number = self.last_survey;
        let own = OwnFindings { awaited: usize::from(self.shards), findings: Findings::default(), sender };
        self.surveys.insert(number, own);
        self.notify_all(|| Message::Survey { number, survey: survey.clone() });
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

/// Adds what one shard has found, and tells the caller once all of them have answered.
fn add_findings(surveys: &mut HashMap<u64, OwnFindings>, number: u64, findings: Findings) {
    let Some(own) = surveys.get_mut(&number) else { return };
    own.findings.merge(findings);
    own.awaited -= 1;
    if own.awaited == 0
        && let Some(OwnFindings { findings, sender, .. }) = surveys.remove(&number)
    {
        let _ = sender.send(findings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};
    use uproar_http::CloseCode;

    fn no_bus() -> ChatBus {
        ChatBus { state: Arc::default(), metrics: Arc::default(), surveys: mpsc::channel(1).0 }
    }

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
            no_bus(),
            no_webhooks(),
            None,
            process,
            None,
            revocations,
            Lease::unlimited(),
            None,
        );
        for _ in 0..=WAITING_LIMIT {
            chat.notify(UserId(1), UserEvent::Left { room: "lobby".into() });
        }
        let revocation = Revocation { user: UserId(1), generation: 1, at: 1, is_blocked: false };
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
            no_bus(),
            no_webhooks(),
            None,
            process,
            None,
            revocations,
            lease,
            clock,
        );
        let of = |user, generation| Revocation { user: UserId(user), generation, at: 1, is_blocked: false };
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
    /// The chat, its task, and shards for which the test answers.
    fn chat_and_shards(shards: u16, surveys: mpsc::Sender<SurveyCall>) -> (Chat, Vec<Port<Message>>) {
        let limits = Limits { survey_timeout_ms: 100, surveys_limit: 2, channels_limit: 2, ..Limits::default() };
        let mesh = crate::mesh::Mesh::new(shards, 1, |_, _| 16).unwrap();
        let (handle, _controls) = ShardHandle::new(Vec::new());
        let bus = ChatBus { surveys, ..no_bus() };
        let revocations = Revocations::new(0, Vec::new());
        let process = metrics::Process::new(".".into(), None);
        let (lanes, lease) = (Arc::new(LaneMetrics::default()), Lease::unlimited());
        let (chat, calls) = Chat::new(
            handle,
            shards,
            0,
            limits.clone(),
            lanes,
            bus,
            no_webhooks(),
            None,
            process,
            None,
            revocations,
            lease,
            None,
        );
        tokio::spawn(run(mesh.http, calls, Placement::new(0, shards), shards, limits));
        (chat, mesh.shards)
    }

    /// Answers the next survey of a shard.
    async fn answer(shard: &mut Port<Message>, findings: Findings) {
        let mut number = None;
        while number.is_none() {
            tokio::task::yield_now().await;
            shard.inbox.pop_each(|_, message| match message {
                Message::Survey { number: of, .. } => number = Some(of),
                other => panic!("{other:?}"),
            });
        }
        let answer = Message::Surveyed { number: number.unwrap(), findings: Box::new(findings) };
        shard.outbox.push(Endpoint::Http, answer).unwrap();
        shard.outbox.flush();
    }

    fn channels(names: &[(&str, u64)]) -> Findings {
        let channels = names.iter().map(|(name, count)| ((*name).into(), *count)).collect();
        Findings { channels, ..Findings::default() }
    }

    #[tokio::test]
    async fn what_all_shards_and_nodes_found_is_added_up() {
        let (surveys, mut asked) = mpsc::channel(2);
        let (chat, mut shards) = chat_and_shards(2, surveys);
        let [first, second] = &mut shards[..] else { panic!("two shards") };
        let mut found = async |others: Option<Findings>, of_second: Findings| {
            let answers = async {
                answer(first, channels(&[("room:a", 1)])).await;
                answer(second, of_second).await;
                let SurveyCall { survey, sender } = asked.recv().await.unwrap();
                assert!(matches!(survey, Survey::Channels { pattern: Some(_) }));
                let _ = sender.send(others);
            };
            tokio::join!(chat.channels(Some("room:*")), answers).0
        };
        let both = vec![("room:a".to_owned(), 4), ("room:b".to_owned(), 5)];
        let of_second = channels(&[("room:a", 2), ("room:b", 5)]);
        assert_eq!(found(Some(channels(&[("room:a", 1)])), of_second.clone()).await, Ok(both));
        assert_eq!(found(None, of_second.clone()).await, Err(ChatError::NotKnown), "another node has not answered");
        let too_many = found(Some(channels(&[("room:c", 1)])), of_second.clone()).await;
        assert!(matches!(too_many, Err(ChatError::Invalid(text)) if text.contains("more than 2 channels")));
        let more = Findings { has_more: true, ..Findings::default() };
        assert!(matches!(found(Some(Findings::default()), more).await, Err(ChatError::Invalid(_))));
    }

    #[tokio::test]
    async fn a_backend_waits_for_a_limited_time_and_in_limited_numbers() {
        let (surveys, mut asked) = mpsc::channel(2);
        let (chat, _shards) = chat_and_shards(1, surveys);
        let stats = || chat.presence_stats(Channel::Room(RoomId(1)));
        for _ in 0..2 {
            let (first, second, third) = tokio::join!(stats(), stats(), stats());
            assert_eq!([first, second], [Err(ChatError::NotKnown), Err(ChatError::NotKnown)]);
            assert_eq!(third, Err(ChatError::Overloaded));
            while asked.try_recv().is_ok() {}
        }
    }

    #[tokio::test]
    async fn what_a_backend_sends_is_checked() {
        let (surveys, _asked) = mpsc::channel(1);
        let (chat, mut shards) = chat_and_shards(1, surveys);
        let send = async |data: &str| chat.publish_live("x", Bytes::copy_from_slice(data.as_bytes()), None).await;
        for (data, words) in [("", "JSON"), ("{", "JSON"), ("\"\\ud800\"", "surrogate"), ("[1] 2", "JSON")] {
            match send(data).await {
                Err(ChatError::Invalid(text)) => assert!(text.contains(words), "{text}"),
                other => panic!("{other:?}"),
            }
        }
        let long = format!("\"{}\"", "x".repeat(20_000));
        assert!(matches!(send(&long).await, Err(ChatError::Invalid(text)) if text.contains("text_limit_bytes")));
        assert_eq!(send(" {\"n\": 1} ").await, Ok(()));
        let user = UserId(7);
        assert_eq!(chat.publish_to_user(user, Bytes::from_static(b"[ ]")).await, Ok(()));
        let mut received = Vec::new();
        while received.len() < 2 {
            tokio::task::yield_now().await;
            shards[0].inbox.pop_each(|_, message| received.push(message));
        }
        let [Message::Live { channel, entry }, Message::NotifyUser { user: told, event }] = &received[..] else {
            panic!("{received:?}")
        };
        assert_eq!((&**channel, &*entry.data, entry.is_json, &entry.user), ("x", "{\"n\":1}", true, &None));
        assert_eq!((*told, event), (user, &UserEvent::Data { data: "[]".into() }));
        for pattern in ["[", &"x".repeat(600)] {
            let error = chat.channels(Some(pattern)).await;
            assert!(matches!(&error, Err(ChatError::Invalid(text)) if text.contains("pattern")), "{error:?}");
        }
        // No connection has such an id, so nothing is asked.
        assert_eq!(chat.refresh(user, Some("not an id"), Expiry::Now).await, Ok(()));
        let whitelist = (0..100).map(|number| number.to_string()).collect();
        let disconnect = Disconnect { user, client: None, whitelist, code: CloseCode::default() };
        assert!(matches!(chat.disconnect(disconnect).await, Err(ChatError::Invalid(_))));
    }
}
