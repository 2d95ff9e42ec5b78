//! How the HTTP service reaches the shards: one endpoint of the mesh, run by one task.

use crate::driver::{self, Adopted, ShardHandle};
use crate::lanes::LaneFigures;
use crate::mesh::Port;
use crate::metrics;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use uproar_core::figures::Figures;
use uproar_core::home_shard;
use uproar_core::limits::Limits;
use uproar_core::message::{Append, Caller, Channel, Endpoint, Message};
use uproar_http::{PublishError, PublishRequest};
use uproar_model::{Item, Kind, Outcome, Publication, RoomId, Stored, UserEvent, UserId};
use uproar_store::Revocation;

/// Calls and notices that may wait for the endpoint's task.
const WAITING_LIMIT: usize = 16_384;

/// What the service hands to the endpoint.
enum Call {
    Publish(Box<Append>, oneshot::Sender<Result<Outcome, PublishError>>),
    Learn(RoomId, Box<Publication>),
    CloseRoom(RoomId),
    Revoke(Revocation),
    Tell(UserId, UserEvent),
    Count(oneshot::Sender<Vec<Figures>>),
}

/// Figures that are being collected from the shards.
struct Collection {
    of_shards: Vec<Option<Figures>>,
    sender: oneshot::Sender<Vec<Figures>>,
}

/// The chat as the HTTP service sees it.
pub struct Chat {
    calls: mpsc::Sender<Call>,
    revoked: RwLock<HashMap<UserId, Revocation>>,
    remote: ShardHandle,
    next_shard: AtomicUsize,
    ids_made: AtomicU64,
    is_stopping: AtomicBool,
    figures: Arc<LaneFigures>,
    limits: Limits,
    shards: u16,
    seed: u64,
}

/// The endpoint's side.
pub struct Calls(mpsc::Receiver<Call>);

impl Chat {
    pub fn new(
        remote: ShardHandle,
        shards: u16,
        seed: u64,
        limits: Limits,
        figures: Arc<LaneFigures>,
        revocations: &[Revocation],
    ) -> (Chat, Calls) {
        let (calls, receiver) = mpsc::channel(WAITING_LIMIT);
        let chat = Chat {
            calls,
            revoked: RwLock::new(revocations.iter().map(|r| (r.user, *r)).collect()),
            remote,
            next_shard: AtomicUsize::new(0),
            ids_made: AtomicU64::new(0),
            is_stopping: AtomicBool::new(false),
            figures,
            limits,
            shards,
            seed,
        };
        (chat, Calls(receiver))
    }

    /// From now on the server says that it is not ready.
    pub fn stopping(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    fn notify(&self, call: Call) {
        if self.calls.try_send(call).is_err() {
            // A lost publication is found at the next one, or when the heads are compared; who misses news can ask.
            tracing::error!("too many changes wait for the shards; one was dropped");
        }
    }
}

#[async_trait::async_trait]
impl uproar_http::Chat for Chat {
    async fn publish(&self, message: PublishRequest) -> Result<Stored, PublishError> {
        let number = self.ids_made.fetch_add(1, Ordering::Relaxed);
        let id = message.id.unwrap_or_else(|| format!("~{:x}.h.{number:x}", self.seed));
        let now_ms = driver::now().ms;
        let append = Append {
            // Each call is a sender of its own: nothing is said about the order of two calls.
            caller: Caller {
                endpoint: Endpoint::Http,
                slot: number as u32,
                generation: (number >> 32) as u32,
                serial: 0,
            },
            era: 0,
            deadline_ms: now_ms + self.limits.append_deadline_ms,
            item: Item {
                room: message.room,
                user: message.user.id,
                id: id.into(),
                kind: Kind::Message,
                target: message.reply_to,
                body: Some(message.text.into()),
            },
            username: message.user.username,
        };
        let (sender, receiver) = oneshot::channel();
        self.calls.try_send(Call::Publish(Box::new(append), sender)).map_err(|_| PublishError::Overloaded)?;
        // The lane answers at the deadline; this is for a server that stops meanwhile.
        let patience = Duration::from_millis(self.limits.append_deadline_ms + 1_000);
        match tokio::time::timeout(patience, receiver).await {
            Ok(Ok(Ok(Outcome::New(stored) | Outcome::Duplicate(stored)))) => Ok(stored),
            Ok(Ok(Ok(Outcome::Refused(refusal)))) => Err(PublishError::Refused(refusal)),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) | Err(_) => Err(PublishError::NotKnown),
        }
    }

    fn learn(&self, room: RoomId, publication: Publication) {
        self.notify(Call::Learn(room, Box::new(publication)));
    }

    fn close_room(&self, room: RoomId) {
        self.notify(Call::CloseRoom(room));
    }

    fn tell(&self, user: UserId, news: UserEvent) {
        self.notify(Call::Tell(user, news));
    }

    fn revoke(&self, revocation: Revocation) {
        {
            let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
            // What no living token can fall under is not kept.
            let oldest = revocation.at.saturating_sub(self.limits.revocations_kept_ms());
            revoked.retain(|_, known| known.at >= oldest);
            let known = revoked.entry(revocation.user).or_insert(revocation);
            if known.generation < revocation.generation {
                *known = revocation;
            }
        }
        self.notify(Call::Revoke(revocation));
    }

