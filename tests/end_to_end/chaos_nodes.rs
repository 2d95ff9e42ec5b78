//! The history checker over three nodes: random kills of nodes, of PostgreSQL and of the bus, under the load of clients
//! that pipeline and move from node to node. Meanwhile members are removed from a private room. `make chaos`
//! makes more kills than `make test` does.
//!
//! The load (see `load.rs`) fails at the first message that is lost, doubled or out of order.

use crate::chaos::{Random, SEED_VARIABLE, variable};
use crate::client::{Http, Received, Response, User, Ws, within};
use crate::cluster::until_connected;
use crate::databases::{Backdoor, private_postgres};
use crate::load::{Load, assert_in_order_of_each_sender};
use crate::nodes::Cluster;
use crate::server::{Server, number};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::sync::watch;
use uproar_store::testing::{TestNats, TestPostgres};

/// How many kills there are.
const KILLS_VARIABLE: &str = "UPROAR_CHAOS_KILLS";
const KILLS_DEFAULT: u64 = 10;
/// How many messages are acknowledged in the course of all kills, at least.
const ACKNOWLEDGED_VARIABLE: &str = "UPROAR_CHAOS_ACKNOWLEDGED";
/// Between two kills, so many messages are acknowledged.
const MESSAGES_BETWEEN: usize = 150;
/// One user stands for many here, so most limits are off.
const OPTIONS: [&str; 8] = [
    "--limit",
    "publish_rate_per_second=0",
    "--limit",
    "user_writes_per_minute=0",
    "--limit",
    "joins_per_hour_limit=0",
    "--limit",
    "additions_per_hour_limit=0",
];
/// The pause between two attempts to reach a node, and between two messages in the private room.
const PAUSE: Duration = Duration::from_millis(10);
/// How many publications of the private room a guest sees before the removal.
const SEEN_BEFORE: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kill {
    /// `kill -9`. The node stays away during the next kill, half of the time.
    Node,
    /// PostgreSQL shuts down immediately and starts again.
    Database,
    /// The sessions in which the nodes listen.
    Listening,
    /// The sessions in which they send.
    Sending,
    /// NATS is killed and starts again.
    Nats,
}

/// Each of them occurs before one occurs again.
const OVER_POSTGRES: [Kill; 5] = [Kill::Node, Kill::Node, Kill::Database, Kill::Listening, Kill::Sending];
/// The nodes listen on PostgreSQL as well.
const OVER_NATS: [Kill; 5] = [Kill::Node, Kill::Node, Kill::Database, Kill::Listening, Kill::Nats];

#[tokio::test]
async fn nothing_is_lost_over_postgres_whatever_is_killed() {
    nothing_is_lost(None).await;
}

#[tokio::test]
async fn nothing_is_lost_over_nats_whatever_is_killed() {
    nothing_is_lost(Some(TestNats::start("").await.unwrap_or_else(|error| panic!("{error}")))).await;
}

async fn nothing_is_lost(nats: Option<TestNats>) {
    let Some(postgres) = private_postgres().await else { return };
    let url = postgres.create_database().await.unwrap();
    let bus = nats.as_ref().map_or("postgres".to_owned(), TestNats::url);
    let cluster = Cluster::start_on(&url, 3, &[&["--bus", &*bus], &OPTIONS[..]].concat()).await;
    until_connected(&cluster).await;
    let load = Load::start_on(&cluster.nodes, 5, 2, 3).await;
    let seed = variable(SEED_VARIABLE).unwrap_or_else(Random::seed);
    println!("chaos: {SEED_VARIABLE}={seed}");
    let chaos = Chaos { postgres, nats, url, nodes: cluster.nodes, away: None, load, random: Random(seed) };
    chaos.run(variable(KILLS_VARIABLE).unwrap_or(KILLS_DEFAULT)).await;
}

struct Chaos {
    postgres: TestPostgres,
    /// None: PostgreSQL is the bus.
    nats: Option<TestNats>,
    url: String,
    nodes: Vec<Server>,
    /// A node that was killed.
    away: Option<Server>,
    load: Load,
    random: Random,
}

