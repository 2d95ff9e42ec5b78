//! Senders and publishers that go on whatever happens to the server, and what they were told, to be compared with what
//! is there in the end.

use crate::client::{Got, Http, PATIENCE, User, Ws, within};
use crate::server::{Server, number, text};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Between two tries to reach a server that is not there.
const PAUSE: Duration = Duration::from_millis(20);

/// What is asked of the clients now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Say one thing after the other.
    Run,
    /// Say nothing new; see to it that all that was said is stored.
    Settle,
    /// Read up to this offset and go home.
    Until(u64),
}

/// What senders were told about their messages: by id, the offset.
pub struct Ledger {
    told: Mutex<HashMap<String, u64>>,
    count: watch::Sender<usize>,
    settled: watch::Sender<usize>,
    /// At which port each WebSocket client was let in last.
    joined: watch::Sender<HashMap<String, u16>>,
    /// Errors that senders got, by code.
    errors: Mutex<HashMap<String, usize>>,
}

impl Ledger {
    /// A sender was told that its message is at this offset.
    fn tell(&self, id: &str, offset: u64) {
        let mut told = self.told.lock().unwrap();
        if let Some(before) = told.insert(id.to_owned(), offset) {
            assert_eq!(before, offset, "{id} was told two offsets");
        }
        self.count.send_replace(told.len());
    }

    fn error(&self, code: impl ToString) {
        *self.errors.lock().unwrap().entry(code.to_string()).or_default() += 1;
    }

    /// How often senders got this error.
    pub fn errors(&self, code: &str) -> usize {
        self.errors.lock().unwrap().get(code).copied().unwrap_or(0)
    }

    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// All that has been acknowledged so far: by id, the offset.
    pub fn told(&self) -> HashMap<String, u64> {
        self.told.lock().unwrap().clone()
    }
}

/// What one WebSocket client has seen, over all its connections.
#[derive(Default)]
pub struct View {
    pub name: String,
    epoch: Option<String>,
    last: u64,
    /// Ids, in the order of their offsets from 1 on.
    ids: Vec<String>,
    /// How each connection ended.
    pub ends: Vec<Got>,
}

/// Clients at work in one room.
pub struct Load {
    pub ledger: Arc<Ledger>,
    room: String,
    reader: User,
    port: watch::Sender<u16>,
    phase: watch::Sender<Phase>,
    senders: usize,
    /// Those of them who have a WebSocket.
    chatters: usize,
    clients: JoinSet<Option<View>>,
}

impl Load {
    /// Starts senders (`format=json`, with ids), publishers by HTTP, and readers, in a new room.
    pub async fn start(server: &Server, senders: usize, publishers: usize, readers: usize) -> Load {
        let room = "load".to_owned();
        let owner = server.user("owner").await;
        server.create_room(&owner, &room).await;
        let ledger = Ledger {
            told: Mutex::default(),
            count: watch::Sender::new(0),
            settled: watch::Sender::new(0),
            joined: watch::Sender::new(HashMap::new()),
            errors: Mutex::default(),
        };
        let mut load = Load {
            ledger: Arc::new(ledger),
            room,
            reader: owner,
            port: watch::Sender::new(server.port),
            phase: watch::Sender::new(Phase::Run),
            senders: senders + publishers + readers,
            chatters: senders + readers,
            clients: JoinSet::new(),
        };
        let names = (0..senders).map(|n| format!("sender{n}")).chain((0..readers).map(|n| format!("reader{n}")));
        for (index, name) in names.enumerate() {
            let user = server.user(&name).await;
            let window = if index < senders { 16 } else { 0 };
            let client = Client { user, window, next: 0, pending: VecDeque::new(), view: View::default() };
            let (port, phase) = (load.port.subscribe(), load.phase.subscribe());
            let (room, ledger) = (load.room.clone(), Arc::clone(&load.ledger));
            load.clients.spawn(async move { Some(client.run(&room, port, phase, &ledger).await) });
        }
        for number in 0..publishers {
            let user = server.user(&format!("publisher{number}")).await;
            server.post(&format!("/rooms/{}/join", load.room), &user.token, json!({})).await.expect(200);
            let (port, phase) = (load.port.subscribe(), load.phase.subscribe());
            let (room, ledger) = (load.room.clone(), Arc::clone(&load.ledger));
            load.clients.spawn(async move {
                publish(&user, &room, port, phase, &ledger).await;
                None
            });
        }
        load
    }

