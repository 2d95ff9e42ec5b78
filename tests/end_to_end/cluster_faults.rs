//! Proves that a cluster keeps its promises while nodes are killed and stopped, and while the bus and the database
//! fail.
//!
//! The load (see `load.rs`) is spread over all nodes. It compares what was acknowledged and what each client has seen
//! with what is stored.

use crate::api::{api_key, call, printed};
use crate::client::{Http, Received, User, Ws, within};
use crate::cluster::until_connected;
use crate::databases::{Backdoor, new_postgres_database, private_postgres, skip_without_own_postgres};
use crate::failover::{End, Pair};
use crate::load::{Load, View, assert_in_order_of_each_sender};
use crate::nodes::{Bus, Cluster, node_setup};
use crate::proxy::Proxy;
use crate::server::{Server, assert_contains, text, until};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

on_each_bus! {
    nothing_is_lost_when_nodes_are_killed
    a_rolling_restart_loses_nothing
    announcements_that_make_no_sense_are_ignored
}

/// With its default limits a node would slow down a load like this one.
const OPTIONS: [&str; 2] = ["--limit", "publish_rate_per_second=0"];
/// An announcement takes milliseconds. The sweep of a node whose bus works comes after five seconds.
const QUICK: Duration = Duration::from_millis(400);

/// A member of a room, with a connection to each node.
pub struct Watcher {
    clients: Vec<Ws>,
    sent: usize,
}

impl Watcher {
    pub async fn start(nodes: &[Server]) -> Watcher {
        let user = nodes[0].user("watcher").await;
        nodes[0].create_room(&user, "watched").await;
        let mut clients = Vec::new();
        for node in nodes {
            clients.push(node.join(&user, "room=watched").await);
        }
        Watcher { clients, sent: 0 }
    }

    /// Sends a message through one node. Returns how long it took until all nodes had delivered it.
    pub async fn deliver(&mut self) -> Duration {
        let sender = self.sent % self.clients.len();
        self.sent += 1;
        let sent = (self.sent as u64, format!("message {}", self.sent));
        let started = Instant::now();
        self.clients[sender].send(&*sent.1).await;
        for client in &mut self.clients {
            assert_eq!(client.message().await, sent);
        }
        started.elapsed()
    }

    /// Waits until deliveries are as quick as announcements make them.
    pub async fn expect_quick(&mut self, nodes: &[Server]) {
        for node in nodes {
            until("the bus works", async || node.metric("uproar_bus_connected").await == 1.0).await;
        }
        let mut delays = Vec::new();
        for _ in 0..15 {
            delays.push(self.deliver().await);
        }
        delays.sort_unstable();
        // Some of them may have been held up by whatever else this machine does.
        assert!(delays[7] < QUICK, "{delays:?}");
    }
}

fn expect_rejoins(views: &[View], is_expected: impl Fn(&Received) -> bool) {
    for view in views {
        assert!(view.ends.iter().all(&is_expected), "{}: {:?}", view.name, view.ends);
    }
    assert!(views.iter().any(|view| !view.ends.is_empty()), "no client has lost its connection");
}

async fn nothing_is_lost_when_nodes_are_killed(bus: Bus) {
    let Cluster { mut nodes, .. } = Cluster::start_over(bus, 3, &OPTIONS).await;
    let mut load = Load::start_on(&nodes, 5, 2, 3).await;
    for messages in [100, 37, 211, 60, 150, 93] {
        load.wait_for_acks(messages).await;
        let mut victim = nodes.remove(0);
        victim.kill().await;
        // Its clients recover on the others.
        load.spread_over(&nodes);
        load.wait_for_acks(50).await;
        nodes.push(victim.restart().await);
        load.spread_over(&nodes);
    }
    load.wait_for_acks(100).await;
    let views = load.finish(&nodes[0]).await;
    assert_in_order_of_each_sender(&views);
    expect_rejoins(&views, |end| matches!(end, Received::Aborted | Received::Closed(Some(3010), _)));
    Watcher::start(&nodes).await.expect_quick(&nodes).await;
}

