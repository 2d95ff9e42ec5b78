//! The store's readers: answers what shards ask. What waits together is read together: memberships, heads and read
//! markers of all in one query each, equal pages once. Markers that move are written from here, many at once.

use super::markers::{KEPT_LIMIT, Markers, overlay};
use crate::mesh::Port;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use uproar_core::message::{Answer, Ask, Asker, Endpoint, Found, Message};
use uproar_model::{Marker, RoomId, User, UserId, fold_name};
use uproar_store::{PageRequest, SharedStore};

/// Queries under way at once. Further ones wait, and are joined with what comes meanwhile.
const QUERIES_LIMIT: usize = 16;

/// Most memberships, or heads, or markers, in one query.
const JOINED_LIMIT: usize = 512;

/// Most markers written in one statement: SQLite's one writer is held by it.
const WRITTEN_LIMIT: usize = 1_024;

type Question = (Endpoint, Asker);

/// Everything that waits for one answer.
enum Query {
    Admit(Vec<(String, UserId, Question)>),
    Heads(Vec<(RoomId, Question)>),
    Page(RoomId, PageRequest, Vec<Question>),
    User(Arc<str>, Vec<Question>),
    Markers(Vec<(RoomId, UserId)>),
    /// With the markers that the database may not have.
    Rooms {
        user: UserId,
        after: Option<String>,
        limit: usize,
        kept: HashMap<RoomId, Marker>,
        question: Question,
    },
}

/// What a query brings.
enum Finding {
    Answers(Vec<(Question, Answer)>),
    /// None: the store did not answer.
    Markers(Vec<(RoomId, UserId)>, Option<Vec<Option<Marker>>>),
}

/// Markers of which the first so many were written, and whether that was all.
type Written = (Vec<(RoomId, UserId, Marker)>, usize, bool);

/// What the readers need.
pub struct ReaderSetup {
    pub port: Port<Message>,
    pub store: SharedStore,
    /// How long a marker that has moved may wait before it is written.
    pub markers_interval: Duration,
    /// Turns true when nobody asks any more.
    pub stop: watch::Receiver<bool>,
}

/// Runs until it is told to stop, and has written what markers it has, or has tried to.
pub async fn run_reader(setup: ReaderSetup) {
    let ReaderSetup { mut port, store, markers_interval, mut stop } = setup;
    let mut waiting: Vec<(Question, Ask)> = Vec::new();
    // Joined, and waiting for their turn.
    let mut queries: VecDeque<Query> = VecDeque::new();
    let mut running: JoinSet<Finding> = JoinSet::new();
    let mut answers: Vec<(Question, Answer)> = Vec::new();
    let mut markers: Markers<Question> = Markers::new(KEPT_LIMIT);
    // One at most; with this task it ends too.
    let mut write: JoinSet<Written> = JoinSet::new();
    // When what is kept is written; none while there is nothing.
    let mut write_at: Option<Instant> = None;
    while !*stop.borrow() {
        let more = port.inbox.pop_each(|from, message| match message {
            Message::Ask { asker, ask: Ask::MarkRead { room, user, marker } } => {
                markers.mark((from, asker), room, user, marker, &mut answers);
            }
            Message::Ask { asker, ask } => waiting.push(((from, asker), ask)),
            other => debug_assert!(false, "{from:?} sent the reader {other:?}"),
        });
        // What comes while others have their turn is joined with what comes next.
        if queries.is_empty() {
            queries.extend(join(std::mem::take(&mut waiting), &markers));
            while let Some(pairs) = markers.take_to_read(JOINED_LIMIT) {
                queries.push_back(Query::Markers(pairs));
            }
        }
        while running.len() < QUERIES_LIMIT
            && let Some(query) = queries.pop_front()
        {
            running.spawn(run(Arc::clone(&store), query));
        }
        for ((to, asker), answer) in answers.drain(..) {
            let pushed = port.outbox.push(to, Message::Answer { asker, answer });
            debug_assert!(pushed.is_ok(), "each answer has a place reserved");
        }
        port.outbox.flush();
        if more {
            continue;
        }
        if write.is_empty() && markers.has_news() {
            let at = *write_at.get_or_insert_with(|| Instant::now() + markers_interval);
            if (markers.is_pressed() || at <= Instant::now())
                && let Some(batch) = markers.take_to_write()
            {
                write_at = None;
                write.spawn(write_markers(Arc::clone(&store), batch));
            }
        }
        tokio::select! {
            () = port.inbox.woken() => {}
            Some(finding) = running.join_next(), if !running.is_empty() => match finding {
                Ok(Finding::Answers(found)) => answers.extend(found),
                Ok(Finding::Markers(pairs, stored)) => markers.read(&pairs, stored, &mut answers),
                // A bug that the panic hook has reported; its askers run into their deadlines.
                Err(_) => {}
            },
            // One that panicked is a bug that the panic hook has reported, and wrote nothing.
            Some(outcome) = write.join_next() => note_written(&mut markers, outcome.unwrap_or_default(), &mut answers),
            () = sleep_until(write_at.unwrap_or_else(Instant::now)), if write_at.is_some() => {}
            Ok(()) = stop.changed() => {}
        }
    }
    // Whoever asks now is gone. A write that is under way may miss what has moved since.
    if let Some(outcome) = write.join_next().await {
        note_written(&mut markers, outcome.unwrap_or_default(), &mut answers);
    }
    if let Some(batch) = markers.take_to_write() {
        note_written(&mut markers, write_markers(store, batch).await, &mut answers);
        if markers.is_failing() {
            tracing::warn!("the last read markers are lost: the database does not take them");
        }
    }
}