    /// Waits until all clients are there, and then until so many more messages have been acknowledged.
    pub async fn more(&mut self, messages: usize) {
        let (mut joined, port, clients) = (self.ledger.joined.subscribe(), *self.port.borrow(), self.chatters);
        self.watched("all clients are there", async {
            let all = |joined: &HashMap<String, u16>| joined.values().filter(|at| **at == port).count() == clients;
            joined.wait_for(all).await.expect("the ledger is there");
        })
        .await;
        let mut count = self.ledger.count.subscribe();
        let goal = *count.borrow() + messages;
        self.watched("messages are acknowledged", async {
            count.wait_for(|count| *count >= goal).await.expect("the ledger is there");
        })
        .await;
    }

    /// The server is at another port now.
    pub fn moved_to(&self, server: &Server) {
        self.port.send_replace(server.port);
    }

    /// Lets all clients finish and compares what they were told, what they saw, and what is stored.
    pub async fn finish(mut self, server: &Server) -> Vec<View> {
        self.phase.send_replace(Phase::Settle);
        let (mut settled, senders) = (self.ledger.settled.subscribe(), self.senders);
        self.watched("all messages are stored", async {
            settled.wait_for(|settled| *settled == senders).await.expect("the ledger is there");
        })
        .await;
        self.phase.send_replace(Phase::Until(server.top(&self.reader, &self.room).await));
        let mut views = Vec::new();
        while let Some(view) = within("all have read everything", self.clients.join_next()).await {
            views.extend(view.expect("a client failed"));
        }
        let history = server.history(&self.reader, &self.room).await;
        self.compare(&history, &views);
        views
    }

    fn compare(&self, history: &[Value], views: &[View]) {
        for (message, offset) in history.iter().zip(1..) {
            assert_eq!(number(&message["offset"]), offset, "offsets have no holes");
            assert_eq!(number(&message["number"]), offset, "there is nothing but messages");
        }
        let ids: Vec<String> = history.iter().map(check).collect();
        let distinct: HashSet<&String> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "a message is there twice");
        let told = self.ledger.told.lock().unwrap();
        for (id, offset) in told.iter() {
            let stored = ids.get(*offset as usize - 1);
            assert_eq!(stored, Some(id), "{id} was acknowledged at {offset}");
        }
        // What was not acknowledged was sent again until it was.
        assert_eq!(ids.len(), told.len(), "there are messages that nobody was told about");
        for view in views {
            assert_eq!(view.ids.len(), ids.len(), "{} has not seen everything", view.name);
            let wrong = view.ids.iter().zip(&ids).position(|(seen, stored)| seen != stored);
            assert_eq!(wrong, None, "{} saw something else at this index", view.name);
        }
    }

    /// Waits, but not for clients that have failed.
    async fn watched(&mut self, what: &str, wait: impl Future<Output = ()>) {
        tokio::select! {
            ended = self.clients.join_next() => match ended {
                Some(Err(error)) => panic!("a client failed: {error}"),
                _ => panic!("a client ended too early"),
            },
            waited = tokio::time::timeout(PATIENCE, wait) => {
                let errors = self.ledger.errors.lock().unwrap();
                assert!(waited.is_ok(), "not within {PATIENCE:?}: {what}; {} so far, {errors:?}", self.ledger.count());
            }
        }
    }
}

