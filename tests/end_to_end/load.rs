//! A load of senders, publishers and readers that continues whatever happens to the server. At the end, what they saw
//! and what was acknowledged is compared with what is stored.

use crate::client::{Http, PATIENCE, Received, User, Ws, within};
use crate::server::{Server, number, text};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The pause between two attempts to reach a server.
const PAUSE: Duration = Duration::from_millis(20);

/// What the clients do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Send one message after the other.
    Run,
    /// Send nothing new. Resend until everything sent is acknowledged.
    Settle,
    /// Read up to this offset and finish.
    Until(u64),
}

/// What the clients have been told.
pub struct Ledger {
    /// The offset of each acknowledged message, by id.
    acknowledged: Mutex<HashMap<String, u64>>,
    /// The number of acknowledged messages.
    count: watch::Sender<usize>,
    /// The number of clients that have nothing left to send.
    settled: watch::Sender<usize>,
    /// The port at which each WebSocket client joined last, by name.
    joined: watch::Sender<HashMap<String, u16>>,
    /// The number of errors that senders received, by code.
    errors: Mutex<HashMap<String, usize>>,
}

impl Ledger {
    /// Notes that a message was acknowledged at this offset.
    fn acknowledge(&self, id: &str, offset: u64) {
        let mut acknowledged = self.acknowledged.lock().unwrap();
        if let Some(before) = acknowledged.insert(id.to_owned(), offset) {
            assert_eq!(before, offset, "{id} was acknowledged at two offsets");
        }
        self.count.send_replace(acknowledged.len());
    }

    fn error(&self, code: impl ToString) {
        *self.errors.lock().unwrap().entry(code.to_string()).or_default() += 1;
    }

    /// How often senders received this error.
    pub fn errors(&self, code: &str) -> usize {
        self.errors.lock().unwrap().get(code).copied().unwrap_or(0)
    }

    fn is_acknowledged(&self, id: &str) -> bool {
        self.acknowledged.lock().unwrap().contains_key(id)
    }

    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// The offset of each message acknowledged so far, by id.
    pub fn acknowledged(&self) -> HashMap<String, u64> {
        self.acknowledged.lock().unwrap().clone()
    }
}

/// What one WebSocket client has seen on all its connections.
#[derive(Default)]
pub struct View {
    pub name: String,
    epoch: Option<String>,
    /// The last offset.
    last: u64,
    /// The ids of the messages from offset 1 on, in order.
    ids: Vec<String>,
    /// How each connection ended.
    pub ends: Vec<Received>,
}

/// Clients that work in one room.
pub struct Load {
    pub ledger: Arc<Ledger>,
    room: String,
    reader: User,
    /// Where clients connect: each at one of these ports, and at the next one after each connection.
    ports: watch::Sender<Vec<u16>>,
    phase: watch::Sender<Phase>,
    /// The number of all clients.
    client_count: usize,
    /// The number of clients with a WebSocket.
    websocket_count: usize,
    clients: JoinSet<Option<View>>,
}

impl Load {
    /// Starts senders (by WebSocket), publishers (by HTTP) and readers in a new room.
    pub async fn start(server: &Server, senders: usize, publishers: usize, readers: usize) -> Load {
        Load::start_over(std::slice::from_ref(server), senders, publishers, readers, false).await
    }

    /// The same on several nodes, over which the clients are spread.
    pub async fn start_on(nodes: &[Server], senders: usize, publishers: usize, readers: usize) -> Load {
        Load::start_over(nodes, senders, publishers, readers, false).await
    }

