//! Answers the shards' requests from the store. Requests that wait at the same time share queries: memberships, heads
//! and read markers are each read by one query, and equal pages are read once. It also writes the markers that have
//! moved, many at a time.
//!
//! No user can make the others wait: each kind of query has places of its own, users are served in turn, and what
//! nobody waits for any more is not read.

use super::markers::{MARKERS_LIMIT, Markers};
use super::waiting::{Admission, Asked, Kind, ReplyTo, SweepAsked, Waiting, Wanted};
use crate::mesh::Port;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{self, JoinSet};
use tokio::time::{Instant, sleep_until};
use uproar_core::message::{Asker, Found, Message, Party, StoreReply, StoreRequest};
use uproar_model::{Marker, Offset, RoomId, Swept, User, UserId, fold_name, shown_name};
use uproar_store::{CreateUserError, PageRequest, SharedStore, StoreError};

/// Memberships, heads or markers in one query.
const BATCH_LIMIT: usize = 512;

/// Joins in one transaction, which occupies SQLite's only writer.
const JOINS_LIMIT: usize = 128;

/// Markers written by one statement, which occupies SQLite's only writer.
const WRITE_LIMIT: usize = 1_024;

/// A query, and where its results go.
enum Query {
    /// Finds out who is a member, or may join.
    Admit(Vec<Admission>),
    Join(Vec<Admission>),
    Heads(Vec<(RoomId, ReplyTo)>),
    Sweep(Vec<SweepAsked>),
    Page(RoomId, PageRequest, Vec<(ReplyTo, Asker)>),
    User(Wanted, Vec<ReplyTo>),
    Markers(Vec<(RoomId, UserId)>),
    Rooms {
        user: UserId,
        after: Option<String>,
        limit: usize,
        reply_to: ReplyTo,
    },
}

enum QueryResult {
    Replies(Vec<(ReplyTo, StoreReply)>),
    /// Replies, and the requests of those who have to join the room.
    Admitted(Vec<(ReplyTo, StoreReply)>, Vec<Admission>),
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
            Some(result) = reader.queries.join_next_with_id() => reader.on_query_end(result),
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
    waiting: Waiting,
    queries: JoinSet<QueryResult>,
    /// The kinds of the queries that run.
    running: HashMap<task::Id, Kind>,
    replies: Vec<(ReplyTo, StoreReply)>,
    markers: Markers<ReplyTo>,
    /// At most one write; in a set, so that it is aborted with the reader.
    write: JoinSet<Written>,
    /// When to write the markers. None: there are no new ones, or they are being written.
    write_at: Option<Instant>,
}

impl Reader {
    fn new(port: Port<Message>, store: SharedStore, markers_interval: Duration) -> Reader {
        let markers = Markers::new(store.unwritten_markers(), MARKERS_LIMIT);
        Reader {
            port,
            store,
            markers_interval,
            waiting: Waiting::new(),
            queries: JoinSet::new(),
            running: HashMap::new(),
            replies: Vec::new(),
            markers,
            write: JoinSet::new(),
            write_at: None,
        }
    }

    /// Takes the shards' requests. True: there are more.
    fn take_requests(&mut self) -> bool {
        let Reader { port, markers, waiting, replies, .. } = self;
        port.inbox.pop_each(|from, message| match message {
            Message::Read { requester, request: StoreRequest::MarkRead { room, user, marker }, .. } => {
                markers.mark((from, requester), room, user, marker, replies);
            }
            Message::Read { requester, asker, request } => {
                waiting.add(Asked { reply_to: (from, requester), asker, request }, replies);
            }
            other => debug_assert!(false, "{from:?} sent the reader {other:?}"),
        })
    }

    fn start_queries(&mut self) {
        for kind in Kind::ALL {
            while self.running.values().filter(|running| **running == kind).count() < kind.places()
                && let Some(query) = self.next_query(kind)
            {
                let task = self.queries.spawn(run_query(Arc::clone(&self.store), query));
                self.running.insert(task.id(), kind);
            }
        }
    }

