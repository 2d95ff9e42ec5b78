//! Proves that a first session works: sign up, chat, read the history, restart the server, resume.

use crate::databases::Kind;
use crate::server::{Server, WITH_JOINS, number, text};
use serde_json::json;

on_each_database_and_shards! { a_first_session_works_from_sign_up_to_resume }

async fn a_first_session_works_from_sign_up_to_resume(kind: Kind, shards: &str) {
    let mut server = Server::start(kind, &[&["--shards", shards][..], &WITH_JOINS].concat()).await;
    let ann = server.sign_up("Ann").await;
    let bob = server.sign_up("Bob").await;
    let wrong = json!({"username": "ann", "password": "wrong horse"});
    assert_eq!(server.post("/user/signin", "", wrong).await.error(), (401, "wrong_credentials".into()));
    let right = json!({"email": "ann@example.org", "password": "correct horse"});
    let signed_in = server.post("/user/signin", "", right).await.expect(200);
    assert_eq!(signed_in["user"]["username"], "Ann");
    let ann = crate::client::User { token: text(&signed_in["token"]), ..ann };

    let body = json!({"name": "Lobby", "title": "The lobby"});
    let room = &server.post("/user/createroom", &ann.token, body).await.expect(201)["room"];
    assert_eq!(room["name"], "lobby");
    assert_eq!(room["offset"], 0);
    let epoch = text(&room["epoch"]);

    let mut at_ann = server.join(&ann, "room=lobby").await;
    let mut at_bob = server.join(&bob, "room=lobby").await;
    // Bob's own join is before his position.
    for (ws, offset) in [(&at_ann, 0), (&at_bob, 1)] {
        let expected = json!({"type": "joined", "room": "lobby", "epoch": epoch, "offset": offset});
        assert_eq!(ws.joined, expected);
    }
    let joined = at_ann.event().await;
    let bob_id = server.user_id(&bob).await;
    let who = json!({"id": bob_id, "username": "Bob"});
    let expected = json!({"type": "added", "offset": 1, "user": who, "added": bob_id, "username": "Bob",
        "time": joined["time"]});
    assert_eq!(joined, expected);
    at_ann.send("hello").await;
    let event = at_ann.event().await;
    assert_eq!(at_bob.event().await, event);
    assert_eq!((&event["type"], &event["offset"], &event["number"]), (&json!("message"), &json!(2), &json!(1)));
    assert_eq!((&event["user"]["username"], &event["text"]), (&json!("Ann"), &json!("hello")));
    at_bob.send("hi, Ann ☺").await;
    for ws in [&mut at_ann, &mut at_bob] {
        assert_eq!(ws.message().await, (3, "hi, Ann ☺".into()));
    }
    let published = server.post("/rooms/lobby/messages", &bob.token, json!({"text": "by HTTP"})).await.expect(201);
    assert_eq!((number(&published["offset"]), text(&published["epoch"])), (4, epoch.clone()));
    for ws in [&mut at_ann, &mut at_bob] {
        assert_eq!(ws.message().await, (4, "by HTTP".into()));
    }

    let texts = ["hello", "hi, Ann ☺", "by HTTP"];
    let before = server.get("/user/getchats?room=lobby&memberships=true", &ann.token).await.expect(200);
    assert_eq!((text(&before["epoch"]), number(&before["offset"])), (epoch.clone(), 4));
    let change = json!([{"offset": 1, "time": joined["time"], "user": who, "added": who}]);
    assert_eq!(before["memberships"], change);
    let stored: Vec<String> = before["messages"].as_array().unwrap().iter().map(|m| text(&m["text"])).collect();
    assert_eq!(stored, texts);
    assert_eq!(before["messages"][0]["time"], event["time"]);

    server.stop().await;
    assert_eq!(at_ann.close_code().await, Some(1001));
    let server = server.restart().await;

    // The token, the history and the epoch are the same, and the offsets continue.
    assert_eq!(server.get("/user/getchats?room=lobby&memberships=true", &ann.token).await.expect(200), before);
    let mut at_ann = server.join(&ann, &format!("room=lobby&since=2&epoch={epoch}")).await;
    assert_eq!((&at_ann.joined["recovered"], at_ann.offset(), at_ann.epoch()), (&json!(true), 2, epoch.clone()));
    let mut at_bob = server.join(&bob, &format!("room=lobby&since=4&epoch={epoch}")).await;
    assert_eq!((&at_bob.joined["recovered"], at_bob.offset()), (&json!(true), 4));
    at_bob.send("back again").await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(at_ann.message().await);
    }
    assert_eq!(seen, [(3, texts[1].into()), (4, texts[2].into()), (5, "back again".into())]);
    assert_eq!(at_bob.message().await, (5, "back again".into()));
    // Nothing is repeated: the next event is the next message.
    assert_eq!(at_ann.round_trip("and on").await, (6, "and on".into()));
    assert_eq!(at_bob.message().await, (6, "and on".into()));
}
