//! Who is in a channel, who comes and goes, and who types: across nodes.

use crate::centrifuge::Wire;
use crate::client::User;
use crate::cluster::until_connected;
use crate::nodes::{Cluster, node_setup};
use crate::server::{Server, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const OPTIONS: [&str; 4] = ["--limit", "join_leave_limit=100", "--limit", "list_rate_per_second=1000"];

/// A client that is told who comes and goes.
struct Watcher {
    wire: Wire,
    channel: String,
    /// What it was told: `join`, `leave` or `typing`, and the name.
    told: Vec<(&'static str, String)>,
    /// The last number of subscribers that was announced.
    online: Option<u64>,
}

impl Watcher {
    async fn subscribe(server: &Server, user: &User, channel: &str) -> Watcher {
        let wire = Wire::connect(server, user).await;
        let mut watcher = Watcher { wire, channel: channel.to_owned(), told: Vec::new(), online: None };
        watcher.ask("subscribe", json!({"channel": channel, "join_leave": true})).await;
        watcher
    }

    /// The result of a command. Notes what comes before it.
    async fn ask(&mut self, request: &str, parameters: Value) -> Value {
        self.wire.command(9, request, parameters).await;
        loop {
            let message = self.wire.next().await;
            if message["id"] == 9 {
                assert!(message.get("error").is_none(), "{message}");
                return message[request].clone();
            }
            let push = &message["push"];
            assert_eq!(push["channel"], self.channel.as_str(), "{message}");
            for kind in ["join", "leave"] {
                if let Some(name) = push[kind]["info"]["conn_info"]["username"].as_str() {
                    self.told.push((kind, name.to_owned()));
                }
            }
            let data = &push["pub"]["data"];
            if let Some(name) = data["typing"]["username"].as_str() {
                self.told.push(("typing", name.to_owned()));
            }
            self.online = data["online"].as_u64().or(self.online);
        }
    }

    /// The names of the clients in the channel, and the numbers of clients and users.
    async fn present(&mut self) -> (BTreeSet<String>, u64, u64) {
        let of_channel = json!({"channel": self.channel});
        let presence = self.ask("presence", of_channel.clone()).await;
        let names = presence["presence"].as_object().into_iter().flat_map(serde_json::Map::values);
        let names = names.map(|info| info["conn_info"]["username"].as_str().expect("a name").to_owned()).collect();
        let stats = self.ask("presence_stats", of_channel).await;
        let number = |name: &str| stats[name].as_u64().unwrap_or_default();
        (names, number("num_clients"), number("num_users"))
    }

    async fn sees(&mut self, names: &[&str], clients: u64) {
        let names: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let expected = (names.clone(), clients, names.len() as u64);
        until(&format!("{names:?} are present"), async || self.present().await == expected).await;
    }

    async fn is_told(&mut self, kind: &'static str, name: &str) {
        let event = (kind, name.to_owned());
        until(&format!("{event:?} is told"), async || {
            self.ask("ping", json!({})).await;
            self.told.contains(&event)
        })
        .await;
    }
}

async fn users(server: &Server, names: &[&str]) -> Vec<User> {
    let mut users = Vec::new();
    for name in names {
        users.push(server.user(name).await);
    }
    users
}

#[tokio::test]
async fn clients_of_all_nodes_are_present_and_named() {
    for channel in ["room:lobby", "live:lobby"] {
        let cluster = Cluster::start(3, &OPTIONS).await;
        let [a, b, c] = &cluster.nodes[..] else { unreachable!("three nodes") };
        let people = users(a, &["ann", "bob", "cat"]).await;
        a.create_room(&people[0], "lobby").await;
        let mut on_a = Watcher::subscribe(a, &people[0], channel).await;
        let mut on_b = Watcher::subscribe(b, &people[1], channel).await;
        let mut on_c = Watcher::subscribe(c, &people[2], channel).await;
        // A second client of the same user.
        let again = Watcher::subscribe(c, &people[0], channel).await;
        for watcher in [&mut on_a, &mut on_b, &mut on_c] {
            watcher.sees(&["ann", "bob", "cat"], 4).await;
        }
        on_a.is_told("join", "bob").await;
        on_a.is_told("join", "cat").await;
        on_b.is_told("join", "cat").await;
        // What nobody told yet is not told twice.
        assert_eq!(
            on_a.told.iter().filter(|event| **event == ("join", "bob".to_owned())).count(),
            1,
            "{:?}",
            on_a.told
        );

        on_b.ask("rpc", json!({"method": "typing", "data": {"channel": channel}})).await;
        on_a.is_told("typing", "bob").await;
        on_c.is_told("typing", "bob").await;

        drop(again);
        drop(on_b);
        on_a.is_told("leave", "bob").await;
        on_a.sees(&["ann", "cat"], 2).await;
        on_c.is_told("leave", "ann").await;
        on_c.sees(&["ann", "cat"], 2).await;
        assert!(!on_a.told.contains(&("leave", "cat".to_owned())), "{:?}", on_a.told);
    }
}

#[tokio::test]
async fn a_node_that_comes_later_learns_who_is_present() {
    let cluster = Cluster::start(1, &OPTIONS).await;
    let a = &cluster.nodes[0];
    let people = users(a, &["ann", "bob", "cat"]).await;
    a.create_room(&people[0], "lobby").await;
    let mut on_a = Watcher::subscribe(a, &people[0], "room:lobby").await;
    let mut b = node_setup(cluster.url(), "b", &OPTIONS).start().await;
    let mut on_b = Watcher::subscribe(&b, &people[1], "room:lobby").await;
    on_b.sees(&["ann", "bob"], 2).await;
    on_a.sees(&["ann", "bob"], 2).await;
    // One that stops says goodbye.
    b.stop().await;
    on_a.is_told("leave", "bob").await;
    on_a.sees(&["ann"], 1).await;
    let b = b.restart().await;
    let mut on_b = Watcher::subscribe(&b, &people[2], "room:lobby").await;
    on_b.sees(&["ann", "cat"], 2).await;
    on_a.is_told("join", "cat").await;
}

#[tokio::test]
async fn the_clients_of_a_killed_node_leave() {
    let mut cluster = Cluster::start(3, &OPTIONS).await;
    let people = users(&cluster.nodes[0], &["ann", "bob", "cat"]).await;
    cluster.nodes[0].create_room(&people[0], "lobby").await;
    let mut watchers = Vec::new();
    for (node, user) in cluster.nodes.iter().zip(&people) {
        watchers.push(Watcher::subscribe(node, user, "room:lobby").await);
    }
    for watcher in &mut watchers {
        watcher.sees(&["ann", "bob", "cat"], 3).await;
    }
    cluster.nodes[2].kill().await;
    let killed = Instant::now();
    for watcher in &mut watchers[..2] {
        watcher.is_told("leave", "cat").await;
        watcher.sees(&["ann", "bob"], 2).await;
    }
    // Ten seconds are promised.
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
}

#[tokio::test]
async fn large_channels_are_counted_across_nodes() {
    const LIMITS: [&str; 4] = ["--limit", "join_leave_limit=2", "--limit", "online_interval_ms=100"];
    let cluster = Cluster::start(2, &[&OPTIONS[2..], &LIMITS].concat()).await;
    let (a, b) = (&cluster.nodes[0], &cluster.nodes[1]);
    let people = users(a, &["ann", "bob", "cat", "dan", "eve", "fay"]).await;
    a.create_room(&people[0], "lobby").await;
    let mut on_a = Watcher::subscribe(a, &people[0], "room:lobby").await;
    let mut on_b = Vec::new();
    // Two are named, three are counted.
    for (index, user) in people[1..5].iter().enumerate() {
        on_b.push(Watcher::subscribe(b, user, "room:lobby").await);
        let count = index as u64 + 2;
        until(&format!("a counts {count}"), async || {
            let (_, clients, users) = on_a.present().await;
            (clients, users) == (count, count)
        })
        .await;
    }
    until("the number is announced", async || {
        on_a.ask("ping", json!({})).await;
        on_a.online == Some(5)
    })
    .await;
    // Only two can be named again.
    on_b.truncate(2);
    until("a counts three", async || on_a.present().await.1 == 3).await;
    on_a.sees(&["ann", "bob", "cat"], 3).await;
    on_b.truncate(1);
    on_a.sees(&["ann", "bob"], 2).await;
    on_b.clear();
    on_a.is_told("leave", "bob").await;
}

/// What is said while the bus is cut is asked for afterwards.
#[tokio::test]
async fn presence_is_right_again_after_the_bus_was_cut() {
    let cluster = Cluster::start(2, &OPTIONS).await;
    let (a, b) = (&cluster.nodes[0], &cluster.nodes[1]);
    let people = users(a, &["ann", "bob", "cat", "dan"]).await;
    a.create_room(&people[0], "lobby").await;
    let mut on_a = Watcher::subscribe(a, &people[0], "room:lobby").await;
    let mut on_b = Watcher::subscribe(b, &people[1], "room:lobby").await;
    let leaving = Watcher::subscribe(b, &people[2], "room:lobby").await;
    on_a.sees(&["ann", "bob", "cat"], 3).await;
    let mut shell = crate::databases::Backdoor::postgres(cluster.url()).await;
    for round in 0..5 {
        // The last message before the cut may be lost, too.
        let sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND (query LIKE 'LISTEN%' OR query LIKE '%pg_notify%')
                AND pid <> pg_backend_pid()";
        shell.execute(sessions).await;
        let coming = Watcher::subscribe(b, &people[3], "room:lobby").await;
        if round == 4 {
            drop(leaving);
            on_a.sees(&["ann", "bob", "dan"], 3).await;
            on_b.sees(&["ann", "bob", "dan"], 3).await;
            return;
        }
        on_a.sees(&["ann", "bob", "cat", "dan"], 4).await;
        drop(coming);
        on_a.sees(&["ann", "bob", "cat"], 3).await;
    }
}

/// A marker is written to the database much later.
#[tokio::test]
async fn a_read_marker_counts_on_all_nodes_immediately() {
    let cluster = Cluster::start(2, &["--limit", "read_markers_interval_ms=60000"]).await;
    until_connected(&cluster).await;
    let (a, b) = (&cluster.nodes[0], &cluster.nodes[1]);
    let (ann, ben) = (a.sign_up("Ann").await, a.sign_up("Ben").await);
    a.create_room(&ann, "lobby").await;
    a.post("/rooms/lobby/members", &ann.token, json!({"username": "Ben"})).await.expect(200);
    for text in ["one", "two", "three"] {
        a.post("/rooms/lobby/messages", &ben.token, json!({"text": text})).await.expect(201);
    }
    let room = json!({"channel": "room:lobby"});
    let mut on_a = Wire::connect(a, &ann).await;
    let mut on_b = Wire::connect(b, &ann).await;
    for wire in [&mut on_a, &mut on_b] {
        wire.result(2, "subscribe", room.clone()).await;
    }
    let read = |offset| json!({"method": "read", "data": {"channel": "room:lobby", "offset": offset}});
    on_a.result(3, "rpc", read(2)).await;
    until("b knows", async || b.get("/rooms/lobby", &ann.token).await.expect(200)["room"]["unread"] == 1).await;
    // It does not go back.
    assert_eq!(on_b.result(3, "rpc", read(1)).await["data"]["offset"], 2);
    assert_eq!(on_b.result(3, "rpc", read(3)).await["data"]["offset"], 3);
    until("a knows", async || a.get("/rooms/lobby", &ann.token).await.expect(200)["room"]["unread"] == 0).await;
    // Nor where another position waits to be written.
    assert_eq!(on_a.result(4, "rpc", read(2)).await["data"]["offset"], 3);
}