async fn a_rolling_restart_loses_nothing(bus: Bus) {
    let Cluster { mut nodes, .. } = Cluster::start_over(bus, 3, &OPTIONS).await;
    let mut load = Load::start_on(&nodes, 4, 2, 3).await;
    for _ in 0..3 {
        load.wait_for_acks(100).await;
        let mut next = nodes.remove(0);
        load.spread_over(&nodes);
        next.stop().await;
        nodes.push(next.restart().await);
        load.spread_over(&nodes);
    }
    load.wait_for_acks(100).await;
    let views = load.finish(&nodes[0]).await;
    assert_in_order_of_each_sender(&views);
    expect_rejoins(&views, |end| matches!(end, Received::Closed(Some(1001), _)));
    Watcher::start(&nodes).await.expect_quick(&nodes).await;
}

/// Which sessions of the nodes are terminated.
const LISTENING: &str = "query LIKE 'LISTEN %'";
const SENDING: &str = "query LIKE '%pg_notify(%'";
const GUARD: &str = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)";

/// Terminates these sessions, of one node or of all. Returns how many there were.
async fn terminate(backdoor: &mut Backdoor, which: &str, limit: &str) -> usize {
    let sql = format!(
        "SELECT pg_terminate_backend(pid)::text FROM (SELECT pid FROM pg_stat_activity
           WHERE datname = current_database() AND pid <> pg_backend_pid() AND {which} LIMIT {limit}) AS chosen"
    );
    backdoor.texts(&sql).await.len()
}

#[tokio::test]
async fn nothing_is_lost_when_the_sessions_of_the_bus_and_the_guard_are_terminated() {
    let cluster = Cluster::start(3, &OPTIONS).await;
    until_connected(&cluster).await;
    let mut backdoor = Backdoor::postgres(cluster.url()).await;
    let watcher = Watcher::start(&cluster.nodes).await;
    let mut load = Load::start_on(&cluster.nodes, 4, 2, 2).await;
    for round in 0..5 {
        for which in [LISTENING, SENDING, GUARD] {
            load.wait_for_acks(40).await;
            // After the last time, the session may not be open again yet.
            until("there is such a session", async || {
                terminate(&mut backdoor, which, if round % 2 == 0 { "1" } else { "ALL" }).await > 0
            })
            .await;
        }
    }
    load.wait_for_acks(100).await;
    expect_no_harm(load, watcher, &cluster.nodes).await;
    for node in &cluster.nodes {
        let log = node.setup.log();
        assert!(!log.contains("a missing right") && !log.contains("clients start over"), "{log}");
    }
}

/// Nothing was lost, nobody was disconnected, and the bus works again.
pub async fn expect_no_harm(load: Load, mut watcher: Watcher, nodes: &[Server]) {
    let views = load.finish(&nodes[0]).await;
    assert_in_order_of_each_sender(&views);
    for view in &views {
        assert!(view.ends.is_empty(), "{}: {:?}", view.name, view.ends);
    }
    watcher.expect_quick(nodes).await;
    for node in nodes {
        assert_eq!(node.get("/readyz", "").await.status, 200);
    }
}

/// Makes what is sent vanish. New sessions find a function that does nothing.
pub async fn break_notify(backdoor: &mut Backdoor) {
    backdoor
        .execute(
            "BEGIN; ALTER FUNCTION pg_catalog.pg_notify(text, text) RENAME TO pg_notify_of_before;
             CREATE FUNCTION pg_catalog.pg_notify(text, text) RETURNS void LANGUAGE sql AS ''; COMMIT",
        )
        .await;
}

pub async fn mend_notify(backdoor: &mut Backdoor) {
    backdoor
        .execute(
            "BEGIN; DROP FUNCTION pg_catalog.pg_notify(text, text);
             ALTER FUNCTION pg_catalog.pg_notify_of_before(text, text) RENAME TO pg_notify; COMMIT",
        )
        .await;
}