fn note_written(markers: &mut Markers<Question>, outcome: Written, answers: &mut Vec<(Question, Answer)>) {
    let (batch, count, all) = outcome;
    if !all && !markers.is_failing() {
        tracing::warn!("read markers could not be written; they are kept, and tried again");
    }
    markers.written(&batch[..count], all, answers);
}

async fn write_markers(store: SharedStore, batch: Vec<(RoomId, UserId, Marker)>) -> Written {
    let mut count = 0;
    for part in batch.chunks(WRITTEN_LIMIT) {
        if let Err(error) = store.mark_read(part).await {
            tracing::debug!(%error, "read markers were not written");
            return (batch, count, false);
        }
        count += part.len();
    }
    (batch, count, true)
}

/// Joins questions into as few queries as can be.
fn join(questions: Vec<(Question, Ask)>, markers: &Markers<Question>) -> Vec<Query> {
    let mut queries = Vec::new();
    let mut admits = Vec::new();
    let mut heads = Vec::new();
    let mut pages: HashMap<(RoomId, PageRequest), Vec<Question>> = HashMap::new();
    let mut users: HashMap<Arc<str>, Vec<Question>> = HashMap::new();
    for (question, ask) in questions {
        match ask {
            Ask::Admit { room, user } => admits.push((room, user, question)),
            Ask::Head { room } => heads.push((room, question)),
            Ask::Page { room, request } => pages.entry((room, request)).or_default().push(question),
            Ask::User { username } => users.entry(username).or_default().push(question),
            Ask::Rooms { user, after, limit } => {
                queries.push(Query::Rooms { user, after, limit, kept: markers.of_user(user), question });
            }
            Ask::MarkRead { .. } => debug_assert!(false, "markers have a way of their own"),
        }
    }
    while !admits.is_empty() {
        queries.push(Query::Admit(admits.split_off(admits.len().saturating_sub(JOINED_LIMIT))));
    }
    while !heads.is_empty() {
        queries.push(Query::Heads(heads.split_off(heads.len().saturating_sub(JOINED_LIMIT))));
    }
    queries.extend(pages.into_iter().map(|((room, request), questions)| Query::Page(room, request, questions)));
    queries.extend(users.into_iter().map(|(username, questions)| Query::User(username, questions)));
    queries
}

