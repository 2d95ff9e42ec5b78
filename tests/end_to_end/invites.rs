//! Proves that invites lead into private rooms and onto servers that are closed to strangers, on live sockets too, and
//! that operators make the first ones.

use crate::client::Response;
use crate::databases::Kind;
use crate::server::{Server, WITH_JOINS, assert_contains, number, run, text};
use serde_json::{Value, json};
use std::process::Output;

on_each_database! {
    a_private_room_opens_to_those_with_an_invite
    with_invites_an_operator_admits_the_first_people
}

fn account(name: &str, code: Option<&str>) -> Value {
    let mut body = json!({"username": name, "email": format!("{name}@example.org"), "password": "correct horse"});
    if let Some(code) = code {
        body["invite"] = code.into();
    }
    body
}

async fn a_private_room_opens_to_those_with_an_invite(kind: Kind) {
    let server = Server::start(kind, &WITH_JOINS).await;
    let (ann, bob, cid) = (server.user("ann").await, server.user("bob").await, server.user("cid").await);
    let body = json!({"name": "r", "private": true});
    server.post("/rooms", &ann.token, body).await.expect(201);
    let mut at_ann = server.join(&ann, "room=r").await;
    let created = server.post("/rooms/r/invites", &ann.token, json!({"uses": 2})).await.expect(201);
    let code = text(&created["code"]);
    let path = format!("/invites/{code}");
    let shown = server.get(&path, "").await.expect(200);
    assert_eq!((&shown["room"]["name"], &shown["invited_by"]["username"]), (&json!("r"), &json!("ann")));

    assert_eq!(server.reject_join(&bob, "room=r").await.0, 404);
    server.post(&path, &bob.token, Value::Null).await.expect(200);
    let event = at_ann.event().await;
    assert_eq!((&event["type"], &event["user"]["username"]), (&json!("added"), &json!("bob")), "{event}");
    let mut at_bob = server.join(&bob, "room=r").await;
    assert_eq!(at_bob.round_trip("hello").await.1, "hello");
    assert_eq!(number(&at_ann.event().await["offset"]), 2);
    let signed_up = server.post("/user/signup", "", account("dora", Some(&code))).await.expect(201);
    assert_eq!(at_ann.event().await["user"]["username"], "dora");
    let rooms = server.get("/rooms", signed_up["token"].as_str().unwrap()).await.expect(200);
    assert_eq!(rooms["rooms"][0]["name"], "r");

    // It is used up, and then it is as if it had been revoked.
    let ended = |response: Response| assert_eq!(response.error(), (410, "invite_ended".into()));
    ended(server.post(&path, &cid.token, Value::Null).await);
    ended(server.get(&path, "").await);
    ended(server.post("/user/signup", "", account("eve", Some(&code))).await);
    server.post(&path, &bob.token, Value::Null).await.expect(200);
    assert_eq!(at_bob.event().await["user"]["username"], "dora");
    assert_eq!(server.reject_join(&cid, "room=r").await.0, 404);
    assert_eq!(at_bob.round_trip("nothing between").await.0, 4);
}

/// The code at the end of the link that the command has printed.
#[track_caller]
fn code_in(output: &Output, before: &str) -> String {
    assert!(output.status.success(), "{output:?}");
    let link = String::from_utf8(output.stdout.clone()).unwrap();
    link.trim_end().strip_prefix(before).unwrap_or_else(|| panic!("{link}")).to_owned()
}

async fn with_invites_an_operator_admits_the_first_people(kind: Kind) {
    let mut server = Server::start(kind, &["--sign-up", "invite"]).await;
    server.setup.logs(&["who can sign up", "those who have an invite"]).await;
    let arguments = server.setup.arguments();
    let invite = async |more: &[&str]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(&[&["invite"][..], &arguments, more].concat()).await
    };
    let refused = server.post("/user/signup", "", account("ann", None)).await;
    assert_eq!(refused.error(), (403, "invite_required".into()));
    let code = code_in(
        &invite(&["--uses", "1", "--url", "https://chat.example.org"]).await,
        "https://chat.example.org/#/invite/",
    );
    let ann = server.post("/user/signup", "", account("ann", Some(&code))).await.expect(201);
    let ann = text(&ann["token"]);
    assert_eq!(server.post("/user/signup", "", account("bob", Some(&code))).await.status, 410);

    server.post("/rooms", &ann, json!({"name": "r", "private": true})).await.expect(201);
    let output = invite(&["--room", "R", "--public-url", "https://chat.example.org/"]).await;
    let code = code_in(&output, "https://chat.example.org/#/invite/");
    let bob = server.post("/user/signup", "", account("bob", Some(&code))).await.expect(201);
    let room = server.get("/rooms/r", bob["token"].as_str().unwrap()).await.expect(200);
    assert_eq!(room["room"]["role"], "member");
    let failed = invite(&["--room", "nowhere"]).await;
    assert_contains(&String::from_utf8_lossy(&failed.stderr), &["there is no such room"]);
    assert_eq!(failed.status.code(), Some(1));

    // Without a server, the command does it by itself.
    server.stop().await;
    let setup = server.into_setup();
    let code = code_in(&invite(&["--url", "http://localhost"]).await, "http://localhost/#/invite/");
    let server = setup.start().await;
    server.post("/user/signup", "", account("cid", Some(&code))).await.expect(201);
}
