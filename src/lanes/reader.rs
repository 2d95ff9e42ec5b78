//! Answers the shards' requests from the store. Requests that wait at the same time share queries: memberships, heads
//! and read markers are each read by one query, and equal pages are read once. It also writes the markers that have
//! moved, many at a time.

use super::markers::{MARKERS_LIMIT, Markers, overlay};
use crate::mesh::Port;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use uproar_core::message::{Endpoint, Found, Message, Requester, StoreReply, StoreRequest};
use uproar_model::{Marker, RoomId, User, UserId, fold_name};
use uproar_store::{PageRequest, SharedStore};

/// Queries that run at the same time. Further requests wait, and share queries with those that arrive later.
const QUERIES_LIMIT: usize = 16;

/// Memberships, heads or markers in one query.
const BATCH_LIMIT: usize = 512;

/// Markers written by one statement, which occupies SQLite's only writer.
const WRITE_LIMIT: usize = 1_024;

/// Where a reply goes.
type ReplyTo = (Endpoint, Requester);

/// A query, and where its results go.
enum Query {
    Admit(Vec<(String, UserId, ReplyTo)>),
    Heads(Vec<(RoomId, ReplyTo)>),
    Page(RoomId, PageRequest, Vec<ReplyTo>),
    User(Arc<str>, Vec<ReplyTo>),
    Markers(Vec<(RoomId, UserId)>),
    Rooms {
        user: UserId,
        after: Option<String>,
        limit: usize,
        /// The user's markers that the database may not have.
        unwritten: HashMap<RoomId, Marker>,
        reply_to: ReplyTo,
    },
}

enum QueryResult {
    Replies(Vec<(ReplyTo, StoreReply)>),
    /// The stored markers of these pairs. `None` instead of the list: the store did not answer.
    Markers(Vec<(RoomId, UserId)>, Option<Vec<Option<Marker>>>),
}

/// The result of a write: the markers, how many of them were written, counted from the first, and whether that was all.
type Written = (Vec<(RoomId, UserId, Marker)>, usize, bool);

/// Everything the reader needs.
pub struct ReaderSetup {
    pub port: Port<Message>,
    pub store: SharedStore,
    /// How long a marker that has moved may wait before it is written.
    pub markers_interval: Duration,
    /// Turns true when no more requests will come.
    pub stop: watch::Receiver<bool>,
}

/// Runs until it is told to stop, and has written its markers or failed to.
pub async fn run_reader(setup: ReaderSetup) {
    let ReaderSetup { port, store, markers_interval, mut stop } = setup;
    let mut reader = Reader::new(port, store, markers_interval);
    while !*stop.borrow() {
        let more = reader.take_requests();
        reader.start_queries();
        reader.send_replies();
        if more {
            continue;
        }
        reader.start_write_if_due();
        let write_at = reader.write_at;
        tokio::select! {
            () = reader.port.inbox.woken() => {}
            Some(result) = reader.queries.join_next() => {
                // After a panic, which the panic hook has reported, the requests run into their deadlines.
                if let Ok(result) = result {
                    reader.on_result(result);
                }
            }
            // After a panic, which the panic hook has reported, nothing counts as written.
            Some(written) = reader.write.join_next() => reader.on_written(written.unwrap_or_default()),
            () = sleep_until(write_at.unwrap_or_else(Instant::now)), if write_at.is_some() => {}
            Ok(()) = stop.changed() => {}
        }
    }
    reader.write_rest().await;
}

struct Reader {
    port: Port<Message>,
    store: SharedStore,
    markers_interval: Duration,
    /// Requests that are not part of a query yet.
    requests: Vec<(ReplyTo, StoreRequest)>,
    /// Queries that have not started.
    queue: VecDeque<Query>,
    queries: JoinSet<QueryResult>,
    replies: Vec<(ReplyTo, StoreReply)>,
    markers: Markers<ReplyTo>,
    /// At most one write; in a set, so that it is aborted with the reader.
    write: JoinSet<Written>,
    /// When to write the markers. None: there are no new ones, or they are being written.
    write_at: Option<Instant>,
}

impl Reader {
    fn new(port: Port<Message>, store: SharedStore, markers_interval: Duration) -> Reader {
        Reader {
            port,
            store,
            markers_interval,
            requests: Vec::new(),
            queue: VecDeque::new(),
            queries: JoinSet::new(),
            replies: Vec::new(),
            markers: Markers::new(MARKERS_LIMIT),
            write: JoinSet::new(),
            write_at: None,
        }
    }

