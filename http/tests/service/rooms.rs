//! Rooms and members.

use crate::support::server;
use serde_json::json;
use uproar_model::Kind;

#[tokio::test]
async fn creating_a_room() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let room = ann.post("/user/createroom", json!({"name": "Lobby"})).await.ok(201)["room"].clone();
    let epoch = room["epoch"].as_str().unwrap();
    assert_eq!(
        room,
        json!({
            "name": "lobby", "title": "Lobby", "private": false, "size": 10_000, "members": 1, "offset": 0,
            "epoch": epoch, "unread": 0, "role": "owner"
        })
    );
    let body = json!({"name": "den", "title": "The Den", "size": 3, "private": true});
    let den = ann.post("/user/createroom", body).await.ok(201)["room"].clone();
    assert_eq!((&den["title"], &den["size"], &den["private"]), (&json!("The Den"), &json!(3), &json!(true)));

    ann.post("/user/createroom", json!({"name": "LOBBY"})).await.is_error(409, "room_name_taken", Some("name"));
}

#[tokio::test]
async fn createroom_names_the_wrong_field() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    for (body, code, field) in [
        (json!({}), "missing_field", "name"),
        (json!({"name": ""}), "invalid_field", "name"),
        (json!({"name": "@1-2"}), "invalid_field", "name"),
        (json!({"name": "live:x"}), "invalid_field", "name"),
        (json!({"name": "x".repeat(65)}), "invalid_field", "name"),
        (json!({"name": "a", "title": "x".repeat(129)}), "invalid_field", "title"),
        (json!({"name": "a", "title": "a\0"}), "invalid_field", "title"),
        (json!({"name": "a", "size": 0}), "invalid_field", "size"),
        (json!({"name": "a", "size": 100_001}), "invalid_field", "size"),
        (json!({"name": "a", "size": "9"}), "invalid_field", "size"),
        (json!({"name": "a", "private": "yes"}), "invalid_field", "private"),
    ] {
        ann.post("/user/createroom", body).await.is_error(422, code, Some(field));
    }
}

#[tokio::test]
async fn finding_rooms() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let mut bob = server.signed_up("bob").await;
    for name in ["cats", "dogs", "cat-pictures"] {
        ann.post("/user/createroom", json!({"name": name})).await.ok(201);
    }
    ann.post("/user/createroom", json!({"name": "catacomb", "private": true})).await.ok(201);

    let names = |answer: &serde_json::Value| -> Vec<String> {
        answer["rooms"].as_array().unwrap().iter().map(|room| room["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = bob.get("/rooms").await.ok(200);
    assert_eq!(names(&all), ["cat-pictures", "cats", "dogs"], "a private room is not found");
    assert_eq!(all["more"], false);
    assert!(all["rooms"][0].get("role").is_none(), "bob is in none");
    assert_eq!(names(&ann.get("/rooms?query=CAT").await.ok(200)), ["cat-pictures", "catacomb", "cats"]);

    let first = bob.get("/rooms?limit=2").await.ok(200);
    assert_eq!((names(&first), &first["more"]), (vec!["cat-pictures".into(), "cats".into()], &json!(true)));
    let rest = bob.get("/rooms?limit=2&after=Cats").await.ok(200);
    assert_eq!((names(&rest), &rest["more"]), (vec!["dogs".into()], &json!(false)));
    assert_eq!(names(&bob.get("/rooms?limit=100000").await.ok(200)).len(), 3);

    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=-1", "limit"),
        ("after=@", "after"),
        ("query=%00", "query"),
    ] {
        bob.get(&format!("/rooms?{query}")).await.is_error(422, "invalid_field", Some(field));
    }
}

#[tokio::test]
async fn looking_at_joining_and_leaving_a_room() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let mut bob = server.signed_up("bob").await;
    ann.post("/user/createroom", json!({"name": "a/b c"})).await.ok(201);

    // Folded at every look-up, and decoded before.
    let path = "/rooms/A%2FB%20C";
    assert_eq!(bob.get(path).await.ok(200)["room"].get("role"), None);
    let joined = bob.call(&format!("{path}/join")).await.ok(200);
    assert_eq!((&joined["room"]["role"], &joined["room"]["members"]), (&json!("member"), &json!(2)));
    assert_eq!(bob.call(&format!("{path}/join")).await.ok(200), joined, "again changes nothing");

    assert_eq!(bob.call(&format!("{path}/leave")).await.ok(200), json!({}));
    {
        let learned = server.chat.learned.lock().unwrap();
        let (_, publication) = &learned[0];
        assert_eq!(publication.kind, Kind::Removed);
        assert_eq!((&*publication.user.username, publication.body.as_deref()), ("bob", Some(&*bob.user_id)));
    }
    bob.call(&format!("{path}/leave")).await.is_error(403, "not_member", None);
    ann.call(&format!("{path}/leave")).await.is_error(403, "not_allowed", None);
    assert_eq!(server.chat.learned.lock().unwrap().len(), 1);

    bob.get("/rooms/nowhere").await.is_error(404, "no_such_room", None);
    bob.call("/rooms/nowhere/join").await.is_error(404, "no_such_room", None);
    bob.call("/rooms/nowhere/leave").await.is_error(404, "no_such_room", None);
    bob.get("/rooms/@x").await.is_error(422, "invalid_field", Some("name"));
    bob.get("/rooms/%ff").await.is_error(400, "bad_request", None);
}