    /// The next query of a kind, with as many of the waiting requests as can share it.
    fn next_query(&mut self, kind: Kind) -> Option<Query> {
        match kind {
            Kind::Admit => {
                let asked = std::iter::from_fn(|| self.waiting.next_admission());
                let admits: Vec<_> = asked.take(BATCH_LIMIT).collect();
                (!admits.is_empty()).then_some(Query::Admit(admits))
            }
            Kind::Join => {
                let asked = std::iter::from_fn(|| self.waiting.next_join());
                let joins: Vec<_> = asked.take(JOINS_LIMIT).collect();
                (!joins.is_empty()).then_some(Query::Join(joins))
            }
            Kind::Heads => {
                let heads = self.waiting.take_heads(BATCH_LIMIT);
                (!heads.is_empty()).then_some(Query::Heads(heads))
            }
            Kind::Sweep => {
                let sweeps = self.waiting.take_sweeps();
                (!sweeps.is_empty()).then_some(Query::Sweep(sweeps))
            }
            Kind::Markers => self.markers.take_to_read(BATCH_LIMIT).map(Query::Markers),
            Kind::User => self.waiting.next_user().map(|(user, reply_to)| Query::User(user, reply_to)),
            Kind::Page => self.waiting.next_page().map(|((room, request), askers)| Query::Page(room, request, askers)),
            Kind::Rooms => {
                let asked = self.waiting.next_rooms();
                asked.map(|(user, after, limit, reply_to)| Query::Rooms { user, after, limit, reply_to })
            }
        }
    }