    /// The same. `may_start_over`: whether the rooms may get a new epoch. Clients then read everything again.
    pub async fn start_over(
        nodes: &[Server],
        senders: usize,
        publishers: usize,
        readers: usize,
        may_start_over: bool,
    ) -> Load {
        let (server, room) = (&nodes[0], "load".to_owned());
        let owner = server.user("owner").await;
        server.create_room(&owner, &room).await;
        let ledger = Ledger {
            acknowledged: Mutex::default(),
            count: watch::Sender::new(0),
            settled: watch::Sender::new(0),
            joined: watch::Sender::new(HashMap::new()),
            errors: Mutex::default(),
        };
        let mut load = Load {
            ledger: Arc::new(ledger),
            room,
            reader: owner,
            ports: watch::Sender::new(ports_of(nodes)),
            phase: watch::Sender::new(Phase::Run),
            client_count: senders + publishers + readers,
            websocket_count: senders + readers,
            clients: JoinSet::new(),
        };
        let names = (0..senders).map(|n| format!("sender{n}")).chain((0..readers).map(|n| format!("reader{n}")));
        for (index, name) in names.enumerate() {
            let user = server.user(&name).await;
            let window = if index < senders { 16 } else { 0 };
            let (pending, view) = (VecDeque::new(), View::default());
            let client = Client { user, window, may_start_over, turn: index, next: 0, pending, view };
            let (ports, phase) = (load.ports.subscribe(), load.phase.subscribe());
            let (room, ledger) = (load.room.clone(), Arc::clone(&load.ledger));
            load.clients.spawn(async move { Some(client.run(&room, ports, phase, &ledger).await) });
        }
        for number in 0..publishers {
            let user = server.user(&format!("publisher{number}")).await;
            server.post(&format!("/rooms/{}/join", load.room), &user.token, json!({})).await.expect(200);
            let (ports, phase) = (load.ports.subscribe(), load.phase.subscribe());
            let (room, ledger) = (load.room.clone(), Arc::clone(&load.ledger));
            load.clients.spawn(async move {
                publish(&user, number, &room, ports, phase, &ledger).await;
                None
            });
        }
        load
    }

    /// Waits until all clients have joined, and then until that many more messages are acknowledged.
    pub async fn wait_for_acks(&mut self, messages: usize) {
        let (mut joined, clients) = (self.ledger.joined.subscribe(), self.websocket_count);
        let ports = self.ports.borrow().clone();
        self.watched("all clients have joined", async {
            let all =
                |joined: &HashMap<String, u16>| joined.values().filter(|at| ports.contains(at)).count() == clients;
            joined.wait_for(all).await.expect("the ledger exists");
        })
        .await;
        let mut count = self.ledger.count.subscribe();
        let goal = *count.borrow() + messages;
        self.watched("messages are acknowledged", async {
            count.wait_for(|count| *count >= goal).await.expect("the ledger exists");
        })
        .await;
    }

    /// Tells the clients the port of the restarted server.
    pub fn moved_to(&self, server: &Server) {
        self.spread_over(std::slice::from_ref(server));
    }

    /// Tells the clients which nodes there are. Those that are connected stay where they are.
    pub fn spread_over(&self, nodes: &[Server]) {
        self.ports.send_replace(ports_of(nodes));
    }

    /// Lets all clients finish. Compares what was acknowledged, what they saw and what is stored.
    pub async fn finish(mut self, server: &Server) -> Vec<View> {
        self.phase.send_replace(Phase::Settle);
        let (mut settled, clients) = (self.ledger.settled.subscribe(), self.client_count);
        self.watched("all messages are stored", async {
            settled.wait_for(|settled| *settled == clients).await.expect("the ledger exists");
        })
        .await;
        self.phase.send_replace(Phase::Until(server.head(&self.reader, &self.room).await));
        let mut views = Vec::new();
        while let Some(view) = within("all clients have read everything", self.clients.join_next()).await {
            views.extend(view.expect("a client failed"));
        }
        let history = server.history(&self.reader, &self.room).await;
        self.compare(&history, &views);
        // What the server says is what the database has.
        let stored = server.setup.backdoor().await.log(&self.room).await;
        let shown = history.iter().map(|message| {
            let (user, id) = (text(&message["user"]["username"]), text(&message["id"]));
            (number(&message["offset"]) as i64, user, id, Some(text(&message["text"])))
        });
        assert!(shown.eq(stored), "the history differs from the database");
        views
    }