impl Chaos {
    async fn run(mut self, kills: u64) {
        let goal = variable(ACKNOWLEDGED_VARIABLE).unwrap_or(0) as usize;
        let between = MESSAGES_BETWEEN.max(goal.div_ceil(kills as usize));
        let owner = self.nodes[0].user("host").await;
        let body = json!({"name": ROOM, "private": true});
        self.nodes[0].post("/user/createroom", &owner.token, body).await.expect(201);
        let guests = self.nodes[0].users("guest", 10_000);
        let ports = watch::Sender::new(self.ports());
        let caller = |stop: &watch::Sender<bool>| {
            let (ports, stop) = (ports.subscribe(), stop.subscribe());
            Caller { owner: owner.clone(), ports, stop, turn: 0 }
        };
        let (last_guest, last_message) = (watch::Sender::new(false), watch::Sender::new(false));
        let host = tokio::spawn(caller(&last_guest).receive_guests(guests));
        let writer = tokio::spawn(caller(&last_message).write());
        let mut count: BTreeMap<Kill, u32> = BTreeMap::new();
        let mut waiting = Vec::new();
        for _ in 0..kills {
            self.load.wait_for_acks(between).await;
            assert!(!writer.is_finished() && !host.is_finished(), "a client of the private room has failed");
            if waiting.is_empty() {
                waiting.extend(if self.nats.is_some() { OVER_NATS } else { OVER_POSTGRES });
            }
            let kill = waiting.swap_remove(self.random.below(waiting.len()));
            *count.entry(kill).or_default() += 1;
            let returning = self.away.take();
            self.kill(kill).await;
            if let Some(node) = returning {
                self.nodes.push(node.restart().await);
            }
            if self.random.below(2) == 0
                && let Some(node) = self.away.take()
            {
                self.load.spread_over(&self.nodes);
                ports.send_replace(self.ports());
                self.load.wait_for_acks(MESSAGES_BETWEEN).await;
                self.nodes.push(node.restart().await);
            }
            self.load.spread_over(&self.nodes);
            ports.send_replace(self.ports());
        }
        if let Some(node) = self.away.take() {
            self.nodes.push(node.restart().await);
        }
        self.load.wait_for_acks(MESSAGES_BETWEEN).await;
        last_guest.send_replace(true);
        let seen = within("the last guest has gone", host).await.expect("a guest failed");
        last_message.send_replace(true);
        within("the last message is written", writer).await.expect("the host failed");
        let (acknowledged, unknown) = (self.load.ledger.count(), self.load.ledger.errors("100"));
        assert!(acknowledged >= goal, "only {acknowledged} messages were acknowledged");
        let views = self.load.finish(&self.nodes[0]).await;
        assert_in_order_of_each_sender(&views);
        let removed_at = removals(&self.url).await;
        let shown_after: Vec<_> = seen.iter().filter(|(guest, last)| *last > removed_at[guest]).collect();
        assert!(shown_after.is_empty(), "shown after the removal: {shown_after:?}, removed at: {removed_at:?}");
        assert!(!seen.is_empty(), "nobody was removed");
        println!(
            "chaos: {acknowledged} messages acknowledged, {unknown} unknown outcomes; 0 lost, 0 doubled, 0 reordered \
             in {} views, the history and the database; 0 shown to {} members after their removal",
            views.len(),
            seen.len()
        );
        for (kill, count) in count {
            println!("chaos: {count} × {kill:?}");
        }
    }

    fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    async fn kill(&mut self, kill: Kill) {
        match kill {
            Kill::Node => {
                let index = self.random.below(self.nodes.len());
                let mut victim = self.nodes.remove(index);
                victim.kill().await;
                self.away = Some(victim);
            }
            Kill::Database => {
                self.postgres.kill().unwrap();
                self.postgres.restart().await.unwrap();
            }
            Kill::Nats => {
                let nats = self.nats.as_mut().expect("NATS is the bus");
                nats.kill();
                nats.restart().await.unwrap();
            }
            Kill::Listening => self.terminate("query LIKE 'LISTEN %'").await,
            Kill::Sending => self.terminate("query LIKE '%pg_notify(%'").await,
        }
    }

    async fn terminate(&self, which: &str) {
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND {which}"
        );
        Backdoor::postgres(&self.url).await.execute(&sql).await;
    }
}

// ── the private room ────────────────────────────────────────────────────────────────────────────────────────────────

const ROOM: &str = "private";

/// The offset at which each guest was removed, by name.
async fn removals(url: &str) -> HashMap<String, u64> {
    let sql = format!(
        "SELECT m.body || ' ' || m.room_offset FROM messages m JOIN rooms r ON r.id = m.room_id
         WHERE r.name = '{ROOM}' AND m.kind = 5 ORDER BY m.room_offset"
    );
    let rows = Backdoor::postgres(url).await.texts(&sql).await;
    let removal = |row: String| {
        let words: Vec<&str> = row.split(' ').collect();
        (words[1].to_owned(), words[2].parse().expect("an offset"))
    };
    let count = rows.len();
    let removals: HashMap<String, u64> = rows.into_iter().map(removal).collect();
    assert_eq!(removals.len(), count, "a guest was removed twice");
    removals
}

