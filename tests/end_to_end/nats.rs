//! NATS as the bus: how nodes sign in, and that they keep their promises while it is away.
//!
//! What does not depend on the bus is tested on both in `cluster.rs` and `cluster_faults.rs`.

use crate::client::Received;
use crate::cluster::until_connected;
use crate::cluster_faults::{Watcher, break_notify, expect_no_harm, mend_notify};
use crate::databases::{Backdoor, new_postgres_database};
use crate::load::Load;
use crate::nodes::{Bus, Cluster, node_setup, publish};
use crate::server::{Server, Setup, assert_contains, run, until};
use crate::tunnel::Pair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use uproar_store::testing::TestNats;

/// With its default limits a node would slow down a load like these.
const OPTIONS: [&str; 2] = ["--limit", "publish_rate_per_second=0"];

async fn start(configuration: &str) -> TestNats {
    TestNats::start(configuration).await.unwrap_or_else(|error| panic!("{error}"))
}

/// The URL of this server, with what a client signs in with.
fn url(nats: &TestNats, sign_in: &str) -> String {
    format!("nats://{sign_in}@127.0.0.1:{}", nats.port())
}

async fn until_down(node: &Server) {
    until("the bus is down", async || node.metric("uproar_bus_connected").await == 0.0).await;
}

/// A cluster of two nodes with this bus, which work.
async fn start_nodes(bus: &str, more: &[&str]) -> Cluster {
    let cluster = Cluster::start(2, &[&["--bus", bus], more].concat()).await;
    until_connected(&cluster).await;
    cluster
}

#[tokio::test]
async fn nothing_is_lost_when_nats_is_killed() {
    let mut nats = start("").await;
    let cluster = start_nodes(&nats.url(), &OPTIONS).await;
    let mut watcher = Watcher::start(&cluster.nodes).await;
    let mut load = Load::start_on(&cluster.nodes, 4, 2, 2).await;
    for round in 0..4 {
        load.wait_for_acks(100).await;
        nats.kill();
        for node in &cluster.nodes {
            until_down(node).await;
        }
        load.wait_for_acks(100).await;
        watcher.deliver().await;
        nats.restart().await.expect("NATS starts again");
        if round % 2 == 0 {
            until_connected(&cluster).await;
        }
    }
    load.wait_for_acks(100).await;
    expect_no_harm(load, watcher, &cluster.nodes).await;
}

#[tokio::test]
async fn live_messages_that_nats_may_have_lost_are_not_lost_silently() {
    let mut nats = start("").await;
    let cluster = start_nodes(&nats.url(), &[]).await;
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let ann = a.sign_up("Ann").await;
    let mut on_a = a.join(&ann, "room=live:x").await;
    let mut on_b = b.join(&ann, "room=live:x").await;
    on_a.send("one").await;
    assert_eq!(on_b.event().await["data"], "one");
    nats.kill();
    until_down(b).await;
    on_a.send("two").await;
    nats.restart().await.expect("NATS starts again");
    loop {
        match on_b.next().await {
            Received::Text(text) => assert!(text.contains("two"), "{text}"),
            Received::Closed(code, _) => break assert_eq!(code, Some(3010)),
            other => panic!("{other:?}"),
        }
    }
}

/// The sweep alone is enough.
#[tokio::test]
async fn nodes_start_without_nats_and_use_it_once_it_is_there() {
    let mut nats = start("").await;
    nats.kill();
    let cluster = Cluster::start(2, &["--bus", &nats.url()]).await;
    let mut watcher = Watcher::start(&cluster.nodes).await;
    for _ in 0..4 {
        watcher.deliver().await;
    }
    for node in &cluster.nodes {
        until("the node is ready", async || node.get("/readyz", "").await.status == 200).await;
        until_down(node).await;
        let log = node.setup.log();
        assert_eq!(log.matches("the bus does not work").count(), 1, "{log}");
        assert_contains(&log, &[&format!("127.0.0.1:{}: Connection refused", nats.port())]);
        // The client has a log of its own.
        assert!(!log.contains("max reconnect"), "{log}");
    }
    nats.restart().await.expect("NATS starts");
    until_connected(&cluster).await;
    watcher.expect_quick(&cluster.nodes).await;
}