async fn run(store: SharedStore, query: Query) -> Finding {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "the store did not answer");
        Answer::Failed
    };
    let answers = match query {
        Query::Admit(wanted) => {
            let pairs: Vec<_> = wanted.iter().map(|(room, user, _)| (room.clone(), *user)).collect();
            let questions = wanted.into_iter().map(|(.., question)| question);
            match store.admit(&pairs).await {
                Ok(admissions) => questions.zip(admissions.into_iter().map(Answer::Admitted)).collect(),
                Err(error) => questions.zip(std::iter::repeat(failed(&error))).collect(),
            }
        }
        Query::Heads(wanted) => {
            let rooms: Vec<RoomId> = wanted.iter().map(|(room, _)| *room).collect();
            let questions = wanted.into_iter().map(|(_, question)| question);
            match store.heads(&rooms).await {
                Ok(heads) => questions.zip(heads.into_iter().map(Answer::Head)).collect(),
                Err(error) => questions.zip(std::iter::repeat(failed(&error))).collect(),
            }
        }
        Query::Page(room, request, questions) => {
            let answer = match store.page(room, request).await {
                Ok(page) => Answer::Page(page.map(Arc::new)),
                Err(error) => failed(&error),
            };
            questions.into_iter().zip(std::iter::repeat(answer)).collect()
        }
        Query::User(username, questions) => {
            let answer = match fold_name(&username) {
                // Nobody can have such a name, whatever the token says.
                Err(_) => Answer::User(None),
                Ok(key) => match store.ensure_user(&username, &key).await {
                    Ok(account) => {
                        Answer::User(Some(Found { user: User::from(&account), revoked_at: account.revoked_at }))
                    }
                    Err(error) => failed(&error),
                },
            };
            questions.into_iter().zip(std::iter::repeat(answer)).collect()
        }
        Query::Markers(pairs) => {
            let stored = store.read_markers(&pairs).await;
            let stored = stored.inspect_err(|error| _ = failed(error)).ok();
            return Finding::Markers(pairs, stored);
        }
        Query::Rooms { user, after, limit, kept, question } => {
            let answer = match store.rooms_of(user, after.as_deref(), limit).await {
                Ok(mut rooms) => {
                    overlay(&mut rooms, &kept);
                    Answer::Rooms(rooms)
                }
                Err(error) => failed(&error),
            };
            vec![(question, answer)]
        }
    };
    Finding::Answers(answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Mesh;
    use uproar_core::message::Caller;
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
        /// A reader for one shard, and the room "lobby" of Ann's, in which Ben is not.
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

        /// Asks all of it at once: the answers in the order in which it was asked.
        async fn ask(&mut self, asks: Vec<Ask>) -> Vec<Answer> {
            let count = asks.len();
            for (serial, ask) in asks.into_iter().enumerate() {
                let caller = Caller { endpoint: SHARD, slot: 0, generation: 0, serial: serial as u32 };
                let asker = Asker::Connection(caller);
                self.shard.outbox.push(Endpoint::Reader, Message::Ask { asker, ask }).unwrap();
            }
            self.shard.outbox.flush();
            let mut answers = Vec::new();
            while answers.len() < count {
                tokio::task::yield_now().await;
                self.shard.inbox.pop_each(|_, message| match message {
                    Message::Answer { asker: Asker::Connection(caller), answer } => {
                        answers.push((caller.serial, answer));
                    }
                    other => panic!("{other:?}"),
                });
            }
            answers.sort_by_key(|(serial, _)| *serial);
            answers.into_iter().map(|(_, answer)| answer).collect()
        }

        fn mark(&self, user: UserId, offset: u64) -> Ask {
            Ask::MarkRead { room: self.room, user, marker: Marker { offset, number: offset } }
        }

        fn stored(&self) -> u64 {
            self.store.lock().read_markers(&[(self.room, self.ann)])[0].unwrap().offset
        }

        async fn listed(&mut self) -> u64 {
            let rooms = Ask::Rooms { user: self.ann, after: None, limit: 9 };
            match &self.ask(vec![rooms]).await[..] {
                [Answer::Rooms(rooms)] if rooms.len() == 1 && rooms[0].name == "lobby" => rooms[0].read.offset,
                other => panic!("{other:?}"),
            }
        }

        async fn stop(self) -> Arc<SharedMemoryStore> {
            self.stop.send(true).unwrap();
            self.reader.await.unwrap();
            self.store
        }
    }

    fn told(answers: &[Answer]) -> Vec<Option<(u64, bool)>> {
        let told = |answer: &Answer| match answer {
            Answer::Marked(marked) => marked.map(|(marker, moved)| (marker.offset, moved)),
            other => panic!("{other:?}"),
        };
        answers.iter().map(told).collect()
    }

    #[tokio::test]
    async fn markers_count_at_once_and_are_written_when_the_server_stops() {
        let mut world = World::new(Duration::from_secs(3600));
        assert_eq!(world.listed().await, 0);
        let asks = vec![world.mark(world.ann, 3), world.mark(world.ben, 3), world.mark(world.ann, 2)];
        assert_eq!(told(&world.ask(asks).await), [Some((3, true)), None, Some((3, false))]);
        let asks = vec![world.mark(world.ann, 7)];
        assert_eq!(told(&world.ask(asks).await), [Some((7, true))]);
        assert_eq!((world.stored(), world.listed().await), (0, 7));
        let (room, ann) = (world.room, world.ann);
        let store = world.stop().await;
        assert_eq!(store.lock().read_markers(&[(room, ann)]), [Some(Marker { offset: 7, number: 7 })]);
    }

    #[tokio::test]
    async fn markers_are_written_at_their_time() {
        let mut world = World::new(Duration::from_millis(1));
        for offset in 1..=3 {
            let asks = vec![world.mark(world.ann, offset)];
            assert_eq!(told(&world.ask(asks).await), [Some((offset, true))]);
            while world.stored() < offset {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(world.listed().await, offset);
        }
        world.stop().await;
    }

    #[tokio::test]
    async fn a_reader_that_nobody_stops_goes_on() {
        let mut world = World::new(Duration::from_secs(3600));
        let (other, _) = watch::channel(false);
        // As when starting the server fails half way.
        drop(std::mem::replace(&mut world.stop, other));
        let asks = vec![world.mark(world.ann, 3)];
        assert_eq!(told(&world.ask(asks).await), [Some((3, true))]);
        world.reader.abort();
    }
}