    fn send_replies(&mut self) {
        let answers =
            self.replies.drain(..).map(|((to, requester), reply)| (to, Message::ReadReply { requester, reply }));
        let unwanted = self.waiting.unwanted.drain(..).map(|to| (to, Message::CreditReturned));
        for (to, message) in answers.chain(unwanted) {
            let pushed = self.port.outbox.push(to, message);
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

    fn on_query_end(&mut self, result: Result<(task::Id, QueryResult), task::JoinError>) {
        match result {
            Ok((id, result)) => {
                self.running.remove(&id);
                self.on_result(result);
            }
            // After a panic, which the panic hook has reported, the requests run into their deadlines.
            Err(error) => _ = self.running.remove(&error.id()),
        }
    }

    fn on_result(&mut self, result: QueryResult) {
        match result {
            QueryResult::Replies(replies) => self.replies.extend(replies),
            QueryResult::Admitted(replies, joins) => {
                self.replies.extend(replies);
                for join in joins {
                    self.waiting.add_join(join, &mut self.replies);
                }
            }
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

async fn run_query(store: SharedStore, query: Query) -> QueryResult {
    let failed = |error: &StoreError| {
        error.log("the database did not answer a query");
        StoreReply::Failed
    };
    let replies = match query {
        Query::Admit(requests) => {
            let pairs: Vec<_> = requests.iter().map(|(room, user, ..)| (room.clone(), *user)).collect();
            let admissions = match store.admit_members(&pairs).await {
                Ok(admissions) => admissions,
                Err(error) => {
                    let reply_to = requests.into_iter().map(|(.., reply_to, _)| reply_to);
                    return QueryResult::Replies(reply_to.zip(std::iter::repeat(failed(&error))).collect());
                }
            };
            let (mut replies, mut joins) = (Vec::new(), Vec::new());
            for (request, admission) in requests.into_iter().zip(admissions) {
                match admission.transpose() {
                    Some(admission) => replies.push((request.3, StoreReply::Admitted(admission))),
                    None if request.2 => joins.push(request),
                    None => replies.push((request.3, StoreReply::NotMember)),
                }
            }
            return QueryResult::Admitted(replies, joins);
        }
        Query::Join(requests) => {
            let pairs: Vec<_> = requests.iter().map(|(room, user, ..)| (room.clone(), *user)).collect();
            let reply_to = requests.into_iter().map(|(.., reply_to, _)| reply_to);
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
        Query::Sweep(requests) => {
            let all: Vec<_> = requests.iter().flat_map(|(heads, _)| heads).copied().collect();
            match store.sweep(&all).await {
                Ok(Swept { generation, heads: changed }) => {
                    let of = |(asked, reply_to): (Vec<(RoomId, Offset)>, ReplyTo)| {
                        let is_asked = |room: &RoomId| asked.binary_search_by_key(room, |(asked, _)| *asked).is_ok();
                        let heads = changed.iter().filter(|(room, _)| is_asked(room)).cloned().collect();
                        (reply_to, StoreReply::Swept(Arc::new(Swept { generation, heads })))
                    };
                    requests.into_iter().map(of).collect()
                }
                Err(error) => requests.into_iter().map(|(_, to)| to).zip(std::iter::repeat(failed(&error))).collect(),
            }
        }
        Query::Page(room, request, askers) => {
            let viewer = |asker: &Asker| match asker.party {
                Party::User(user) => Some(user),
                _ => None,
            };
            let mut viewers: Vec<UserId> = askers.iter().filter_map(|(_, asker)| viewer(asker)).collect();
            viewers.sort_unstable();
            viewers.dedup();
            let (answer, members) = match store.page(room, request, &viewers).await {
                Ok(Some((page, members))) => (StoreReply::Page(Some(Arc::new(page))), members),
                Ok(None) => (StoreReply::Page(None), viewers),
                Err(error) => (failed(&error), viewers),
            };
            let may_see = |asker: &Asker| viewer(asker).is_none_or(|user| members.binary_search(&user).is_ok());
            let reply = |asker: &Asker| if may_see(asker) { answer.clone() } else { StoreReply::NotMember };
            askers.into_iter().map(|(reply_to, asker)| (reply_to, reply(&asker))).collect()
        }
        Query::User(wanted, reply_to) => {
            let account = match wanted {
                Wanted::Id(user) => store.account(user).await.map_err(CreateUserError::from).transpose(),
                Wanted::Named(username, Some(identity)) => Some(store.ensure_identity(&identity, &username).await),
                Wanted::Named(username, None) => match fold_name(&username) {
                    Ok(key) => Some(store.ensure_user(&shown_name(&username), &key).await),
                    // The token has a name that no user can have.
                    Err(_) => None,
                },
            };
            let answer = match account {
                None => StoreReply::User(None),
                Some(Ok(account)) => {
                    StoreReply::User(Some(Found { user: User::from(&account), revocation: account.revocation() }))
                }
                Some(Err(CreateUserError::Store(error))) => failed(&error),
                Some(Err(error)) => failed(&StoreError::Failed(error.to_string())),
            };
            reply_to.into_iter().zip(std::iter::repeat(answer)).collect()
        }
        Query::Markers(pairs) => {
            let stored = store.read_markers(&pairs).await;
            let stored = stored.inspect_err(|error| _ = failed(error)).ok();
            return QueryResult::Markers(pairs, stored);
        }
        Query::Rooms { user, after, limit, reply_to } => {
            let answer = match store.rooms_of(user, after.as_deref(), limit).await {
                Ok(rooms) => StoreReply::Rooms(rooms),
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
    use uproar_core::message::{Caller, Endpoint, Interest, Requester};
    use uproar_core::{Serial, Slot};
    use uproar_store::memory::SharedMemoryStore;
    use uproar_store::{NewRoom, Role, RoomKind};

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
                let asker = Asker::home(self.room);
                self.shard.outbox.push(Endpoint::Reader, Message::Read { requester, asker, request }).unwrap();
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

    /// One query reads a page for everybody, and tells who may see it.
    #[tokio::test]
    async fn a_page_is_only_for_members_and_homes() {
        let world = World::new(Duration::from_secs(3600));
        let asked = |party, serial| {
            let caller = Caller { endpoint: SHARD, slot: Slot(0), generation: 0, serial: Serial(serial) };
            ((SHARD, Requester::Call(caller)), Asker::new(party, &Interest::default()))
        };
        let parties = [Party::User(world.ben), Party::Home(world.room), Party::User(world.ann), Party::User(world.ben)];
        let askers = || parties.iter().cloned().zip(0..).map(|(party, serial)| asked(party, serial)).collect();
        let request = PageRequest { from: 0, ascending: true, up_to: 9, items_limit: 9, bytes_limit: 9 };
        let read = async |room| {
            let query = Query::Page(room, request, askers());
            let QueryResult::Replies(replies) = run_query(Arc::clone(&world.store) as SharedStore, query).await else {
                panic!("not the answer to a page");
            };
            let reply = |reply| match reply {
                StoreReply::Page(Some(_)) => "page",
                StoreReply::Page(None) => "no room",
                StoreReply::NotMember => "not a member",
                other => panic!("{other:?}"),
            };
            replies.into_iter().map(|(_, answer)| reply(answer)).collect::<Vec<_>>()
        };
        assert_eq!(read(world.room).await, ["not a member", "page", "page", "not a member"]);
        assert_eq!(read(RoomId(99)).await, ["no room"; 4]);
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

    /// Members once waited until others had joined.
    #[tokio::test]
    async fn an_admission_answers_members_and_leaves_joins_for_later() {
        let world = World::new(Duration::from_secs(3600));
        let ask = |user, serial, may_join| {
            let caller = Caller { endpoint: SHARD, slot: Slot(0), generation: 0, serial: Serial(serial) };
            ("lobby".to_owned(), user, may_join, (SHARD, Requester::Call(caller)), Asker::home(world.room))
        };
        let query = Query::Admit(vec![ask(world.ben, 1, true), ask(world.ann, 2, true), ask(world.ben, 3, false)]);
        let QueryResult::Admitted(replies, joins) = run_query(Arc::clone(&world.store) as SharedStore, query).await
        else {
            panic!("not the answer to an admission");
        };
        let [(_, StoreReply::Admitted(Ok(admission))), (_, StoreReply::NotMember)] = &replies[..] else {
            panic!("{replies:?}")
        };
        assert_eq!(admission.role, Role::Owner);
        assert!(matches!(&joins[..], [(_, user, ..)] if *user == world.ben));
        assert_eq!(world.store.lock().read_markers(&[(world.room, world.ben)]), [None], "nobody has joined yet");
    }

    #[tokio::test]
    async fn those_who_are_no_members_yet_join() {
        let mut world = World::new(Duration::from_secs(3600));
        let admit = |user| StoreRequest::Admit { room: "lobby".to_owned(), user };
        let (ann, ben) = (world.ann, world.ben);
        let answers = world.request(vec![admit(ben), admit(ann), admit(ben)]).await;
        let joined = |answer: &StoreReply| match answer {
            StoreReply::Admitted(admission) => admission.as_ref().unwrap().joined,
            other => panic!("{other:?}"),
        };
        assert_eq!(answers.iter().map(joined).collect::<Vec<_>>(), [true, false, false]);
        world.reader.abort();
    }

    /// Sends a question for a user's rooms.
    fn ask(world: &mut World, user: UserId, serial: u32, interest: &Interest) {
        let caller = Caller { endpoint: SHARD, slot: Slot(0), generation: 0, serial: Serial(serial) };
        let asker = Asker::new(Party::User(user), interest);
        let request = StoreRequest::Rooms { user, after: None, limit: 9 };
        let message = Message::Read { requester: Requester::Call(caller), asker, request };
        world.shard.outbox.push(Endpoint::Reader, message).unwrap();
    }

    #[tokio::test]
    async fn a_request_that_nobody_waits_for_is_dropped_and_its_credit_returned() {
        let mut world = World::new(Duration::from_secs(3600));
        let (gone, waits) = (Interest::default(), Interest::default());
        let (ann, ben) = (world.ann, world.ben);
        ask(&mut world, ann, 1, &gone);
        ask(&mut world, ben, 2, &waits);
        drop(gone);
        world.shard.outbox.flush();
        let mut answers = Vec::new();
        while answers.len() < 2 {
            tokio::task::yield_now().await;
            world.shard.inbox.pop_each(|_, message| {
                answers.push(match message {
                    Message::CreditReturned => None,
                    Message::ReadReply { requester: Requester::Call(caller), .. } => Some(caller.serial),
                    other => panic!("{other:?}"),
                });
            });
        }
        answers.sort();
        assert_eq!(answers, [None, Some(Serial(2))]);
    }
}