#[tokio::test]
async fn the_next_server_is_used_when_one_fails() {
    let (mut first, second) = (start("").await, start("").await);
    let cluster = start_nodes(&format!("{},{}", first.url(), second.url()), &OPTIONS).await;
    let mut watcher = Watcher::start(&cluster.nodes).await;
    watcher.expect_quick(&cluster.nodes).await;
    first.kill();
    for node in &cluster.nodes {
        until("the bus is missed", async || node.setup.log().contains("the bus does not work")).await;
    }
    until_connected(&cluster).await;
    watcher.expect_quick(&cluster.nodes).await;
}

#[tokio::test]
async fn servers_that_do_not_answer_are_passed_over() {
    let silent = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    let mut urls = silent.each_ref().map(|it| format!("nats://{}", it.local_addr().expect("an address"))).to_vec();
    let nats = start("").await;
    urls.push(nats.url());
    start_nodes(&urls.join(","), &[]).await;
}

#[tokio::test]
async fn clusters_on_one_server_do_not_hear_each_other() {
    let clusters = [Cluster::start_over(Bus::Nats, 2, &[]).await, Cluster::start_over(Bus::Nats, 2, &[]).await];
    for cluster in &clusters {
        until_connected(cluster).await;
        Watcher::start(&cluster.nodes).await.expect_quick(&cluster.nodes).await;
    }
    for node in clusters.iter().flat_map(|cluster| &cluster.nodes) {
        assert_eq!(node.metric("uproar_bus_peers").await, 1.0);
        assert_eq!(node.metric("uproar_bus_ignored_total").await, 0.0);
    }
}

/// A message that is no text, and one that is longer than any of ours.
#[tokio::test]
async fn bytes_that_are_no_announcement_are_ignored() {
    let nats = start("").await;
    let cluster = start_nodes(&nats.url(), &[]).await;
    let mut watcher = Watcher::start(&cluster.nodes).await;
    let id = cluster.nodes[0].setup.backdoor().await.texts("SELECT value FROM meta WHERE name = 'cluster'").await;
    let subject = format!("uproar.{}", id[0]);
    for garbage in [&[0xff, 0, 0xfe][..], &[b'['; 1_000_000]] {
        publish(nats.port(), &subject, garbage);
    }
    for node in &cluster.nodes {
        until("both are counted", async || node.metric("uproar_bus_ignored_total").await == 2.0).await;
    }
    watcher.expect_quick(&cluster.nodes).await;
}