/// Messages are delivered by the sweep alone, at its interval.
#[tokio::test]
async fn deliveries_go_on_while_the_bus_is_cut() {
    let cluster = Cluster::start(2, &OPTIONS).await;
    until_connected(&cluster).await;
    let mut watcher = Watcher::start(&cluster.nodes).await;
    watcher.expect_quick(&cluster.nodes).await;
    let mut backdoor = Backdoor::postgres(cluster.url()).await;
    break_notify(&mut backdoor).await;
    assert_eq!(terminate(&mut backdoor, SENDING, "ALL").await, 2);
    let cut = Instant::now();
    // This one is sent before anybody has noticed.
    let first = watcher.deliver().await;
    for node in &cluster.nodes {
        until("the bus is down", async || node.metric("uproar_bus_connected").await == 0.0).await;
    }
    // For ten seconds after something was missed, heads are read more often anyway.
    let mut delays = Vec::new();
    while cut.elapsed() < Duration::from_secs(15) {
        let is_late = cut.elapsed() > Duration::from_secs(12);
        let delay = watcher.deliver().await;
        delays.extend(is_late.then_some(delay));
    }
    delays.sort_unstable();
    let median = delays.get(delays.len() / 2);
    assert!(median.is_some_and(|median| *median < Duration::from_millis(1_200)), "{delays:?}");
    assert!(first < Duration::from_secs(4), "{first:?}");
    for node in &cluster.nodes {
        assert_eq!(node.get("/readyz", "").await.status, 200, "the sweep alone is enough");
        assert_eq!(node.setup.log().matches("the bus does not work").count(), 1);
    }
    mend_notify(&mut backdoor).await;
    terminate(&mut backdoor, SENDING, "ALL").await;
    watcher.expect_quick(&cluster.nodes).await;
}

/// A backend is told that it is not known whether all nodes have done what it asked for, and may ask again.
#[tokio::test]
async fn a_backend_learns_that_a_node_does_not_answer() {
    let options = ["--limit", "survey_timeout_ms=500"];
    let cluster = Cluster::start(2, &options).await;
    until_connected(&cluster).await;
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let key = printed(&api_key(a, &["add", "crm", "--user", "CRM"]).await);
    let ann = b.sign_up("Ann").await;
    b.create_room(&ann, "lobby").await;
    let user = b.user_id(&ann).await;
    let mut on_b = b.join(&ann, "room=lobby").await;
    let channel = json!({"channel": "room:lobby"});
    until("the client is known", async || call(a, "presence_stats", &key, channel.clone()).await["num_clients"] == 1)
        .await;
    b.signal("STOP").await;
    for (method, params) in [
        ("presence", channel.clone()),
        ("presence_stats", channel.clone()),
        ("channels", json!({})),
        ("disconnect", json!({"user": user})),
        ("unsubscribe", json!({"user": user, "channel": "room:lobby"})),
        ("refresh", json!({"user": user})),
    ] {
        let mut http = Http::connect(a.port).await.expect("no connection");
        let path = format!("/api/{method}");
        let answer = http.request("POST", &path, &[("X-API-Key", &key)], Some(&params)).await.expect("an answer");
        let error = &answer.expect(200)["error"];
        // Once the node is taken for dead, its clients do not count.
        if !error.is_null() {
            assert_eq!(error["code"], 100, "{method}: {error}");
            assert_contains(&text(&error["message"]), &["not every node"]);
        }
    }
    // What is only about rooms goes on.
    let message = json!({"channel": "room:lobby", "data": {"text": "meanwhile"}});
    call(a, "publish", &key, message).await;
    b.signal("CONT").await;
    // It has heard what it was asked to do, or its clients have come back.
    until("the node answers", async || {
        let mut http = Http::connect(a.port).await.expect("no connection");
        let headers = [("X-API-Key", key.as_str())];
        let params = json!({"user": user});
        let answer = http.request("POST", "/api/disconnect", &headers, Some(&params)).await.expect("an answer");
        answer.expect(200)["error"].is_null()
    })
    .await;
    assert_eq!(on_b.close_code().await, Some(3503));
    until("the node is ready", async || b.get("/readyz", "").await.status == 200).await;
    until("nobody is there", async || call(a, "presence_stats", &key, channel.clone()).await["num_clients"] == 0).await;
}

