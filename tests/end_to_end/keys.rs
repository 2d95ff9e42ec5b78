//! Proves that all nodes of a cluster sign with one key, and that the command `new-key` replaces it.

use crate::databases::{Kind, new_postgres_database};
use crate::server::{Server, Setup, assert_contains, run, until};
use crate::two_nodes::alone;
use std::fs;
use std::process::Output;

on_each_database! {
    a_new_key_makes_all_tokens_invalid
}

const NODE: [&str; 2] = ["--bus", "postgres"];

async fn new_key(setup: &Setup) -> Output {
    let mut arguments = vec!["new-key".to_owned()];
    arguments.extend(setup.arguments().into_iter().skip_while(|argument| argument != "--data"));
    run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// The only line of output on standard error.
fn line(output: &Output) -> String {
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

async fn a_new_key_makes_all_tokens_invalid(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let (ann, bot) = (server.sign_up("ann").await, server.user("bot").await);
    let key = server.setup.data().join("signing.key");
    let old = fs::read(&key).unwrap();
    let refused = new_key(&server.setup).await;
    assert_eq!(refused.status.code(), Some(1), "a server runs");
    line(&refused);
    assert_eq!(fs::read(&key).unwrap(), old);
    server.stop().await;
    let done = new_key(&server.setup).await;
    assert!(done.status.success(), "{done:?}");
    assert_contains(&line(&done), &["signing.key has a new key", "sign in again"]);
    assert_ne!(fs::read(&key).unwrap(), old);
    let server = server.restart().await;
    for user in [&ann, &bot] {
        assert_eq!(server.get("/me", &user.token).await.error(), (401, "token_invalid".to_owned()));
    }
    server.get("/me", &server.user("bot").await.token).await.expect(200);
}

#[tokio::test]
async fn a_node_with_another_key_does_not_start() {
    alone!("the test starts its own nodes");
    let url = new_postgres_database().await;
    // A server without --bus has the database for itself, and its key counts from then on.
    let mut alone = Setup::with_database(Some(url.clone()), &[]).start().await;
    alone.stop().await;
    let mut setup = alone.into_setup();
    let other = Setup::with_database(Some(url.clone()), &NODE);
    let (code, error) = other.fail_to_start().await;
    assert_eq!(code, Some(1));
    assert_contains(&error, &["a different signing key from the cluster's", "copy signing.key", "--key-file"]);
    setup.add_options(&NODE);
    let mut first = setup.start().await;
    assert!(other.fail_to_start().await.1.contains("a different signing key"));

    // No node, not even one with another data folder, may be running.
    let refused = new_key(&other).await;
    assert_eq!(refused.status.code(), Some(1));
    assert_contains(&line(&refused), &["nodes with --bus are using the database", "stop all of them first"]);
    first.stop().await;
    assert!(new_key(&other).await.status.success());
    let setup = first.into_setup();
    assert!(setup.fail_to_start().await.1.contains("a different signing key"), "the old key");
    let second = other.start().await;
    fs::copy(second.setup.data().join("signing.key"), setup.data().join("signing.key")).unwrap();
    let first = setup.start().await;
    let ann = first.sign_up("ann").await;
    second.get("/me", &ann.token).await.expect(200);
}

#[tokio::test]
async fn of_two_first_nodes_with_different_keys_one_starts() {
    let url = new_postgres_database().await;
    let launch = || Setup::with_database(Some(url.clone()), &NODE).launch();
    let mut nodes = [launch(), launch()];
    let mut ended = Vec::new();
    until("one of them gives up", async || {
        ended = nodes.iter_mut().map(|node| node.server.try_exit()).collect();
        ended.iter().any(Option::is_some)
    })
    .await;
    let [first, second] = nodes;
    let (loser, winner) = if ended[0].is_some() { (first, second) } else { (second, first) };
    assert_eq!(ended.iter().flatten().next().and_then(std::process::ExitStatus::code), Some(1));
    assert!(loser.server.setup.log().contains("a different signing key"), "{}", loser.server.setup.log());
    let winner = winner.listens().await;
    let ann = winner.sign_up("ann").await;
    winner.get("/me", &ann.token).await.expect(200);
}