/// Checks that the messages of each sender are in the order in which they were first sent.
pub fn assert_in_order_of_each_sender(views: &[View]) {
    for view in views {
        let mut next: HashMap<&str, u64> = HashMap::new();
        for id in view.ids.iter().filter(|id| id.starts_with("sender")) {
            let (sender, number) = id.split_once('-').expect("ids of the load have a dash");
            let expected = next.entry(sender).or_default();
            assert_eq!(number.parse(), Ok(*expected), "{sender} sent another first");
            *expected += 1;
        }
    }
}

/// Checks that a message belongs together, and returns its id.
fn check(message: &Value) -> String {
    let id = text(&message["id"]);
    assert_eq!(text(&message["text"]), text_of(&id));
    assert_eq!(Some(message["user"]["username"].as_str().unwrap()), id.split('-').next());
    id
}

fn text_of(id: &str) -> String {
    format!("this is {id}, \"quoted\"\nand ünïcödé ✓")
}

/// Someone with a WebSocket, who sends (if `window` is not 0), reads, and comes back.
struct Client {
    user: User,
    /// Messages that may be under way.
    window: usize,
    /// The number of the next new message.
    next: u64,
    /// Sent, or to be sent again, and not acknowledged; oldest first.
    pending: VecDeque<String>,
    view: View,
}