    /// Takes the shards' requests. True: there are more.
    fn take_requests(&mut self) -> bool {
        let Reader { port, markers, requests, replies, .. } = self;
        port.inbox.pop_each(|from, message| match message {
            Message::Read { requester, request: StoreRequest::MarkRead { room, user, marker } } => {
                markers.mark((from, requester), room, user, marker, replies);
            }
            Message::Read { requester, request } => requests.push(((from, requester), request)),
            other => debug_assert!(false, "{from:?} sent the reader {other:?}"),
        })
    }

    fn start_queries(&mut self) {
        // As long as queries are queued, requests gather, so that they can share the next ones.
        if self.queue.is_empty() {
            self.queue.extend(combine(std::mem::take(&mut self.requests), &self.markers));
            while let Some(pairs) = self.markers.take_to_read(BATCH_LIMIT) {
                self.queue.push_back(Query::Markers(pairs));
            }
        }
        while self.queries.len() < QUERIES_LIMIT
            && let Some(query) = self.queue.pop_front()
        {
            self.queries.spawn(run_query(Arc::clone(&self.store), query));
        }
    }

    fn send_replies(&mut self) {
        for ((to, requester), reply) in self.replies.drain(..) {
            let pushed = self.port.outbox.push(to, Message::ReadReply { requester, reply });
            debug_assert!(pushed.is_ok(), "room for each reply is reserved");
        }
        self.port.outbox.flush();
    }

    fn start_write_if_due(&mut self) {
        if !self.write.is_empty() || !self.markers.has_unwritten() {
            return;
        }
        let at = *self.write_at.get_or_insert_with(|| Instant::now() + self.markers_interval);
        if (self.markers.must_write_now() || at <= Instant::now())
            && let Some(batch) = self.markers.take_to_write()
        {
            self.write_at = None;
            self.write.spawn(write_markers(Arc::clone(&self.store), batch));
        }
    }

    fn on_result(&mut self, result: QueryResult) {
        match result {
            QueryResult::Replies(replies) => self.replies.extend(replies),
            QueryResult::Markers(pairs, stored) => self.markers.on_read(&pairs, stored, &mut self.replies),
        }
    }

    fn on_written(&mut self, written: Written) {
        let (batch, count, all) = written;
        if !all && !self.markers.is_failing() {
            tracing::warn!("can't write read markers to the database; they are kept in memory and tried again");
        }
        self.markers.on_written(&batch[..count], all, &mut self.replies);
    }

    /// Writes the remaining markers before the reader ends. Nobody waits for replies any more.
    async fn write_rest(&mut self) {
        // A write that is under way may lack markers that have moved since.
        if let Some(written) = self.write.join_next().await {
            self.on_written(written.unwrap_or_default());
        }
        if let Some(batch) = self.markers.take_to_write() {
            let written = write_markers(Arc::clone(&self.store), batch).await;
            self.on_written(written);
            if self.markers.is_failing() {
                tracing::warn!("the last read markers are lost, because the database did not take them");
            }
        }
    }
}

async fn write_markers(store: SharedStore, batch: Vec<(RoomId, UserId, Marker)>) -> Written {
    let mut count = 0;
    for part in batch.chunks(WRITE_LIMIT) {
        if let Err(error) = store.mark_read(part).await {
            tracing::debug!(%error, "read markers were not written");
            return (batch, count, false);
        }
        count += part.len();
    }
    (batch, count, true)
}

/// Combines requests into as few queries as possible.
fn combine(requests: Vec<(ReplyTo, StoreRequest)>, markers: &Markers<ReplyTo>) -> Vec<Query> {
    let mut queries = Vec::new();
    let mut admits = Vec::new();
    let mut heads = Vec::new();
    let mut pages: HashMap<(RoomId, PageRequest), Vec<ReplyTo>> = HashMap::new();
    let mut users: HashMap<Arc<str>, Vec<ReplyTo>> = HashMap::new();
    for (reply_to, request) in requests {
        match request {
            StoreRequest::Admit { room, user } => admits.push((room, user, reply_to)),
            StoreRequest::Head { room } => heads.push((room, reply_to)),
            StoreRequest::Page { room, request } => pages.entry((room, request)).or_default().push(reply_to),
            StoreRequest::User { username } => users.entry(username).or_default().push(reply_to),
            StoreRequest::Rooms { user, after, limit } => {
                queries.push(Query::Rooms { user, after, limit, unwritten: markers.of_user(user), reply_to });
            }
            StoreRequest::MarkRead { .. } => debug_assert!(false, "take_requests gives these to the markers"),
        }
    }
    while !admits.is_empty() {
        queries.push(Query::Admit(admits.split_off(admits.len().saturating_sub(BATCH_LIMIT))));
    }
    while !heads.is_empty() {
        queries.push(Query::Heads(heads.split_off(heads.len().saturating_sub(BATCH_LIMIT))));
    }
    queries.extend(pages.into_iter().map(|((room, request), reply_to)| Query::Page(room, request, reply_to)));
    queries.extend(users.into_iter().map(|(username, reply_to)| Query::User(username, reply_to)));
    queries
}

