//! Several nodes on one PostgreSQL database: how they start, what they refuse, and what their clients see.

use crate::client::{Received, Ws};
use crate::databases::{Backdoor, new_postgres_database};
use crate::nodes::{Bus, Cluster, node_setup};
use crate::server::{Setup, WITH_JOINS, assert_contains, run, until};
use crate::two_nodes::alone;
use serde_json::json;
use std::time::{Duration, Instant};

on_each_bus! {
    what_one_node_commits_is_shown_by_all
    nodes_that_write_to_one_room_agree_on_its_order
    changes_of_rooms_and_members_reach_the_other_nodes
    live_messages_reach_the_other_nodes
}

#[tokio::test]
async fn a_bus_needs_postgresql() {
    let setup = Setup::with_database(None, &["--bus", "postgres"]);
    let (status, error) = setup.fail_to_start().await;
    assert_eq!(status, Some(1));
    assert_contains(&error, &["--bus needs PostgreSQL", "uproar.db", "--database postgres://", "leave --bus out"]);
}

#[tokio::test]
async fn an_unknown_bus_is_refused() {
    for (options, words) in [
        (&["--bus", "pigeons"][..], &["--bus", "no bus 'pigeons'", "postgres"][..]),
        (&["--node", "a"], &["--node has no effect without --bus"]),
        (&["--bus", "postgres", "--node", " "], &["--node", "1 to 100 bytes"]),
    ] {
        let (status, error) = Setup::with_database(None, options).fail_to_start().await;
        assert_eq!(status, Some(1));
        assert_contains(&error, words);
    }
}

#[tokio::test]
async fn a_server_without_a_bus_does_not_run_beside_nodes() {
    alone!("the test starts its own nodes");
    let url = new_postgres_database().await;
    let mut node = node_setup(&url, "a", &[]).start().await;
    let alone = Setup::with_database(Some(url.clone()), &[]);
    let (status, error) = alone.fail_to_start().await;
    assert_eq!(status, Some(1));
    assert_contains(&error, &["nodes with --bus are using the database", "start this server with --bus too"]);
    node.stop().await;
    let _alone = alone.start().await;
    let (status, error) = node_setup(&url, "a", &[]).fail_to_start().await;
    assert_eq!(status, Some(1));
    assert_contains(&error, &["an uproar without --bus is using the database", "start it with --bus too"]);
}