impl Client {
    async fn run(
        mut self,
        room: &str,
        mut port: watch::Receiver<u16>,
        mut phase: watch::Receiver<Phase>,
        ledger: &Ledger,
    ) -> View {
        self.view.name = self.user.name.clone();
        let mut is_settled = false;
        loop {
            let at = *port.borrow_and_update();
            let mut query = format!("room={room}&format=json&since={}", self.view.last);
            if let Some(epoch) = &self.view.epoch {
                query += &format!("&epoch={epoch}");
            }
            match Ws::join(at, &self.user.token, &query).await {
                Ok(ws) => {
                    let name = self.user.name.clone();
                    ledger.joined.send_modify(|joined| {
                        joined.insert(name, at);
                    });
                    let end = self.talk(ws, &mut phase, ledger, &mut is_settled).await;
                    let Some(end) = end else { return self.view };
                    self.view.ends.push(end);
                }
                // Refused for a while (503), or nobody there.
                Err(error) => assert!(!error.to_string().contains("HTTP error: 4"), "{}: {error}", self.user.name),
            }
            tokio::select! {
                _ = port.changed() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// One connection to its end; none when everything is done.
    async fn talk(
        &mut self,
        mut ws: Ws,
        phase: &mut watch::Receiver<Phase>,
        ledger: &Ledger,
        is_settled: &mut bool,
    ) -> Option<Got> {
        assert_eq!(ws.joined["recovered"], true, "{}: {}", self.user.name, ws.joined);
        assert_eq!(ws.offset(), self.view.last, "{}", self.user.name);
        let epoch = self.view.epoch.get_or_insert_with(|| ws.epoch());
        assert_eq!(*epoch, ws.epoch(), "{}", self.user.name);
        // Of `pending`, what has been sent on this connection; and what has been sent and not been answered.
        let mut sent = 0;
        let mut awaited: HashSet<String> = HashSet::new();
        let mut is_unsure = false;
        loop {
            let now = *phase.borrow_and_update();
            if is_unsure && awaited.is_empty() {
                // All of them again, in the same order.
                (sent, is_unsure) = (0, false);
            }
            while !is_unsure && awaited.len() < self.window {
                if sent == self.pending.len() {
                    if now != Phase::Run {
                        break;
                    }
                    self.pending.push_back(format!("{}-{}", self.user.name, self.next));
                    self.next += 1;
                }
                let id = &self.pending[sent];
                if ws.try_say(json!({"text": text_of(id), "id": id}).to_string()).await.is_err() {
                    // What the server said last can still be read.
                    break;
                }
                awaited.insert(id.clone());
                sent += 1;
            }
            if now != Phase::Run && self.pending.is_empty() && !*is_settled {
                *is_settled = true;
                ledger.settled.send_modify(|settled| *settled += 1);
            }
            if let Phase::Until(top) = now {
                assert!(self.view.last <= top, "{}: {} is above the top", self.user.name, self.view.last);
                if self.view.last == top {
                    return None;
                }
            }
            let got = tokio::select! {
                got = ws.next_at_any_time() => got,
                _ = phase.changed() => continue,
            };
            let Got::Text(got) = got else { return Some(got) };
            let event: Value = serde_json::from_str(&got).expect("JSON");
            let id = event["id"].as_str().unwrap_or_default();
            match event["type"].as_str() {
                Some("message") => {
                    let offset = number(&event["offset"]);
                    assert_eq!(offset, self.view.last + 1, "{}: a gap or a duplicate", self.user.name);
                    self.view.last = offset;
                    self.view.ids.push(check(&event));
                    if event["user"]["username"] == self.user.name.as_str() {
                        self.acknowledged(id, offset, &mut sent, &mut awaited, ledger);
                    }
                }
                Some("ack") => self.acknowledged(id, number(&event["offset"]), &mut sent, &mut awaited, ledger),
                Some("error") => {
                    ledger.error(&event["code"]);
                    assert_eq!(event["code"], 100, "{}: {event}", self.user.name);
                    assert_eq!(event["temporary"], true, "{}: {event}", self.user.name);
                    assert!(awaited.remove(id), "{}: {event} for what was not sent", self.user.name);
                    is_unsure = true;
                }
                _ => panic!("{}: {event}", self.user.name),
            }
        }
    }

    fn acknowledged(
        &mut self,
        id: &str,
        offset: u64,
        sent: &mut usize,
        awaited: &mut HashSet<String>,
        ledger: &Ledger,
    ) {
        ledger.tell(id, offset);
        awaited.remove(id);
        if let Some(index) = self.pending.iter().position(|pending| pending == id) {
            self.pending.remove(index);
            if index < *sent {
                *sent -= 1;
            }
        }
    }
}

/// A program that publishes by HTTP, one message after the other, each until it has an answer.
async fn publish(
    user: &User,
    room: &str,
    mut port: watch::Receiver<u16>,
    mut phase: watch::Receiver<Phase>,
    ledger: &Ledger,
) {
    let bearer = format!("Bearer {}", user.token);
    let headers = [("Authorization", bearer.as_str())];
    let path = format!("/rooms/{room}/messages");
    let mut connection = None;
    let mut number_of = 0;
    while *phase.borrow_and_update() == Phase::Run {
        let id = format!("{}-{number_of}", user.name);
        number_of += 1;
        let body = json!({"text": text_of(&id), "id": id});
        loop {
            let at = *port.borrow_and_update();
            let http = match connection.take() {
                Some(http) => Ok(http),
                None => Http::connect(at).await,
            };
            let answer = match http {
                Ok(mut http) => {
                    let answer = http.request("POST", &path, &headers, Some(&body)).await;
                    if answer.as_ref().is_ok_and(|answer| answer.header("Connection") != Some("close")) {
                        connection = Some(http);
                    }
                    answer
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) if answer.status == 201 => {
                    ledger.tell(&id, number(&answer.json()["offset"]));
                    break;
                }
                Ok(answer) => {
                    let (status, code) = answer.error();
                    assert_eq!(status, 503, "{}: {code}", user.name);
                    ledger.error(code);
                }
                Err(_) => {}
            }
            tokio::select! {
                _ = port.changed() => connection = None,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
    ledger.settled.send_modify(|settled| *settled += 1);
    // Not before the others: who watches takes an early end for a failure.
    let _ = phase.wait_for(|phase| matches!(phase, Phase::Until(_))).await;
}
