//! Proves that tokens and revocations go by the database's clock, whatever the clocks of the servers say.

use crate::client::User;
use crate::databases::Kind;
use crate::server::{BINARY_VARIABLE, Setup, text, until};
use crate::two_nodes::alone;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Shifts the wall clock of the process that loads it, by `CLOCK_SHIFT_S`.
const SHIFTED_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    const char *shift_s = getenv("CLOCK_SHIFT_S");
    if (result == 0 && clock == CLOCK_REALTIME && shift_s) now->tv_sec += atol(shift_s);
    return result;
}
"#;

/// A command that runs another one with its wall clock shifted. `None`: the binary to test may be static, and then
/// loads nothing.
fn with_shifted_clock(folder: &Path, shift_s: i64) -> Option<Vec<String>> {
    if std::env::var_os(BINARY_VARIABLE).is_some() {
        eprintln!("skipped: {BINARY_VARIABLE} may name a static binary");
        return None;
    }
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    fs::write(&source, SHIFTED_CLOCK).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(compiled.is_ok_and(|status| status.success()), "a C compiler is needed");
    Some(vec!["env".to_owned(), format!("LD_PRELOAD={}", library.display()), format!("CLOCK_SHIFT_S={shift_s}")])
}

#[tokio::test]
async fn tokens_are_valid_whatever_the_clock_of_the_server_that_issued_them() {
    alone!("a node with a wrong clock is not ready");
    let mut setup = Setup::new(Kind::Postgres, &[]).await;
    let mut users: Vec<User> = Vec::new();
    for (round, shift_s) in [-7_200, 7_200, -7_200].into_iter().enumerate() {
        let Some(wrapper) = with_shifted_clock(setup.folder(), shift_s) else { return };
        setup.wrapper = wrapper;
        let mut server = setup.start().await;
        let expected = "the clocks of this machine and of the database differ";
        until("the log says so", async || server.setup.log().contains(expected)).await;
        users.push(server.sign_up(&format!("ann{round}")).await);
        users.push(server.user(&format!("bot{round}")).await);
        if round == 0 {
            server.create_room(&users[0], "lobby").await;
        }
        for user in &users {
            server.get("/me", &user.token).await.expect(200);
            let fresh = server.post("/token/refresh", &user.token, Value::Null).await.expect(200);
            let fresh = User { name: user.name.clone(), token: text(&fresh["token"]) };
            server.join(&fresh, "room=lobby").await;
            server.join(user, "room=lobby").await;
        }
        server.stop().await;
        setup = server.into_setup();
    }
}

#[tokio::test]
async fn a_revocation_covers_the_tokens_of_a_server_with_another_clock() {
    alone!("a node with a wrong clock is not ready");
    let mut setup = Setup::new(Kind::Postgres, &[]).await;
    let Some(wrapper) = with_shifted_clock(setup.folder(), 7_200) else { return };
    setup.wrapper = wrapper;
    let mut server = setup.start().await;
    let ann = server.sign_up("ann").await;
    // It carries no generation, and is judged by its age.
    let minted = server.user("ann").await;
    server.stop().await;

    let mut setup = server.into_setup();
    setup.wrapper = with_shifted_clock(setup.folder(), -7_200).unwrap();
    let mut server = setup.start().await;
    server.post("/user/signout", &ann.token, Value::Null).await.expect(200);
    let invalid = (401, "token_invalid".to_owned());
    for _ in 0..2 {
        for user in [&ann, &minted] {
            assert_eq!(server.get("/me", &user.token).await.error(), invalid);
            assert_eq!(server.reject_join(user, "room=lobby").await, invalid);
        }
        let credentials = json!({"username": "ann", "password": "correct horse"});
        let token = text(&server.post("/user/signin", "", credentials).await.expect(200)["token"]);
        server.get("/me", &token).await.expect(200);
        server.stop().await;
        server = server.restart().await;
    }
}

#[tokio::test]
async fn a_node_whose_clock_is_wrong_is_not_ready() {
    alone!("the test starts its own node");
    for (options, is_node) in [(&["--bus", "postgres"][..], true), (&[], false)] {
        let mut setup = Setup::new(Kind::Postgres, options).await;
        let Some(wrapper) = with_shifted_clock(setup.folder(), 3_600) else { return };
        setup.wrapper = wrapper;
        let server = setup.start().await;
        let expected = "s ahead of the database's";
        let response = server.get("/readyz", "").await;
        assert_eq!(response.status, if is_node { 503 } else { 200 });
        let body = String::from_utf8_lossy(&response.body);
        assert_eq!(body.contains(expected), is_node, "{body}");
        if is_node {
            until("the log says so", async || server.setup.log().contains(expected)).await;
        }
    }
}