/// What `uproar check` prints on standard output and standard error, with this bus and these options.
async fn check(bus: &str, more: &[&str]) -> [String; 2] {
    let setup = node_setup(&new_postgres_database().await, "a", &[&["--bus", bus], more].concat());
    let arguments = setup.arguments();
    let arguments: Vec<&str> = ["check"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    let output = run(&arguments).await;
    // A server starts without NATS.
    assert!(output.status.success(), "{output:?}");
    [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("UTF-8"))
}

/// Starts nodes that may sign in, and one that may not.
async fn expect_sign_in(nats: &TestNats, good: (&str, &[&str]), bad: (&str, &[&str])) {
    let address = format!("127.0.0.1:{}", nats.port());
    start_nodes(good.0, good.1).await;
    let [out, error] = check(good.0, good.1).await;
    assert_contains(&out, &[&format!("ok: NATS {address} (version ")]);
    assert_eq!(error, "");
    let url = new_postgres_database().await;
    let node = node_setup(&url, "a", &[&["--bus", bad.0], bad.1].concat()).start().await;
    until("the node is ready", async || node.get("/readyz", "").await.status == 200).await;
    assert_eq!(node.metric("uproar_bus_connected").await, 0.0);
    let reason = format!("{address}: it does not accept the user, password, token or credentials");
    let log = node.setup.log();
    assert_contains(&log, &["the bus does not work", &reason]);
    assert!(!log.contains("secret"), "{log}");
    let [out, error] = check(bad.0, bad.1).await;
    assert!(!out.contains("NATS") && !error.contains("secret"), "{out} {error}");
    assert_contains(&error, &[&format!("warning: NATS {address} can't be used now"), "it does not accept the user"]);
}

#[tokio::test]
async fn nodes_sign_in_with_a_user_and_a_password() {
    let nats = start("authorization: {users: [{user: \"ann\", password: \"p@ss secret\"}]}").await;
    let (good, bad) = (url(&nats, "ann:p%40ss%20secret"), url(&nats, "ann:secret"));
    expect_sign_in(&nats, (&good, &[]), (&bad, &[])).await;
}

#[tokio::test]
async fn nodes_sign_in_with_a_token() {
    let nats = start("authorization: {token: \"secret:1\"}").await;
    let (good, bad) = (url(&nats, "secret%3A1"), url(&nats, "secret"));
    expect_sign_in(&nats, (&good, &[]), (&bad, &[])).await;
}

/// A token of NATS: some claims, signed by their issuer.
fn jwt(issuer: &KeyPair, subject: &KeyPair, claims: Value) -> String {
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let body = json!({
        "jti": "1", "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(), "name": "test",
        "nats": claims,
    });
    let text = format!("{}.{}", encode(json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(body));
    let signature = issuer.sign(text.as_bytes()).expect("a key that signs");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Writes a file of credentials of a user of this account.
fn write_credentials(path: &Path, account: &KeyPair) {
    let user = KeyPair::new_user();
    let claims = json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
    let (jwt, seed) = (jwt(account, &user, claims), user.seed().expect("a seed"));
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    fs::write(path, text).expect("the file is written");
}

#[tokio::test]
async fn nodes_sign_in_with_credentials_that_may_be_replaced() {
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let of_operator = jwt(&operator, &operator, json!({"type": "operator", "version": 2}));
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let of_account = jwt(&operator, &account, json!({"type": "account", "version": 2, "limits": limits}));
    let mut nats = start(&format!(
        "operator: {of_operator}\nresolver: MEMORY\nresolver_preload: {{{}: {of_account}}}",
        account.public_key()
    ))
    .await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [good, bad] = ["good.creds", "bad.creds"].map(|name| folder.path().join(name));
    write_credentials(&good, &account);
    write_credentials(&bad, &KeyPair::new_account());
    let options = |path: &Path| ["--bus-credentials".to_owned(), path.display().to_string()];
    let [good_options, bad_options] = [options(&good), options(&bad)];
    let [good_options, bad_options] = [&good_options, &bad_options].map(|it| [it[0].as_str(), it[1].as_str()]);
    expect_sign_in(&nats, (&nats.url(), &good_options), (&nats.url(), &bad_options)).await;
    // The file is read for each session.
    write_credentials(&bad, &account);
    let cluster = start_nodes(&nats.url(), &bad_options).await;
    write_credentials(&bad, &KeyPair::new_account());
    nats.kill();
    nats.restart().await.expect("NATS starts again");
    let node = &cluster.nodes[0];
    until_down(node).await;
    write_credentials(&bad, &account);
    until_connected(&cluster).await;
}

#[tokio::test]
async fn tls_is_used_and_certificates_are_checked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pair = Pair::create(folder.path());
    let (certificate, key) = (pair.certificate.display(), pair.key.display());
    let nats = start(&format!("tls: {{cert_file: \"{certificate}\", key_file: \"{key}\"}}")).await;
    let url = new_postgres_database().await;
    let bus = format!("tls://localhost:{}", nats.port());
    let mut nodes = Vec::new();
    for (name, bus) in [("a", &bus), ("b", &bus.replace("tls:", "nats:"))] {
        let mut setup = node_setup(&url, name, &["--bus", bus]);
        setup.wrapper = vec!["env".to_owned(), format!("SSL_CERT_FILE={certificate}")];
        nodes.push(setup.start().await);
    }
    for node in &nodes {
        until("the other one is heard", async || node.metric("uproar_bus_peers").await == 1.0).await;
    }
    let stranger = node_setup(&url, "c", &["--bus", &bus]).start().await;
    until("the bus is missed", async || stranger.setup.log().contains("the bus does not work")).await;
    assert_contains(&stranger.setup.log(), &[&format!("localhost:{}: invalid peer certificate", nats.port())]);
    // `tls://` asks for TLS even if the server does not.
    let plain = start("").await;
    let bus = format!("tls://localhost:{}", plain.port());
    let stranger = node_setup(&url, "d", &["--bus", &bus]).start().await;
    until("the bus is missed", async || stranger.setup.log().contains("the bus does not work")).await;
}

#[tokio::test]
async fn a_server_that_takes_only_short_messages_or_none_is_reported() {
    let short = start("max_payload: 65536").await;
    let silent =
        start("authorization: {users: [{user: a, password: b, permissions: {publish: x, subscribe: x}}]}").await;
    for (bus, words) in [
        (short.url(), &["max_payload of 65536 bytes is too small"][..]),
        (url(&silent, "a:b"), &["Permissions Violation", "uproar."]),
    ] {
        let node = node_setup(&new_postgres_database().await, "a", &["--bus", &bus]).start().await;
        until("the bus is missed", async || node.setup.log().contains("the bus does not work")).await;
        assert_contains(&node.setup.log(), words);
        let [_, error] = check(&bus, &[]).await;
        assert_contains(&error, &[&["warning: NATS", "can't be used now"], words].concat());
    }
}

#[tokio::test]
async fn mistakes_in_the_options_are_explained() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (missing, garbage) = (folder.path().join("missing.creds"), folder.path().join("garbage.creds"));
    fs::write(&garbage, "hello").expect("the file is written");
    let [missing, garbage] = [&missing, &garbage].map(|path| path.to_str().expect("UTF-8"));
    for (options, words) in [
        (&["--bus", "http://h"][..], &["--bus: 'http://h' is not valid", "nats://HOST:4222"][..]),
        (&["--bus", "nats://ann:secret@h/x"], &["--bus: ", "'h/x'"]),
        (&["--bus", "nats://h", "--bus-credentials", missing], &["--bus-credentials: can't read", "missing.creds"]),
        (&["--bus", "nats://h", "--bus-credentials", garbage], &["garbage.creds is not a file of credentials of NATS"]),
        (&["--bus", "nats://t@h", "--bus-credentials", garbage], &["exclude each other"]),
        (&["--bus", "postgres", "--bus-credentials", garbage], &["--bus-credentials has no effect without NATS"]),
        (&["--bus", "nats://h"], &["--bus needs PostgreSQL"]),
    ] {
        let (status, error) = Setup::with_database(None, options).fail_to_start().await;
        assert_eq!(status, Some(1));
        assert_contains(&error, words);
        assert!(!error.contains("secret"), "{error}");
    }
}

/// A pooler may break LISTEN without a word. The regular sweep would be far too late for a room that was deleted.
#[tokio::test]
async fn a_node_that_does_not_hear_postgresql_looks_for_itself() {
    let nats = start("").await;
    let cluster = start_nodes(&nats.url(), &["--limit", "heads_sweep_interval_ms=86400000"]).await;
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let ann = a.sign_up("Ann").await;
    let mut clients = Vec::new();
    for room in ["one", "two"] {
        a.create_room(&ann, room).await;
        clients.push(b.join(&ann, &format!("room={room}")).await);
    }
    let mut backdoor = Backdoor::postgres(cluster.url()).await;
    break_notify(&mut backdoor).await;
    let words = "PostgreSQL's notifications do not arrive: what the session sends to itself does not come back";
    until("b has noticed", async || b.setup.log().contains(words)).await;
    a.call("DELETE", "/rooms/one", &ann.token, Value::Null).await.expect(200);
    assert_eq!(clients[0].close_code().await, Some(3503));
    mend_notify(&mut backdoor).await;
    until("b hears again", async || b.setup.log().contains("PostgreSQL's notifications arrive again")).await;
    a.call("DELETE", "/rooms/two", &ann.token, Value::Null).await.expect(200);
    assert_eq!(clients[1].close_code().await, Some(3503));
    assert_eq!(b.setup.log().matches(words).count(), 1);
    assert_eq!(b.setup.log().matches("the bus does not work").count(), 0);
}

/// Rights are told by PostgreSQL too, so a node that does not hear the bus learns of a removal within a second.
#[tokio::test]
async fn a_removal_takes_effect_without_nats() {
    let mut nats = start("").await;
    let cluster = start_nodes(&nats.url(), &[]).await;
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    let (ann, ben) = (a.sign_up("Ann").await, b.sign_up("Ben").await);
    a.create_room(&ann, "lobby").await;
    let mut on_b = b.join(&ben, "room=lobby").await;
    nats.kill();
    let removed = a.call("DELETE", "/rooms/lobby/members/Ben", &ann.token, Value::Null).await;
    assert!(removed.status < 300, "{removed:?}");
    assert_eq!(on_b.close_code().await, Some(3503));
}