#[tokio::test]
async fn a_room_takes_as_many_as_it_has_places() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let mut bob = server.signed_up("bob").await;
    ann.post("/user/createroom", json!({"name": "cell", "size": 1})).await.ok(201);
    bob.call("/rooms/cell/join").await.is_error(409, "room_full", None);
    ann.post("/rooms/cell/members", json!({"username": "bob"})).await.is_error(409, "room_full", None);
}

/// To someone who is not in it a private room answers as one that does not exist, byte for byte.
#[tokio::test]
async fn a_private_room_does_not_exist_for_strangers() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let mut bob = server.signed_up("bob").await;
    ann.post("/user/createroom", json!({"name": "secret", "private": true})).await.ok(201);
    ann.post("/rooms/secret/messages", json!({"text": "psst"})).await.ok(201);

    let ask = async |bob: &mut crate::support::Client, room: &str| {
        let mut answers = vec![
            bob.get(&format!("/rooms/{room}")).await,
            bob.call(&format!("/rooms/{room}/join")).await,
            bob.call(&format!("/rooms/{room}/leave")).await,
            bob.get(&format!("/rooms/{room}/members")).await,
            bob.post(&format!("/rooms/{room}/members"), json!({"username": "bob"})).await,
            bob.delete(&format!("/rooms/{room}/members/ann")).await,
            bob.delete(&format!("/rooms/{room}")).await,
            bob.post(&format!("/rooms/{room}/messages"), json!({"text": "hi"})).await,
            bob.get(&format!("/user/getchats?room={room}")).await,
        ];
        for answer in &mut answers {
            answer.is_error(404, "no_such_room", None);
            answer.headers.retain(|(name, _)| name != "date");
        }
        answers.into_iter().map(|answer| (answer.headers.clone(), answer.text())).collect::<Vec<_>>()
    };
    let private = ask(&mut bob, "secret").await;
    let missing = ask(&mut bob, "nowhere").await;
    assert_eq!(private, missing);
    assert!(server.chat.learned.lock().unwrap().is_empty());

    // Its name is taken all the same.
    bob.post("/user/createroom", json!({"name": "secret"})).await.is_error(409, "room_name_taken", Some("name"));
    ann.post("/rooms/secret/members", json!({"username": "BOB"})).await.ok(200);
    bob.get("/rooms/secret").await.ok(200);
}