    fn compare(&self, history: &[Value], views: &[View]) {
        for (message, offset) in history.iter().zip(1..) {
            assert_eq!(number(&message["offset"]), offset, "the offsets have a gap");
            assert_eq!(number(&message["number"]), offset, "not every publication is a message");
        }
        let ids: Vec<String> = history.iter().map(check).collect();
        let distinct: HashSet<&String> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "a message is stored twice");
        let acknowledged = self.ledger.acknowledged.lock().unwrap();
        for (id, offset) in acknowledged.iter() {
            let stored = ids.get(*offset as usize - 1);
            assert_eq!(stored, Some(id), "{id} was acknowledged at {offset}");
        }
        // Clients send a message again until it is acknowledged.
        assert_eq!(ids.len(), acknowledged.len(), "a stored message was not acknowledged");
        for view in views {
            assert_eq!(view.ids.len(), ids.len(), "{} has not seen everything", view.name);
            let wrong = view.ids.iter().zip(&ids).position(|(seen, stored)| seen != stored);
            assert_eq!(wrong, None, "{} saw another message at this index", view.name);
        }
    }

    /// Waits, unless a client fails or ends first.
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

fn ports_of(nodes: &[Server]) -> Vec<u16> {
    nodes.iter().map(|node| node.port).collect()
}

/// Checks that the messages of each sender are in the order in which they were first sent.
pub fn assert_in_order_of_each_sender(views: &[View]) {
    for view in views {
        let mut next: HashMap<&str, u64> = HashMap::new();
        for id in view.ids.iter().filter(|id| id.starts_with("sender")) {
            let (sender, number) = id.split_once('-').expect("an id of the load has a dash");
            let expected = next.entry(sender).or_default();
            assert_eq!(number.parse(), Ok(*expected), "a message of {sender} is out of order");
            *expected += 1;
        }
    }
}

/// Checks that the text, the id and the sender of a message belong together. Returns the id.
fn check(message: &Value) -> String {
    let id = text(&message["id"]);
    assert_eq!(text(&message["text"]), text_of(&id));
    assert_eq!(Some(message["user"]["username"].as_str().unwrap()), id.split('-').next());
    id
}

fn text_of(id: &str) -> String {
    format!("this is {id}, \"quoted\"\nand ünïcödé ✓")
}

/// A WebSocket client that sends (unless `window` is 0), reads, and reconnects.
struct Client {
    user: User,
    /// The largest number of messages without an answer.
    window: usize,
    /// Whether the room may get a new epoch.
    may_start_over: bool,
    /// Which of the ports is next.
    turn: usize,
    /// The number of the next new message.
    next: u64,
    /// Messages that are not acknowledged, oldest first.
    pending: VecDeque<String>,
    view: View,
}

