//! Several nodes on one PostgreSQL database: how they start, what they refuse, and what their clients see.

use crate::client::{Received, Ws};
use crate::databases::{Backdoor, new_postgres_database};
use crate::nodes::{Cluster, node_setup};
use crate::server::{Setup, assert_contains, run, until};
use serde_json::json;

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
    assert_eq!(ws.close_code().await, Some(3005));
    assert_eq!(on_b.close_code().await, Some(3005));
    for node in [a, b] {
        assert_eq!(node.get("/me", &ann.token).await.status, 401);
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