/// A stopped process knows nothing of what has happened meanwhile, and has input that it has not read.
#[tokio::test]
async fn a_node_that_was_stopped_does_not_act_on_old_rights() {
    let cluster = Cluster::start(2, &[]).await;
    until_connected(&cluster).await;
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let (ann, ben, cat) = (a.sign_up("Ann").await, b.sign_up("Ben").await, b.sign_up("Cat").await);
    a.create_room(&ann, "lobby").await;
    let mut on_a = a.join(&ann, "room=lobby").await;
    let mut of_ann = b.join(&ann, "room=lobby").await;
    let mut of_ben = b.join(&ben, "room=lobby").await;
    let mut of_cat = b.join(&cat, "room=lobby").await;
    assert_eq!(of_ben.round_trip("before").await.1, "before");
    for client in [&mut on_a, &mut of_ann, &mut of_cat] {
        assert_eq!(client.message().await.1, "before");
    }
    b.signal("STOP").await;
    let removed = a.call("DELETE", "/rooms/lobby/members/Ben", &ann.token, Value::Null).await;
    assert!(removed.status < 300, "{removed:?}");
    a.post("/user/signout", &cat.token, Value::Null).await.expect(200);
    on_a.send("after the removal").await;
    // The removal is a publication too.
    while !on_a.text().await.contains("after the removal") {}
    of_ben.send("by Ben, who was removed").await;
    of_cat.send("by Cat, who has signed out").await;
    until("the node is missed", async || a.setup.log().contains("the node b is silent")).await;
    b.signal("CONT").await;
    for client in [&mut of_ben, &mut of_cat] {
        let code = loop {
            match client.next().await {
                // What was sent meanwhile may be answered: it is refused.
                Received::Text(text) => assert!(text.contains("\"error\"") && text.contains("103"), "{text}"),
                Received::Closed(code, _) => break code,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(code, Some(3503));
    }
    until("the node is back", async || a.setup.log().matches("the node b has joined").count() == 2).await;
    // It goes on, and its other clients have missed nothing.
    while !of_ann.text().await.contains("after the removal") {}
    assert_eq!(of_ann.round_trip("through b").await, on_a.message().await);
    let stored = a.setup.backdoor().await.log("lobby").await;
    assert!(stored.iter().all(|(_, user, ..)| user == "Ann" || user == "Ben"), "{stored:?}");
    assert!(!stored.iter().any(|(.., text)| text.as_deref().is_some_and(|text| text.contains("who"))), "{stored:?}");
    until("the node is ready", async || b.get("/readyz", "").await.status == 200).await;
}

/// Whatever locks a room is one statement, so that PostgreSQL finishes it by itself.
#[tokio::test]
async fn a_node_that_was_stopped_holds_up_no_room() {
    let Cluster { mut nodes, .. } = Cluster::start(3, &OPTIONS).await;
    let mut load = Load::start_on(&nodes, 6, 2, 1).await;
    let mut longest = Duration::ZERO;
    for messages in [30, 41, 53, 37, 62, 44, 58, 35] {
        load.wait_for_acks(messages).await;
        nodes[0].signal("STOP").await;
        let stopped = Instant::now();
        load.wait_for_acks(messages).await;
        longest = longest.max(stopped.elapsed());
        nodes[0].signal("CONT").await;
        nodes.rotate_left(1);
    }
    load.wait_for_acks(100).await;
    assert_in_order_of_each_sender(&load.finish(&nodes[0]).await);
    // A transaction that waits for a stopped node would last for as long as the node is stopped.
    assert!(longest < Duration::from_secs(5), "the others were held up for {longest:?}");
}

/// A proxy in front of a database, and the URL that leads through it.
async fn behind_a_proxy(url: &str) -> (Proxy, String) {
    let (_, address) = url.split_once('@').expect("a URL with a user");
    let (host, database) = address.split_once('/').expect("a URL with a database");
    let (_, port) = host.split_once(':').expect("a URL with a port");
    let proxy = Proxy::start(port.parse().expect("a port")).await;
    let near = url.replace(address, &format!("127.0.0.1:{}/{database}", proxy.port));
    (proxy, near)
}

/// PostgreSQL can be reached by one of the nodes, and not by the other one.
#[tokio::test]
async fn a_node_that_is_cut_off_from_the_database_goes_on_afterwards() {
    if skip_without_own_postgres() {
        return;
    }
    let url = new_postgres_database().await;
    let (proxy, near) = behind_a_proxy(&url).await;
    let nodes = [node_setup(&near, "a", &OPTIONS).start().await, node_setup(&url, "b", &OPTIONS).start().await];
    let (ann, ben) = (nodes[0].sign_up("Ann").await, nodes[1].sign_up("Ben").await);
    nodes[0].create_room(&ann, "lobby").await;
    let mut of_ben = nodes[0].join(&ben, "room=lobby").await;
    let mut load = Load::start_on(&nodes, 4, 2, 2).await;
    load.wait_for_acks(100).await;
    proxy.black_out();
    let removed = nodes[1].call("DELETE", "/rooms/lobby/members/Ben", &ann.token, Value::Null).await;
    assert!(removed.status < 300, "{removed:?}");
    nodes[1].post("/rooms/lobby/messages", &ann.token, json!({"text": "after"})).await.expect(201);
    // The clients of the other node go on meanwhile.
    load.wait_for_acks(100).await;
    until("the node is not ready", async || nodes[0].get("/readyz", "").await.status == 503).await;
    until("the other one misses it", async || nodes[1].setup.log().contains("the node a is silent")).await;
    load.wait_for_acks(100).await;
    proxy.light_up();
    until("the node is ready again", async || nodes[0].get("/readyz", "").await.status == 200).await;
    let code = loop {
        match of_ben.next().await {
            Received::Text(text) => assert!(!text.contains("after"), "{text}"),
            Received::Closed(code, _) => break code,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(code, Some(3503 | 3010)), "{code:?}");
    assert_eq!(nodes[0].get("/user/getchats?room=lobby&limit=9", &ben.token).await.status, 403);
    load.wait_for_acks(100).await;
    assert_in_order_of_each_sender(&load.finish(&nodes[0]).await);
    Watcher::start(&nodes).await.expect_quick(&nodes).await;
}

/// Its clients go to the other node when they have waited for a while.
#[tokio::test]
async fn the_clients_of_a_node_that_is_cut_off_move_to_the_other_one() {
    if skip_without_own_postgres() {
        return;
    }
    let url = new_postgres_database().await;
    let (proxy, near) = behind_a_proxy(&url).await;
    let nodes = [node_setup(&near, "a", &OPTIONS).start().await, node_setup(&url, "b", &OPTIONS).start().await];
    let mut load = Load::start_on(&nodes, 5, 2, 3).await;
    load.wait_for_acks(100).await;
    proxy.black_out();
    // A load balancer sends no more clients to the node, which is not ready. Those that it has must leave by themselves.
    until("the node is not ready", async || nodes[0].get("/readyz", "").await.status == 503).await;
    load.spread_over(&nodes[1..]);
    load.wait_for_acks(100).await;
    let refused = async || Ws::join(nodes[0].port, "", "room=load").await.err().map(|error| error.to_string());
    assert!(refused().await.is_some_and(|error| error.contains("503")), "it lets nobody wait for long");
    proxy.light_up();
    until("the node is ready again", async || nodes[0].get("/readyz", "").await.status == 200).await;
    load.spread_over(&nodes);
    load.wait_for_acks(100).await;
    let views = load.finish(&nodes[0]).await;
    assert_in_order_of_each_sender(&views);
    expect_rejoins(&views, |end| matches!(end, Received::Closed(Some(3010), _)));
}

/// A client on one of the nodes.
struct Guest {
    ws: Ws,
    node: usize,
}

/// Two nodes on a PostgreSQL of their own, with clients on both, and the room that they are in.
async fn guests(nodes: &[Server], user: &User) -> Vec<Guest> {
    nodes[0].create_room(user, "lobby").await;
    let mut guests = Vec::new();
    for number in 0..12 {
        let node = number % nodes.len();
        guests.push(Guest { ws: nodes[node].join(user, "room=lobby").await, node });
    }
    guests
}

#[tokio::test]
async fn nobody_is_disconnected_while_postgres_is_away_for_eight_seconds() {
    let Some(mut postgres) = private_postgres().await else { return };
    let Cluster { nodes, .. } = Cluster::start_on(&postgres.create_database().await.unwrap(), 2, &OPTIONS).await;
    let ann = nodes[0].user("ann").await;
    let mut guests = guests(&nodes, &ann).await;
    postgres.kill().unwrap();
    tokio::time::sleep(Duration::from_secs(8)).await;
    postgres.restart().await.unwrap();
    guests[0].ws.send("after").await;
    for Guest { ws, .. } in &mut guests {
        assert_eq!(ws.message().await, (1, "after".to_owned()));
    }
}

#[tokio::test]
async fn clients_are_sent_away_one_after_the_other_while_postgres_is_away_for_long() {
    let Some(mut postgres) = private_postgres().await else { return };
    let Cluster { nodes, .. } = Cluster::start_on(&postgres.create_database().await.unwrap(), 2, &OPTIONS).await;
    for node in &nodes {
        until("it knows the other one", async || node.setup.log().contains("has joined")).await;
    }
    let ann = nodes[0].user("ann").await;
    let mut guests = guests(&nodes, &ann).await;
    guests[0].ws.send("before").await;
    for Guest { ws, .. } in &mut guests {
        assert_eq!(ws.message().await, (1, "before".to_owned()));
    }
    postgres.kill().unwrap();
    let away = Instant::now();
    let mut ends = tokio::task::JoinSet::new();
    for Guest { mut ws, node } in guests {
        ends.spawn(async move {
            let epoch = ws.epoch();
            assert_eq!(ws.close_code().await, Some(3010));
            (away.elapsed(), node, epoch)
        });
    }
    let ends = ends.join_all().await;
    for of_node in 0..nodes.len() {
        let times = ends.iter().filter(|(_, node, _)| *node == of_node).map(|(time, ..)| *time);
        let (first, last) = (times.clone().min().unwrap(), times.max().unwrap());
        assert!(first > Duration::from_secs(15), "{first:?}");
        assert!(last - first > Duration::from_secs(1), "{first:?} to {last:?}");
    }
    postgres.restart().await.unwrap();
    let mut clients = Vec::new();
    for (_, node, epoch) in ends {
        // Each to the other node.
        let ws = join_at_last(&nodes[1 - node], &ann, &format!("room=lobby&since=1&epoch={epoch}")).await;
        assert_eq!(ws.joined["recovered"], true, "{}", ws.joined);
        clients.push(ws);
    }
    clients[0].send("after").await;
    for ws in &mut clients {
        assert_eq!(ws.message().await, (2, "after".to_owned()));
    }
}

#[tokio::test]
async fn nothing_is_lost_when_postgres_crashes_under_several_nodes() {
    let Some(mut postgres) = private_postgres().await else { return };
    let Cluster { mut nodes, .. } = Cluster::start_on(&postgres.create_database().await.unwrap(), 2, &OPTIONS).await;
    let mut load = Load::start_on(&nodes, 4, 2, 2).await;
    for _ in 0..3 {
        load.wait_for_acks(100).await;
        postgres.kill().unwrap();
        postgres.restart().await.unwrap();
    }
    load.wait_for_acks(100).await;
    for node in &mut nodes {
        assert_eq!(node.try_exit(), None, "the node has ended: {}", node.setup.log());
    }
    assert_in_order_of_each_sender(&load.finish(&nodes[0]).await);
    Watcher::start(&nodes).await.expect_quick(&nodes).await;
}

/// Two nodes of which each reaches PostgreSQL through the proxy of the pair.
async fn nodes_of(pair: &Pair) -> Vec<Server> {
    let mut nodes = Vec::new();
    for name in ["a", "b"] {
        nodes.push(node_setup(&pair.url(), name, &OPTIONS).start().await);
    }
    nodes
}

#[tokio::test]
async fn nodes_go_on_after_a_failover_that_loses_nothing() {
    let Some(mut pair) = Pair::start().await else { return };
    let mut nodes = nodes_of(&pair).await;
    let ann = nodes[0].sign_up("Ann").await;
    let mut of_ann = nodes[1].join(&ann, "room=live:x").await;
    let mut load = Load::start_over(&nodes, 4, 2, 2, true).await;
    load.wait_for_acks(100).await;
    pair.fail_over(End::Crash).await;
    load.wait_for_acks(1).await;
    // The account may be missing. Here it is not, and she signs in again.
    assert_eq!(of_ann.close_code().await, Some(3005));
    for node in &nodes {
        until("the old token has ended", async || node.get("/me", &ann.token).await.status == 401).await;
    }
    let body = json!({"username": "Ann", "password": "correct horse"});
    let token = text(&nodes[0].post("/user/signin", "", body).await.expect(200)["token"]);
    nodes[1].get("/me", &token).await.expect(200);
    pair.rejoin().await;
    load.wait_for_acks(100).await;
    pair.fail_over(End::Silence).await;
    load.wait_for_acks(100).await;
    for node in &mut nodes {
        assert_eq!(node.try_exit(), None, "the node has ended: {}", node.setup.log());
    }
    assert_in_order_of_each_sender(&load.finish(&nodes[0]).await);
    Watcher::start(&nodes).await.expect_quick(&nodes).await;
}

/// Positions of a history of which the end is missing lead to nothing.
#[tokio::test]
async fn no_position_of_a_lost_history_is_recovered() {
    let Some(mut pair) = Pair::start().await else { return };
    let mut nodes = nodes_of(&pair).await;
    let ann = nodes[0].user("ann").await;
    nodes[0].create_room(&ann, "r").await;
    let mut clients = [nodes[0].join(&ann, "room=r").await, nodes[1].join(&ann, "room=r").await];
    let outsiders = [nodes[0].join(&ann, "room=live:x").await, nodes[1].join(&ann, "room=live:x").await];
    assert_eq!(clients[0].round_trip("kept").await.0, 1);
    let epoch = clients[0].epoch();
    pair.run("ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf()").await;
    pair.cut_replication().await;
    assert_eq!(clients[1].message().await.0, 1);
    assert_eq!(clients[1].round_trip("lost").await.0, 2);
    pair.fail_over(End::Crash).await;
    for client in &mut clients {
        while let Received::Text(text) = client.next().await {
            assert!(!text.contains("kept"), "{text}");
        }
    }
    for node in &nodes {
        for since in 0..3 {
            let ws = join_at_last(node, &ann, &format!("room=r&since={since}&epoch={epoch}")).await;
            assert_eq!(ws.joined["recovered"], false, "{since}: {}", ws.joined);
            assert_ne!(ws.epoch(), epoch);
        }
    }
    // Everybody is disconnected once, also those who came back too early.
    for mut client in outsiders {
        assert_eq!(client.close_code().await, Some(3005));
    }
    let mut clients = [nodes[0].join(&ann, "room=r").await, nodes[1].join(&ann, "room=r").await];
    assert_eq!(clients[0].round_trip("other").await, (2, "other".to_owned()));
    assert_eq!(clients[1].message().await, (2, "other".to_owned()));
    for node in &mut nodes {
        assert_eq!(node.try_exit(), None, "the node has ended: {}", node.setup.log());
    }
}

/// Joins as soon as the node admits clients again.
async fn join_at_last(node: &Server, user: &User, query: &str) -> Ws {
    let joined = async {
        loop {
            match Ws::join(node.port, &user.token, query).await {
                Ok(ws) => return ws,
                Err(error) => assert!(!error.to_string().contains("HTTP error: 4"), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the node admits clients", joined).await
}

async fn announcements_that_make_no_sense_are_ignored(bus: Bus) {
    let cluster = Cluster::start_over(bus, 2, &[]).await;
    until_connected(&cluster).await;
    let mut watcher = Watcher::start(&cluster.nodes).await;
    watcher.deliver().await;
    let mut backdoor = Backdoor::postgres(cluster.url()).await;
    let mut value = async |sql: &str| backdoor.texts(sql).await.pop().expect("a value");
    let id = value("SELECT value FROM meta WHERE name = 'cluster'").await;
    let generation = value("SELECT value FROM meta WHERE name = 'generation'").await;
    let room: i64 = value("SELECT id::text FROM rooms WHERE name = 'watched'").await.parse().expect("an id");
    let publication = |room: i64, generation: &str, offset: u64| json!({"p": [room, generation, offset, offset, 0, 1, "watcher", "forged", 1, null, "forged"]});
    let envelope = |from: &str, before: u64, items: Value| {
        let before = json!({"live": before, "others": before});
        json!({"cluster": id, "from": from, "before": before, "a": items}).to_string()
    };
    let ignored = [
        String::new(),
        "hello".to_owned(),
        "{}".to_owned(),
        "[".repeat(5_000),
        json!({"cluster": id, "from": "x", "before": {"others": -1}}).to_string(),
        envelope("x", 0, json!([])).replace(&id, "other"),
    ];
    let huge = 1_u64 << 62;
    let heard = [
        envelope("x", huge, json!([publication(room, &generation, huge)])),
        envelope("x", u64::MAX, json!([publication(room, &generation, u64::MAX), {"h": room}])),
        envelope("y", 1, json!([publication(room, "abc", 2), publication(room, "abc", 3)])),
        envelope("y", 3, json!([publication(room, &generation, 0), publication(room, &generation, 1)])),
        envelope("y", 5, json!([{"unknown": [1]}, {"h": "x"}, {"s": 1}, 7, null, {"h": room, "z": 1}])),
        envelope("y", 10, json!(["s", {"h": -1}, {"h": i64::MAX}, publication(i64::MIN, &generation, huge)])),
        envelope("y", 13, json!([{"r": [1, "nowhere", huge, huge]}, {"j": [-1, ""]}, {"l": [i64::MAX, "watched"]}])),
        json!({"new": 9, "cluster": id, "from": "z", "before": {}, "last": true, "beat": u64::MAX}).to_string(),
    ];
    for (index, text) in ignored.iter().chain(&heard).enumerate() {
        bus.send(&mut backdoor, text).await;
        // Nothing that is not stored is shown, and what is stored is.
        watcher.deliver().await;
        assert_eq!(watcher.sent, index + 2);
    }
    for node in &cluster.nodes {
        let count = ignored.len() as f64;
        until("all are counted", async || node.metric("uproar_bus_ignored_total").await == count).await;
        let log = node.setup.log();
        assert_eq!(log.matches("ignored a message on the bus").count(), 1, "{log}");
    }
    watcher.expect_quick(&cluster.nodes).await;
}