async fn run_query(store: SharedStore, query: Query) -> QueryResult {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "the database did not answer a query");
        StoreReply::Failed
    };
    let replies = match query {
        Query::Admit(requests) => {
            let pairs: Vec<_> = requests.iter().map(|(room, user, _)| (room.clone(), *user)).collect();
            let reply_to = requests.into_iter().map(|(.., reply_to)| reply_to);
            match store.admit(&pairs).await {
                Ok(admissions) => reply_to.zip(admissions.into_iter().map(StoreReply::Admitted)).collect(),
                Err(error) => reply_to.zip(std::iter::repeat(failed(&error))).collect(),
            }
        }
        Query::Heads(requests) => {
            let rooms: Vec<RoomId> = requests.iter().map(|(room, _)| *room).collect();
            let reply_to = requests.into_iter().map(|(_, reply_to)| reply_to);
            match store.heads(&rooms).await {
                Ok(heads) => reply_to.zip(heads.into_iter().map(StoreReply::Head)).collect(),
                Err(error) => reply_to.zip(std::iter::repeat(failed(&error))).collect(),
            }
        }
        Query::Page(room, request, reply_to) => {
            let answer = match store.page(room, request).await {
                Ok(page) => StoreReply::Page(page.map(Arc::new)),
                Err(error) => failed(&error),
            };
            reply_to.into_iter().zip(std::iter::repeat(answer)).collect()
        }
        Query::User(username, reply_to) => {
            let answer = match fold_name(&username) {
                // The token has a name that no user can have.
                Err(_) => StoreReply::User(None),
                Ok(key) => match store.ensure_user(&username, &key).await {
                    Ok(account) => {
                        StoreReply::User(Some(Found { user: User::from(&account), revocation: account.revocation() }))
                    }
                    Err(error) => failed(&error),
                },
            };
            reply_to.into_iter().zip(std::iter::repeat(answer)).collect()
        }
        Query::Markers(pairs) => {
            let stored = store.read_markers(&pairs).await;
            let stored = stored.inspect_err(|error| _ = failed(error)).ok();
            return QueryResult::Markers(pairs, stored);
        }
        Query::Rooms { user, after, limit, unwritten, reply_to } => {
            let answer = match store.rooms_of(user, after.as_deref(), limit).await {
                Ok(mut rooms) => {
                    overlay(&mut rooms, &unwritten);
                    StoreReply::Rooms(rooms)
                }
                Err(error) => failed(&error),
            };
            vec![(reply_to, answer)]
        }
    };
    QueryResult::Replies(replies)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Mesh;
    use uproar_core::message::Caller;
    use uproar_core::{Serial, Slot};
    use uproar_store::memory::SharedMemoryStore;
    use uproar_store::{NewRoom, RoomKind};

    const SHARD: Endpoint = Endpoint::Shard(0);

    struct World {
        shard: Port<Message>,
        store: Arc<SharedMemoryStore>,
        stop: watch::Sender<bool>,
        reader: tokio::task::JoinHandle<()>,
        room: RoomId,
        ann: UserId,
        ben: UserId,
    }

    impl World {
        /// Starts a reader for one shard, with the room "lobby" that Ann owns and Ben is not a member of.
        fn new(markers_interval: Duration) -> World {
            let store = Arc::new(SharedMemoryStore::default());
            let ann = store.lock().ensure_user("Ann", "ann");
            let ben = store.lock().ensure_user("Ben", "ben");
            let (name, title) = ("lobby".to_owned(), "Lobby".to_owned());
            let lobby = NewRoom { name, title, kind: RoomKind::Public, size: 9, owner: ann };
            let room = store.lock().create_room(0, lobby).unwrap().id;
            let Mesh { mut shards, reader, .. } = Mesh::new(1, 0, |_, _| 16).unwrap();
            let (stop, stopped) = watch::channel(false);
            let setup =
                ReaderSetup { port: reader, store: Arc::clone(&store) as SharedStore, markers_interval, stop: stopped };
            let reader = tokio::spawn(run_reader(setup));
            World { shard: shards.pop().unwrap(), store, stop, reader, room, ann, ben }
        }

        /// Sends all requests together, and returns the answers in the order of the requests.
        async fn request(&mut self, requests: Vec<StoreRequest>) -> Vec<StoreReply> {
            let count = requests.len();
            for (serial, request) in requests.into_iter().enumerate() {
                let caller = Caller { endpoint: SHARD, slot: Slot(0), generation: 0, serial: Serial(serial as u32) };
                let requester = Requester::Call(caller);
                self.shard.outbox.push(Endpoint::Reader, Message::Read { requester, request }).unwrap();
            }
            self.shard.outbox.flush();
            let mut answers = Vec::new();
            while answers.len() < count {
                tokio::task::yield_now().await;
                self.shard.inbox.pop_each(|_, message| match message {
                    Message::ReadReply { requester: Requester::Call(caller), reply } => {
                        answers.push((caller.serial, reply));
                    }
                    other => panic!("{other:?}"),
                });
            }
            answers.sort_by_key(|(serial, _)| *serial);
            answers.into_iter().map(|(_, answer)| answer).collect()
        }

        fn mark(&self, user: UserId, offset: u64) -> StoreRequest {
            StoreRequest::MarkRead { room: self.room, user, marker: Marker { offset, number: offset } }
        }

        fn stored(&self) -> u64 {
            self.store.lock().read_markers(&[(self.room, self.ann)])[0].unwrap().offset
        }

        async fn listed(&mut self) -> u64 {
            let rooms = StoreRequest::Rooms { user: self.ann, after: None, limit: 9 };
            match &self.request(vec![rooms]).await[..] {
                [StoreReply::Rooms(rooms)] if rooms.len() == 1 && rooms[0].name == "lobby" => rooms[0].read.offset,
                other => panic!("{other:?}"),
            }
        }

        async fn stop(self) -> Arc<SharedMemoryStore> {
            self.stop.send(true).unwrap();
            self.reader.await.unwrap();
            self.store
        }
    }

    fn marked(answers: &[StoreReply]) -> Vec<Option<(u64, bool)>> {
        let marked = |answer: &StoreReply| match answer {
            StoreReply::Marked(marker) => marker.map(|(marker, moved)| (marker.offset, moved)),
            other => panic!("{other:?}"),
        };
        answers.iter().map(marked).collect()
    }

    #[tokio::test]
    async fn markers_count_immediately_and_are_written_when_the_server_stops() {
        let mut world = World::new(Duration::from_secs(3600));
        assert_eq!(world.listed().await, 0);
        let requests = vec![world.mark(world.ann, 3), world.mark(world.ben, 3), world.mark(world.ann, 2)];
        assert_eq!(marked(&world.request(requests).await), [Some((3, true)), None, Some((3, false))]);
        let requests = vec![world.mark(world.ann, 7)];
        assert_eq!(marked(&world.request(requests).await), [Some((7, true))]);
        assert_eq!((world.stored(), world.listed().await), (0, 7));
        let (room, ann) = (world.room, world.ann);
        let store = world.stop().await;
        assert_eq!(store.lock().read_markers(&[(room, ann)]), [Some(Marker { offset: 7, number: 7 })]);
    }

    #[tokio::test]
    async fn markers_are_written_when_the_interval_has_passed() {
        let mut world = World::new(Duration::from_millis(1));
        for offset in 1..=3 {
            let requests = vec![world.mark(world.ann, offset)];
            assert_eq!(marked(&world.request(requests).await), [Some((offset, true))]);
            while world.stored() < offset {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(world.listed().await, offset);
        }
        world.stop().await;
    }

    #[tokio::test]
    async fn a_reader_goes_on_when_the_sender_of_stop_is_dropped() {
        let mut world = World::new(Duration::from_secs(3600));
        let (other, _) = watch::channel(false);
        // This happens when starting the server fails half way.
        drop(std::mem::replace(&mut world.stop, other));
        let requests = vec![world.mark(world.ann, 3)];
        assert_eq!(marked(&world.request(requests).await), [Some((3, true))]);
        world.reader.abort();
    }
}