impl Client {
    async fn run(
        mut self,
        room: &str,
        mut ports: watch::Receiver<Vec<u16>>,
        mut phase: watch::Receiver<Phase>,
        ledger: &Ledger,
    ) -> View {
        self.view.name = self.user.name.clone();
        let mut is_settled = false;
        loop {
            let at = at_turn(&ports.borrow_and_update(), self.turn);
            self.turn += 1;
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
                    let end = self.chat(ws, &mut phase, ledger, &mut is_settled).await;
                    let Some(end) = end else { return self.view };
                    self.view.ends.push(end);
                }
                // The server rejects clients for a while (503), or does not run.
                Err(error) => assert!(!error.to_string().contains("HTTP error: 4"), "{}: {error}", self.user.name),
            }
            tokio::select! {
                _ = ports.changed() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// Uses one connection until it ends. None: the client has finished.
    async fn chat(
        &mut self,
        mut ws: Ws,
        phase: &mut watch::Receiver<Phase>,
        ledger: &Ledger,
        is_settled: &mut bool,
    ) -> Option<Received> {
        if self.may_start_over && ws.joined["recovered"] == false {
            let (name, ends) = (std::mem::take(&mut self.view.name), std::mem::take(&mut self.view.ends));
            self.view = View { name, ends, ..View::default() };
            return Some(Received::Aborted);
        }
        assert_eq!(ws.joined["recovered"], true, "{}: {}", self.user.name, ws.joined);
        assert_eq!(ws.offset(), self.view.last, "{}", self.user.name);
        let epoch = self.view.epoch.get_or_insert_with(|| ws.epoch());
        assert_eq!(*epoch, ws.epoch(), "{}", self.user.name);
        // How many of `pending` this connection has sent, and which of its messages have no answer yet.
        let mut sent = 0;
        let mut unanswered: HashSet<String> = HashSet::new();
        let mut must_resend = false;
        loop {
            let now = *phase.borrow_and_update();
            if must_resend && unanswered.is_empty() {
                // Sends all of them again, in the same order.
                (sent, must_resend) = (0, false);
            }
            while !must_resend && unanswered.len() < self.window {
                if sent == self.pending.len() {
                    if now != Phase::Run {
                        break;
                    }
                    self.pending.push_back(format!("{}-{}", self.user.name, self.next));
                    self.next += 1;
                }
                let id = &self.pending[sent];
                if ws.try_send(json!({"text": text_of(id), "id": id}).to_string()).await.is_err() {
                    // The last frames of the server can still be read.
                    break;
                }
                unanswered.insert(id.clone());
                sent += 1;
            }
            if now != Phase::Run && self.pending.is_empty() && !*is_settled {
                *is_settled = true;
                ledger.settled.send_modify(|settled| *settled += 1);
            }
            if let Phase::Until(head) = now {
                assert!(self.view.last <= head, "{}: {} is above the head", self.user.name, self.view.last);
                if self.view.last == head {
                    return None;
                }
            }
            let received = tokio::select! {
                received = ws.next_without_limit() => received,
                _ = phase.changed() => continue,
            };
            let Received::Text(text) = received else { return Some(received) };
            let event: Value = serde_json::from_str(&text).expect("JSON");
            let id = event["id"].as_str().unwrap_or_default();
            match event["type"].as_str() {
                Some("message") => {
                    let offset = number(&event["offset"]);
                    assert_eq!(offset, self.view.last + 1, "{}: a gap or a duplicate", self.user.name);
                    self.view.last = offset;
                    self.view.ids.push(check(&event));
                    if event["user"]["username"] == self.user.name.as_str() {
                        self.on_ack(id, offset, &mut sent, &mut unanswered, ledger);
                    }
                }
                Some("ack") => self.on_ack(id, number(&event["offset"]), &mut sent, &mut unanswered, ledger),
                Some("error") => {
                    ledger.error(&event["code"]);
                    assert_eq!(event["code"], 100, "{}: {event}", self.user.name);
                    assert_eq!(event["temporary"], true, "{}: {event}", self.user.name);
                    // A sweep of the heads can show the message while its batch, whose answer was lost, is still tried.
                    let was_sent = unanswered.remove(id) || ledger.is_acknowledged(id);
                    assert!(was_sent, "{}: {event} for a message that was not sent", self.user.name);
                    must_resend = true;
                }
                _ => panic!("{}: {event}", self.user.name),
            }
        }
    }

    fn on_ack(&mut self, id: &str, offset: u64, sent: &mut usize, unanswered: &mut HashSet<String>, ledger: &Ledger) {
        ledger.acknowledge(id, offset);
        unanswered.remove(id);
        if let Some(index) = self.pending.iter().position(|pending| pending == id) {
            self.pending.remove(index);
            if index < *sent {
                *sent -= 1;
            }
        }
    }
}

fn at_turn(ports: &[u16], turn: usize) -> u16 {
    ports[turn % ports.len()]
}

/// Publishes by HTTP, one message after the other, each of them until it is stored.
async fn publish(
    user: &User,
    mut turn: usize,
    room: &str,
    mut ports: watch::Receiver<Vec<u16>>,
    mut phase: watch::Receiver<Phase>,
    ledger: &Ledger,
) {
    let bearer = format!("Bearer {}", user.token);
    let headers = [("Authorization", bearer.as_str())];
    let path = format!("/rooms/{room}/messages");
    let mut connection = None;
    let mut next = 0;
    while *phase.borrow_and_update() == Phase::Run {
        let id = format!("{}-{next}", user.name);
        next += 1;
        let body = json!({"text": text_of(&id), "id": id});
        loop {
            let at = at_turn(&ports.borrow_and_update(), turn);
            let http = match connection.take() {
                Some(http) => Ok(http),
                None => {
                    turn += 1;
                    Http::connect(at).await
                }
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
                    ledger.acknowledge(&id, number(&answer.json()["offset"]));
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
                _ = ports.changed() => connection = None,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
    ledger.settled.send_modify(|settled| *settled += 1);
    // `watched` takes a client that ends before the others for a failure.
    let _ = phase.wait_for(|phase| matches!(phase, Phase::Until(_))).await;
}