/// Calls nodes until one of them answers.
struct Caller {
    owner: User,
    ports: watch::Receiver<Vec<u16>>,
    stop: watch::Receiver<bool>,
    turn: usize,
}

impl Caller {
    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Another node each time.
    fn port(&mut self) -> u16 {
        let ports = self.ports.borrow();
        self.turn += 1;
        ports[self.turn % ports.len()]
    }

    /// Repeats a request on one node after the other until it is answered. An answer with status 503 says: try again.
    async fn call(&mut self, method: &str, path: &str, token: &str, body: Option<&Value>) -> Response {
        let bearer = format!("Bearer {token}");
        loop {
            let port = self.port();
            if let Ok(mut http) = Http::connect(port).await
                && let Ok(answer) = http.request(method, path, &[("Authorization", &bearer)], body).await
                && answer.status != 503
            {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Writes one message after the other.
    async fn write(mut self) {
        let (path, token) = (format!("/rooms/{ROOM}/messages"), self.owner.token.clone());
        let mut next = 0;
        while !self.is_stopped() {
            let id = format!("host-{next}");
            next += 1;
            let body = json!({"text": id, "id": id});
            within("a message is stored", self.call("POST", &path, &token, Some(&body))).await.expect(201);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Adds one guest after the other, who is removed after a while. Returns the last offset that each has seen.
    async fn receive_guests(mut self, guests: Vec<User>) -> Vec<(String, u64)> {
        let mut seen = Vec::new();
        for guest in guests {
            if self.is_stopped() {
                break;
            }
            // The first call creates the account.
            within("an account", self.call("GET", "/me", &guest.token, None)).await.expect(200);
            let (path, token) = (format!("/rooms/{ROOM}/members"), self.owner.token.clone());
            let body = json!({"username": guest.name});
            within("a guest is added", self.call("POST", &path, &token, Some(&body))).await.expect(200);
            let mut visit = Visit { guest, last: 0, epoch: None };
            within("the guest sees messages", visit.read(&mut self, Some(SEEN_BEFORE))).await;
            let (ports, stop) = (self.ports.clone(), self.stop.clone());
            let mut remover = Caller { owner: self.owner.clone(), ports, stop, turn: self.turn + 1 };
            let path = format!("{path}/{}", visit.guest.name);
            let removal = async {
                let answer = remover.call("DELETE", &path, &token, None).await;
                // An earlier attempt may have succeeded without an answer.
                assert!(answer.status == 200 || answer.error() == (404, "no_such_member".to_owned()), "{answer:?}");
            };
            within("the guest is removed", async { tokio::join!(removal, visit.read(&mut self, None)) }).await;
            // No node may admit the guest now.
            let ports = self.ports.borrow().clone();
            for port in ports {
                assert!(visit.join(port).await.is_err(), "{} is admitted after the removal", visit.guest.name);
            }
            seen.push((visit.guest.name, visit.last));
        }
        seen
    }
}

/// What one guest sees.
struct Visit {
    guest: User,
    /// The last offset.
    last: u64,
    epoch: Option<String>,
}

impl Visit {
    async fn join(&mut self, port: u16) -> Result<Ws, String> {
        let mut query = format!("room={ROOM}&format=json");
        if let Some(epoch) = &self.epoch {
            query += &format!("&since={}&epoch={epoch}", self.last);
        }
        let ws = Ws::join(port, &self.guest.token, &query).await.map_err(|error| error.to_string())?;
        if self.epoch.is_none() {
            (self.epoch, self.last) = (Some(ws.epoch()), ws.offset());
        }
        assert_eq!((ws.epoch(), ws.offset()), (self.epoch.clone().expect("an epoch"), self.last), "{}", ws.joined);
        Ok(ws)
    }

    /// Reads that many publications, on as many connections as it takes. `None`: reads until it is not admitted.
    async fn read(&mut self, caller: &mut Caller, count: Option<u64>) {
        let mut goal = None;
        loop {
            match self.join(caller.port()).await {
                Ok(ws) => {
                    let goal = *goal.get_or_insert(count.map(|count| self.last + count));
                    self.follow(ws, goal).await;
                    if goal.is_some_and(|goal| self.last >= goal) {
                        return;
                    }
                }
                Err(error) if error.contains("HTTP error: 4") => {
                    assert_eq!(count, None, "{} was not admitted: {error}", self.guest.name);
                    return;
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Reads on one connection up to this offset or its end.
    async fn follow(&mut self, mut ws: Ws, goal: Option<u64>) {
        while goal.is_none_or(|goal| self.last < goal) {
            let Received::Text(text) = ws.next_without_limit().await else { return };
            let event: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(number(&event["offset"]), self.last + 1, "{}: a gap or a duplicate: {event}", self.guest.name);
            self.last += 1;
        }
    }
}