#[tokio::test]
async fn members_are_seen_added_and_removed() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let mut bob = server.signed_up("Bob").await;
    let mut cid = server.signed_up("cid").await;
    ann.post("/user/createroom", json!({"name": "club"})).await.ok(201);

    bob.get("/rooms/club/members").await.is_error(403, "not_member", None);
    let added = ann.post("/rooms/club/members", json!({"username": "bob"})).await.ok(200);
    let joined_at = added["member"]["joined_at"].as_u64().unwrap();
    assert_eq!(
        added,
        json!({"member": {"user": {"id": bob.user_id, "username": "Bob"}, "role": "member", "joined_at": joined_at}})
    );
    assert_eq!(ann.post("/rooms/club/members", json!({"username": "bob"})).await.ok(200), added, "again");
    ann.post("/rooms/club/members", json!({"username": "nobody"})).await.is_error(
        404,
        "no_such_user",
        Some("username"),
    );
    ann.post("/rooms/club/members", json!({"username": "@"})).await.is_error(422, "invalid_field", Some("username"));
    ann.post("/rooms/club/members", json!({})).await.is_error(422, "missing_field", Some("username"));
    bob.post("/rooms/club/members", json!({"username": "cid"})).await.is_error(403, "not_allowed", None);

    let members = bob.get("/rooms/club/members").await.ok(200);
    assert_eq!(members["members"].as_array().unwrap().len(), 2);
    assert_eq!(members["members"][0]["role"], "owner");
    let page = bob.get("/rooms/club/members?limit=1").await.ok(200);
    assert_eq!((&page["members"][0]["user"]["username"], &page["more"]), (&json!("ann"), &json!(true)));
    let page = bob.get(&format!("/rooms/club/members?limit=1&after={}", ann.user_id)).await.ok(200);
    assert_eq!((&page["members"][0]["user"]["username"], &page["more"]), (&json!("Bob"), &json!(false)));
    bob.get("/rooms/club/members?after=ann").await.is_error(422, "invalid_field", Some("after"));

    cid.call("/rooms/club/join").await.ok(200);
    bob.delete("/rooms/club/members/cid").await.is_error(403, "not_allowed", None);
    bob.delete("/rooms/club/members/ann").await.is_error(403, "not_allowed", None);
    assert_eq!(ann.delete("/rooms/club/members/CID").await.ok(200), json!({}));
    assert_eq!(server.chat.learned.lock().unwrap().len(), 1);
    ann.delete("/rooms/club/members/cid").await.is_error(404, "no_such_member", Some("username"));
    ann.delete("/rooms/club/members/nobody").await.is_error(404, "no_such_user", Some("username"));
    ann.delete("/rooms/club/members/@").await.is_error(422, "invalid_field", Some("username"));
}

#[tokio::test]
async fn deleting_a_room() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let mut bob = server.signed_up("bob").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.ok(201);
    bob.call("/rooms/lobby/join").await.ok(200);
    bob.delete("/rooms/lobby").await.is_error(403, "not_allowed", None);
    assert_eq!(ann.delete("/rooms/Lobby").await.ok(200), json!({}));
    assert_eq!(server.chat.closed.lock().unwrap().len(), 1);
    ann.get("/rooms/lobby").await.is_error(404, "no_such_room", None);
    ann.delete("/rooms/lobby").await.is_error(404, "no_such_room", None);
    ann.post("/user/createroom", json!({"name": "lobby"})).await.ok(201);
}

/// A user's connections hear of it when a room becomes or is no longer theirs, and only then.
#[tokio::test]
async fn who_joins_and_leaves_is_told() {
    let server = server().await;
    let mut ann = server.signed_up("ann").await;
    let mut bob = server.signed_up("bob").await;
    let mut cid = server.signed_up("cid").await;
    let news = |client: &crate::support::Client, word, room: &str| (client.user_id.clone(), word, room.to_owned());
    ann.post("/user/createroom", json!({"name": "Lobby"})).await.ok(201);
    ann.post("/user/createroom", json!({"name": "cell", "size": 1})).await.ok(201);
    assert_eq!(server.told(), [news(&ann, "joined", "lobby"), news(&ann, "joined", "cell")]);

    bob.call("/rooms/LOBBY/join").await.ok(200);
    assert_eq!(server.told(), [news(&bob, "joined", "lobby")]);
    bob.call("/rooms/lobby/join").await.ok(200);
    ann.post("/rooms/lobby/members", json!({"username": "bob"})).await.ok(200);
    bob.call("/rooms/cell/join").await.is_error(409, "room_full", None);
    bob.call("/rooms/nowhere/join").await.is_error(404, "no_such_room", None);
    assert_eq!(server.told(), []);

    ann.post("/rooms/Lobby/members", json!({"username": "CID"})).await.ok(200);
    assert_eq!(server.told(), [news(&cid, "joined", "lobby")]);
    bob.delete("/rooms/lobby/members/cid").await.is_error(403, "not_allowed", None);
    assert_eq!(server.told(), []);
    ann.delete("/rooms/LOBBY/members/Cid").await.ok(200);
    assert_eq!(server.told(), [news(&cid, "left", "lobby")]);
    bob.call("/rooms/Lobby/leave").await.ok(200);
    assert_eq!(server.told(), [news(&bob, "left", "lobby")]);
    bob.call("/rooms/lobby/leave").await.is_error(403, "not_member", None);
    cid.call("/rooms/nowhere/leave").await.is_error(404, "no_such_room", None);
    assert_eq!(server.told(), []);
}