#[tokio::test]
async fn uproar_nodes_lists_the_nodes() {
    let url = new_postgres_database().await;
    let nodes = async || {
        let output = run(&["nodes", "--database", &url]).await;
        assert!(output.status.success(), "{output:?}");
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("UTF-8"))
    };
    assert_eq!(nodes().await, ["", "there are no nodes: no server with --bus uses this database\n"]);
    let mut a = node_setup(&url, "a", &[]).start().await;
    let mut b = node_setup(&url, "b", &[]).start().await;
    let [table, _] = nodes().await;
    let lines: Vec<_> = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines[0], ["NAME", "STATE", "VERSION", "STARTED", "(UTC)", "LAST", "BEAT"]);
    for (line, name) in lines[1..].iter().zip(["a", "b"]) {
        assert_eq!(line[..3], [name, "alive", env!("CARGO_PKG_VERSION")]);
        assert_eq!(line[6..], ["s", "ago"]);
    }
    assert_eq!(lines.len(), 3);
    // One line per node that comes and goes.
    until("a has noticed b", async || a.setup.log().contains("the node b has joined")).await;
    b.stop().await;
    until("a has noticed that b has left", async || a.setup.log().contains("the node b has left")).await;
    let mut b = node_setup(&url, "b", &[]).start().await;
    until("a has noticed b again", async || a.setup.log().matches("the node b has joined").count() == 2).await;
    b.kill().await;
    until("b is missed", async || a.setup.log().contains("the node b is silent")).await;
    until("b is listed as silent", async || nodes().await[0].contains("b     silent")).await;
    a.stop().await;
    let output = run(&["nodes"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_contains(&String::from_utf8(output.stderr).expect("UTF-8"), &["several nodes need PostgreSQL"]);
}

#[tokio::test]
async fn two_nodes_of_one_name_are_told_apart_and_reported() {
    let url = new_postgres_database().await;
    let a = node_setup(&url, "a", &[]).start().await;
    let _twin = node_setup(&url, "a", &[]).start().await;
    until("the name is reported", async || a.setup.log().contains("another node is called a too; give each")).await;
}

/// What was committed last may be missing: an account too, whose id somebody else then gets.
#[tokio::test]
async fn tokens_end_with_the_history_of_the_database() {
    let cluster = Cluster::start(2, &[]).await;
    let (a, b) = (&cluster.nodes[0], &cluster.nodes[1]);
    let ann = a.sign_up("Ann").await;
    a.create_room(&ann, "lobby").await;
    let mut ws = a.join(&ann, "room=lobby").await;
    ws.round_trip("hello").await;
    let mut on_b = b.join(&ann, "room=lobby").await;
    let (epoch, offset) = (ws.epoch(), 1);
    let mut shell = Backdoor::postgres(cluster.url()).await;
    shell.execute("UPDATE meta SET value = '000000FF' WHERE name = 'timeline'").await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    shell.execute(cut).await;
    for client in [&mut ws, &mut on_b] {
        // A room may learn of the new history first (3010). The client does not come back with its token either way.
        assert!(matches!(client.close_code().await, Some(3005 | 3010)));
    }
    for node in [a, b] {
        until("the token has ended", async || node.get("/me", &ann.token).await.status == 401).await;
    }
    let body = json!({"username": "Ann", "password": "correct horse"});
    let answer = b.post("/user/signin", "", body).await.expect(200);
    let token = answer["token"].as_str().expect("a token").to_owned();
    let query = format!("room=lobby&epoch={epoch}&since={offset}");
    let mut ws = Ws::join(a.port, &token, &query).await.expect("a connection");
    assert_eq!(ws.joined["recovered"], false, "{}", ws.joined);
    assert_ne!(ws.epoch(), epoch);
    ws.send("again").await;
    assert!(matches!(ws.next().await, Received::Text(text) if text.contains("again")));
}

/// Whether the bus works on all nodes.
pub async fn until_connected(cluster: &Cluster) {
    for node in &cluster.nodes {
        until("the bus works", async || node.metric("uproar_bus_connected").await == 1.0).await;
        // Now it knows of the others, and what it commits is announced.
        let peers = cluster.nodes.len() as f64 - 1.0;
        until("the others are heard", async || node.metric("uproar_bus_peers").await == peers).await;
    }
}

async fn what_one_node_commits_is_shown_by_all(bus: Bus) {
    let cluster = Cluster::start_over(bus, 3, &[]).await;
    until_connected(&cluster).await;
    let [a, b, c] = &cluster.nodes[..] else { panic!("three nodes") };
    let ann = a.sign_up("Ann").await;
    a.create_room(&ann, "lobby").await;
    let mut clients = Vec::new();
    for node in [a, b, c] {
        clients.push(node.join(&ann, "room=lobby").await);
    }
    for number in 0..30_usize {
        let text = format!("{number}");
        clients[number % 3].send(&*text).await;
        for client in &mut clients {
            assert_eq!(client.message().await, (number as u64 + 1, text.clone()));
        }
    }
    for node in [a, b, c] {
        assert_eq!(node.metric("uproar_bus_missed_total").await, 0.0);
        assert!(node.metric("uproar_bus_received_total").await >= 20.0);
    }
}

/// All write at the same time. There is one order, and everybody sees all of it.
async fn nodes_that_write_to_one_room_agree_on_its_order(bus: Bus) {
    const COUNT: usize = 300;
    let cluster = Cluster::start_over(bus, 3, &["--limit", "publish_rate_per_second=0"]).await;
    until_connected(&cluster).await;
    let ann = cluster.nodes[0].sign_up("Ann").await;
    cluster.nodes[0].create_room(&ann, "lobby").await;
    let mut tasks = tokio::task::JoinSet::new();
    let mut clients = Vec::new();
    for node in &cluster.nodes {
        clients.push(node.join(&ann, "room=lobby").await);
    }
    for (number, mut client) in clients.into_iter().enumerate() {
        tasks.spawn(async move {
            for message in 0..COUNT {
                client.send(format!("{number} {message}")).await;
            }
            let mut seen = Vec::new();
            while seen.len() < 3 * COUNT {
                seen.push(client.message().await);
            }
            seen
        });
    }
    let seen = tasks.join_all().await;
    assert!(seen[0].iter().enumerate().all(|(index, (offset, _))| *offset == index as u64 + 1));
    assert!(seen[0] == seen[1] && seen[0] == seen[2]);
    for number in 0..3 {
        let own = seen[0].iter().filter(|(_, text)| text.starts_with(&format!("{number} ")));
        assert!(own.enumerate().all(|(index, (_, text))| *text == format!("{number} {index}")), "in the order sent");
    }
}

async fn changes_of_rooms_and_members_reach_the_other_nodes(bus: Bus) {
    let cluster = Cluster::start_over(bus, 2, &WITH_JOINS).await;
    until_connected(&cluster).await;
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let (ann, ben) = (a.sign_up("Ann").await, b.sign_up("Ben").await);
    a.create_room(&ann, "lobby").await;
    let mut on_a = a.join(&ann, "room=lobby").await;
    let mut on_b = b.join(&ben, "room=lobby").await;
    let event = on_a.event().await;
    assert_eq!((&event["type"], &event["username"]), (&json!("added"), &json!("Ben")), "{event}");
    on_a.send("for Ben").await;
    assert_eq!(on_b.message().await.1, "for Ben");
    assert_eq!(on_a.message().await.1, "for Ben");
    // Over HTTP, through either node.
    b.post("/rooms/lobby/messages", &ben.token, json!({"text": "by Ben"})).await.expect(201);
    assert_eq!((on_a.message().await.1, on_b.message().await.1), ("by Ben".to_owned(), "by Ben".to_owned()));
    // A right that is taken away on one node is gone on the other.
    let removed = a.call("DELETE", "/rooms/lobby/members/Ben", &ann.token, serde_json::Value::Null).await;
    assert!(removed.status < 300, "{removed:?}");
    assert_eq!(on_b.close_code().await, Some(3503));
}

/// The transaction itself tells of it, no matter who made it: here no node did, and none would ask for a long time.
#[tokio::test]
async fn a_right_that_is_taken_away_is_gone_on_all_nodes_immediately() {
    let cluster = Cluster::start(2, &["--limit", "lease_ms=60000"]).await;
    until_connected(&cluster).await;
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let (ann, ben, cat) = (a.sign_up("Ann").await, b.sign_up("Ben").await, b.sign_up("Cat").await);
    a.create_room(&ann, "lobby").await;
    let mut of_ann = a.join(&ann, "room=lobby").await;
    let mut of_ben = b.join(&ben, "room=lobby").await;
    let mut of_cat = b.join(&cat, "room=live:x").await;
    let mut backdoor = Backdoor::postgres(cluster.url()).await;
    backdoor
        .execute(
            "SELECT remove_member(r.id, u.id, 'ben') FROM rooms r, users u
             WHERE r.name = 'lobby' AND u.username_key = 'ann'",
        )
        .await;
    assert_eq!(of_ben.close_code().await, Some(3503));
    let revoked = Instant::now();
    backdoor
        .execute(
            "UPDATE users SET token_generation = token_generation + 1, revoked_at = clock_ms()
             WHERE username_key = 'cat'",
        )
        .await;
    assert_eq!(of_cat.close_code().await, Some(3503));
    // Half of the lease is the time between two questions.
    assert!(revoked.elapsed() < Duration::from_secs(10), "{:?}", revoked.elapsed());
    assert_eq!(a.get("/me", &cat.token).await.status, 401);
    backdoor
        .execute(
            "SELECT delete_room(r.id, u.id, 1, '', 1) FROM rooms r, users u
             WHERE r.name = 'lobby' AND u.username_key = 'ann'",
        )
        .await;
    while let Received::Text(_) = of_ann.next().await {}
    assert_eq!(a.reject_join(&ann, "room=lobby").await.0, 404);
}

/// Each sender's order is kept on all nodes.
async fn live_messages_reach_the_other_nodes(bus: Bus) {
    let cluster = Cluster::start_over(bus, 2, &["--limit", "publish_rate_per_second=0"]).await;
    until_connected(&cluster).await;
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let (ann, ben) = (a.sign_up("Ann").await, a.sign_up("Ben").await);
    let mut on_a = a.join(&ann, "room=live:cursors").await;
    let mut on_b = b.join(&ben, "room=live:cursors").await;
    for number in 0..100 {
        on_a.send(format!("a{number}")).await;
        on_b.send(format!("b{number}")).await;
    }
    for client in [&mut on_a, &mut on_b] {
        let mut texts = Vec::new();
        while texts.len() < 200 {
            texts.push(client.event().await["data"].as_str().expect("a text").to_owned());
        }
        for sender in ["a", "b"] {
            let of_sender = texts.iter().filter(|text| text.starts_with(sender));
            assert!(of_sender.enumerate().all(|(number, text)| *text == format!("{sender}{number}")), "{texts:?}");
        }
    }
    // What does not fit into an announcement is refused, not lost.
    let longest = match bus {
        Bus::Postgres => 1_166,
        // More does not fit into a frame.
        Bus::Nats => 15_000,
    };
    on_a.send("\u{1}".repeat(longest)).await;
    for client in [&mut on_a, &mut on_b] {
        assert_eq!(client.event().await["data"], "\u{1}".repeat(longest));
    }
    if bus == Bus::Postgres {
        on_a.send("\u{1}".repeat(longest + 1)).await;
        let (code, _) = on_a.error().await;
        assert_eq!(code, 106, "{code}");
    }
}