    fn current_generation(&self, user: UserId) -> Option<u32> {
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        revoked.get(&user).map(|revocation| revocation.generation)
    }

    fn adopt(&self, connection: uproar_http::Adopted) {
        let uproar_http::Adopted { socket, peer, head, rest } = connection;
        let shard = self.next_shard.fetch_add(1, Ordering::Relaxed) % usize::from(self.shards);
        if self.remote.adopt(shard, Adopted { stream: socket, peer, head, rest }).is_err() {
            tracing::warn!("a shard has too many connections to adopt; one was dropped");
        }
    }

    fn unready(&self) -> Option<String> {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Some("the server is stopping".into());
        }
        let is_stuck = self.figures.stuck_lanes.load(Ordering::Relaxed) > 0;
        is_stuck.then(|| "the database does not answer commits".into())
    }

    async fn metrics(&self) -> String {
        let (sender, receiver) = oneshot::channel();
        let asked = self.calls.try_send(Call::Count(sender)).is_ok();
        // A shard that does not answer within a second is busy, or the server stops.
        let answer = tokio::time::timeout(Duration::from_secs(1), receiver).await;
        let of_shards = if asked { answer.ok().and_then(Result::ok).unwrap_or_default() } else { Vec::new() };
        metrics::text(&of_shards, &self.figures)
    }
}

/// Runs the endpoint until the service is gone.
pub async fn run(mut port: Port<Message>, calls: Calls, placing: ahash::RandomState, shards: u16, limits: Limits) {
    let Calls(mut calls) = calls;
    let mut credits = vec![limits.mesh_calls_limit; usize::from(shards)];
    let mut publishes: HashMap<(u32, u32), oneshot::Sender<Result<Outcome, PublishError>>> = HashMap::new();
    let mut collections: HashMap<u32, Collection> = HashMap::new();
    let mut collected = 0u32;
    // Notices that have found no credit. They must arrive, and in order.
    let mut notices: VecDeque<(u16, Message)> = VecDeque::new();
    loop {
        let more = port.inbox.pop_each(|from, message| {
            let Endpoint::Shard(shard) = from else { return };
            let credit = &mut credits[usize::from(shard)];
            match message {
                Message::Taken => *credit += 1,
                Message::Appended { caller, result, is_last, .. } => {
                    *credit += u64::from(is_last);
                    if let Some(sender) = publishes.remove(&(caller.slot, caller.generation)) {
                        // Whoever asked may have gone.
                        let _ = sender.send(result.map_err(|_| PublishError::NotKnown));
                    }
                }
                Message::Counted { number, figures } => {
                    *credit += 1;
                    let Some(collection) = collections.get_mut(&number) else { return };
                    collection.of_shards[usize::from(shard)] = Some(*figures);
                    if collection.of_shards.iter().all(Option::is_some)
                        && let Some(Collection { of_shards, sender }) = collections.remove(&number)
                    {
                        let _ = sender.send(of_shards.into_iter().flatten().collect());
                    }
                }
                other => debug_assert!(false, "a shard sent HTTP {other:?}"),
            }
        });
        while let Some((shard, _)) = notices.front() {
            let credit = &mut credits[usize::from(*shard)];
            let Some((shard, message)) = (*credit > 0).then(|| notices.pop_front()).flatten() else { break };
            *credit -= 1;
            let pushed = port.outbox.push(Endpoint::Shard(shard), message);
            debug_assert!(pushed.is_ok(), "each credit has a place");
        }
        port.outbox.flush();
        if more {
            continue;
        }
        let call = tokio::select! {
            () = port.inbox.woken() => continue,
            call = calls.recv() => call,
        };
        let home = |room| home_shard(&placing, &Channel::Room(room), shards);
        match call {
            None => return,
            Some(Call::Publish(append, sender)) => {
                let shard = home(append.item.room);
                let credit = &mut credits[usize::from(shard)];
                if *credit == 0 {
                    let _ = sender.send(Err(PublishError::Overloaded));
                    continue;
                }
                *credit -= 1;
                publishes.insert((append.caller.slot, append.caller.generation), sender);
                let pushed = port.outbox.push(Endpoint::Shard(shard), Message::Append(append));
                debug_assert!(pushed.is_ok(), "each credit has a place");
            }
            Some(Call::Learn(room, publication)) => {
                notices.push_back((home(room), Message::Learn { room, publication }));
            }
            Some(Call::CloseRoom(room)) => notices.push_back((home(room), Message::CloseRoom { room })),
            Some(Call::Count(sender)) => {
                collected = collected.wrapping_add(1);
                // Whoever gave up waiting needs no answer.
                collections.retain(|_, collection| !collection.sender.is_closed());
                let of_shards = (0..shards).map(|_| None).collect();
                collections.insert(collected, Collection { of_shards, sender });
                notices.extend((0..shards).map(|shard| (shard, Message::Count { number: collected })));
            }
            Some(Call::Revoke(revocation)) => {
                notices.extend((0..shards).map(|shard| (shard, Message::Revoke(revocation))));
            }
            Some(Call::Tell(user, news)) => {
                // Where other notices already wait for credits, news would only hold them up.
                if notices.len() < WAITING_LIMIT {
                    let message = |shard| (shard, Message::Tell { user, news: news.clone() });
                    notices.extend((0..shards).map(message));
                }
            }
        }
    }
}
