//! Rooms and their members.

use crate::support::{server, server_with_rates};
use serde_json::json;
use uproar_model::Kind;
use uproar_model::fairness::Rate;
use uproar_store::WriteRates;

#[tokio::test]
async fn a_room_is_created() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let room = ann.post("/user/createroom", json!({"name": "Lobby"})).await.expect(201)["room"].clone();
    let epoch = room["epoch"].as_str().unwrap();
    assert_eq!(
        room,
        json!({
            "name": "lobby", "title": "Lobby", "private": false, "size": 10_000, "members": 1, "offset": 0,
            "epoch": epoch, "unread": 0, "role": "owner", "topic": "", "slow_mode_seconds": 0,
            "who_may_post": "members", "who_may_invite": "moderators"
        })
    );
    let body = json!({"name": "den", "title": "The Den", "size": 3, "private": true});
    let den = ann.post("/user/createroom", body).await.expect(201)["room"].clone();
    assert_eq!((&den["title"], &den["size"], &den["private"]), (&json!("The Den"), &json!(3), &json!(true)));

    ann.post("/user/createroom", json!({"name": "LOBBY"})).await.assert_error(409, "room_name_taken", Some("name"));
}

#[tokio::test]
async fn createroom_names_the_invalid_field() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
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
        ann.post("/user/createroom", body).await.assert_error(422, code, Some(field));
    }
}

#[tokio::test]
async fn rooms_are_found_by_name_in_pages() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let mut bob = server.sign_up("bob").await;
    for name in ["cats", "dogs", "cat-pictures"] {
        ann.post("/user/createroom", json!({"name": name})).await.expect(201);
    }
    ann.post("/user/createroom", json!({"name": "catacomb", "private": true})).await.expect(201);

    let names = |response: &serde_json::Value| -> Vec<String> {
        response["rooms"].as_array().unwrap().iter().map(|room| room["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = bob.get("/rooms").await.expect(200);
    assert_eq!(names(&all), ["cat-pictures", "cats", "dogs"], "a private room must not be found");
    assert_eq!(all["more"], false);
    assert!(all["rooms"][0].get("role").is_none(), "bob is not a member");
    assert_eq!(names(&ann.get("/rooms?query=CAT").await.expect(200)), ["cat-pictures", "catacomb", "cats"]);

    let first = bob.get("/rooms?limit=2").await.expect(200);
    assert_eq!((names(&first), &first["more"]), (vec!["cat-pictures".into(), "cats".into()], &json!(true)));
    let rest = bob.get("/rooms?limit=2&after=Cats").await.expect(200);
    assert_eq!((names(&rest), &rest["more"]), (vec!["dogs".into()], &json!(false)));
    assert_eq!(names(&bob.get("/rooms?limit=100000").await.expect(200)).len(), 3);

    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=-1", "limit"),
        ("after=@", "after"),
        ("query=%00", "query"),
    ] {
        bob.get(&format!("/rooms?{query}")).await.assert_error(422, "invalid_field", Some(field));
    }
}

#[tokio::test]
async fn a_room_is_looked_up_joined_and_left() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let mut bob = server.sign_up("bob").await;
    ann.post("/user/createroom", json!({"name": "a+b c"})).await.expect(201);

    // Every lookup decodes the name and folds it.
    let path = "/rooms/A%2BB%20C";
    assert_eq!(bob.get(path).await.expect(200)["room"].get("role"), None);
    let joined = bob.call(&format!("{path}/join")).await.expect(200);
    assert_eq!((&joined["room"]["role"], &joined["room"]["members"]), (&json!("member"), &json!(2)));
    assert_eq!(joined["room"]["offset"], 1);
    assert_eq!(bob.call(&format!("{path}/join")).await.expect(200), joined, "joining again must change nothing");

    assert_eq!(bob.call(&format!("{path}/leave")).await.expect(200), json!({}));
    {
        let learned = server.chat.learned.lock().unwrap();
        let kinds: Vec<_> = learned.iter().map(|(_, publication)| publication.kind).collect();
        assert_eq!(kinds, [Kind::Added, Kind::Removed]);
        for (_, publication) in learned.iter() {
            let member = publication.member().unwrap();
            assert_eq!((&*publication.user.username, member.id, member.username), ("bob", &*bob.user_id, Some("bob")));
        }
    }
    bob.call(&format!("{path}/leave")).await.assert_error(403, "not_member", None);
    ann.call(&format!("{path}/leave")).await.assert_error(403, "not_allowed", None);
    assert_eq!(server.chat.learned.lock().unwrap().len(), 2);

    bob.get("/rooms/nowhere").await.assert_error(404, "no_such_room", None);
    bob.call("/rooms/nowhere/join").await.assert_error(404, "no_such_room", None);
    bob.call("/rooms/nowhere/leave").await.assert_error(404, "no_such_room", None);
    bob.get("/rooms/@x").await.assert_error(422, "invalid_field", Some("name"));
    bob.get("/rooms/%ff").await.assert_error(400, "bad_request", None);
}

#[tokio::test]
async fn a_full_room_admits_nobody() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let mut bob = server.sign_up("bob").await;
    ann.post("/user/createroom", json!({"name": "cell", "size": 1})).await.expect(201);
    bob.call("/rooms/cell/join").await.assert_error(409, "room_full", None);
    ann.post("/rooms/cell/members", json!({"username": "bob"})).await.assert_error(409, "room_full", None);
}

/// For a user who is not a member, the responses are the same as for a missing room, byte for byte.
#[tokio::test]
async fn a_private_room_is_invisible_to_others() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let mut bob = server.sign_up("bob").await;
    ann.post("/user/createroom", json!({"name": "secret", "private": true})).await.expect(201);
    ann.post("/rooms/secret/messages", json!({"text": "psst"})).await.expect(201);

    let call_all = async |bob: &mut crate::support::Client, room: &str| {
        let mut responses = vec![
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
        for response in &mut responses {
            response.assert_error(404, "no_such_room", None);
            response.headers.retain(|(name, _)| name != "date");
        }
        responses.into_iter().map(|response| (response.headers.clone(), response.text())).collect::<Vec<_>>()
    };
    let private = call_all(&mut bob, "secret").await;
    let missing = call_all(&mut bob, "nowhere").await;
    assert_eq!(private, missing);
    assert!(server.chat.learned.lock().unwrap().is_empty());

    // Its name is taken nevertheless.
    bob.post("/user/createroom", json!({"name": "secret"})).await.assert_error(409, "room_name_taken", Some("name"));
    ann.post("/rooms/secret/members", json!({"username": "BOB"})).await.expect(200);
    bob.get("/rooms/secret").await.expect(200);
}

#[tokio::test]
async fn members_are_listed_added_and_removed() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let mut bob = server.sign_up("Bob").await;
    let mut cid = server.sign_up("cid").await;
    ann.post("/user/createroom", json!({"name": "club"})).await.expect(201);

    bob.get("/rooms/club/members").await.assert_error(403, "not_member", None);
    let added = ann.post("/rooms/club/members", json!({"username": "bob"})).await.expect(200);
    let joined_at = added["member"]["joined_at"].as_u64().unwrap();
    assert_eq!(
        added,
        json!({"member": {"user": {"id": bob.user_id, "username": "Bob"}, "role": "member", "joined_at": joined_at}})
    );
    assert_eq!(
        ann.post("/rooms/club/members", json!({"username": "bob"})).await.expect(200),
        added,
        "adding again must change nothing"
    );
    ann.post("/rooms/club/members", json!({"username": "nobody"})).await.assert_error(
        404,
        "no_such_user",
        Some("username"),
    );
    ann.post("/rooms/club/members", json!({"username": "@"})).await.assert_error(
        422,
        "invalid_field",
        Some("username"),
    );
    ann.post("/rooms/club/members", json!({})).await.assert_error(422, "missing_field", Some("username"));
    bob.post("/rooms/club/members", json!({"username": "cid"})).await.assert_error(403, "not_allowed", None);

    let members = bob.get("/rooms/club/members").await.expect(200);
    assert_eq!(members["members"].as_array().unwrap().len(), 2);
    assert_eq!(members["members"][0]["role"], "owner");
    let page = bob.get("/rooms/club/members?limit=1").await.expect(200);
    assert_eq!((&page["members"][0]["user"]["username"], &page["more"]), (&json!("ann"), &json!(true)));
    let page = bob.get(&format!("/rooms/club/members?limit=1&after={}", ann.user_id)).await.expect(200);
    assert_eq!((&page["members"][0]["user"]["username"], &page["more"]), (&json!("Bob"), &json!(false)));
    bob.get("/rooms/club/members?after=ann").await.assert_error(422, "invalid_field", Some("after"));

    cid.call("/rooms/club/join").await.expect(200);
    bob.delete("/rooms/club/members/cid").await.assert_error(403, "not_allowed", None);
    bob.delete("/rooms/club/members/ann").await.assert_error(403, "not_allowed", None);
    assert_eq!(ann.delete("/rooms/club/members/CID").await.expect(200), json!({}));
    {
        let learned = server.chat.learned.lock().unwrap();
        let told: Vec<_> = learned
            .iter()
            .map(|(_, p)| (p.kind, p.user.username.to_string(), p.member().unwrap().username.unwrap().to_owned()))
            .collect();
        let change = |kind, by: &str, member: &str| (kind, by.to_owned(), member.to_owned());
        let (added, removed) = (Kind::Added, Kind::Removed);
        assert_eq!(told, [change(added, "ann", "Bob"), change(added, "cid", "cid"), change(removed, "ann", "cid")]);
    }
    ann.delete("/rooms/club/members/cid").await.assert_error(404, "no_such_member", Some("username"));
    ann.delete("/rooms/club/members/nobody").await.assert_error(404, "no_such_user", Some("username"));
    ann.delete("/rooms/club/members/@").await.assert_error(422, "invalid_field", Some("username"));
}

#[tokio::test]
async fn a_room_is_deleted() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let mut bob = server.sign_up("bob").await;
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
    bob.call("/rooms/lobby/join").await.expect(200);
    bob.delete("/rooms/lobby").await.assert_error(403, "not_allowed", None);
    assert_eq!(ann.delete("/rooms/Lobby").await.expect(200), json!({}));
    assert_eq!(server.chat.closed.lock().unwrap().len(), 1);
    ann.get("/rooms/lobby").await.assert_error(404, "no_such_room", None);
    ann.delete("/rooms/lobby").await.assert_error(404, "no_such_room", None);
    ann.post("/user/createroom", json!({"name": "lobby"})).await.expect(201);
}

/// A user's connections are notified when the user becomes or ceases to be a member, and only then.
#[tokio::test]
async fn users_who_join_or_leave_are_notified() {
    let server = server().await;
    let mut ann = server.sign_up("ann").await;
    let mut bob = server.sign_up("bob").await;
    let mut cid = server.sign_up("cid").await;
    let event = |client: &crate::support::Client, word, room: &str| (client.user_id.clone(), word, room.to_owned());
    ann.post("/user/createroom", json!({"name": "Lobby"})).await.expect(201);
    ann.post("/user/createroom", json!({"name": "cell", "size": 1})).await.expect(201);
    assert_eq!(server.notified(), [event(&ann, "joined", "lobby"), event(&ann, "joined", "cell")]);

    bob.call("/rooms/LOBBY/join").await.expect(200);
    assert_eq!(server.notified(), [event(&bob, "joined", "lobby")]);
    bob.call("/rooms/lobby/join").await.expect(200);
    ann.post("/rooms/lobby/members", json!({"username": "bob"})).await.expect(200);
    bob.call("/rooms/cell/join").await.assert_error(409, "room_full", None);
    bob.call("/rooms/nowhere/join").await.assert_error(404, "no_such_room", None);
    assert_eq!(server.notified(), []);

    ann.post("/rooms/Lobby/members", json!({"username": "CID"})).await.expect(200);
    assert_eq!(server.notified(), [event(&cid, "joined", "lobby")]);
    bob.delete("/rooms/lobby/members/cid").await.assert_error(403, "not_allowed", None);
    assert_eq!(server.notified(), []);
    ann.delete("/rooms/LOBBY/members/Cid").await.expect(200);
    assert_eq!(server.notified(), [event(&cid, "left", "lobby")]);
    bob.call("/rooms/Lobby/leave").await.expect(200);
    assert_eq!(server.notified(), [event(&bob, "left", "lobby")]);
    bob.call("/rooms/lobby/leave").await.assert_error(403, "not_member", None);
    cid.call("/rooms/nowhere/leave").await.assert_error(404, "no_such_room", None);
    assert_eq!(server.notified(), []);
}

#[tokio::test]
async fn a_user_who_changes_rooms_too_often_is_refused() {
    let rates = WriteRates { writes: Some(Rate::per_minute(1, 3)), rooms_owned: Some(2), ..WriteRates::default() };
    let server = server_with_rates(rates).await;
    let (mut ann, mut ben) = (server.sign_up("ann").await, server.sign_up("ben").await);
    for name in ["first", "second"] {
        ann.post("/user/createroom", json!({"name": name})).await.expect(201);
    }
    ann.post("/user/createroom", json!({"name": "third"})).await.assert_error(409, "too_many_rooms", None);
    let refused = ann.delete("/rooms/first").await;
    refused.assert_error(429, "rate_limited", None);
    assert!(matches!(refused.header("retry-after").unwrap().parse(), Ok(1..=60)));
    ann.delete("/rooms/second/members/ben").await.assert_error(429, "rate_limited", None);
    ann.post("/rooms/second/members", json!({"username": "ben"})).await.assert_error(429, "rate_limited", None);
    // Others and reading are not affected.
    ben.call("/rooms/second/join").await.expect(200);
    ann.get("/rooms/second").await.expect(200);
}

/// A stranger once decided who could be added, and learned from it who was in which private room.
#[tokio::test]
async fn only_those_who_may_add_members_use_up_additions() {
    let rates = WriteRates { joins_of_one_room: Some(Rate::per_minute(1, 2)), ..WriteRates::default() };
    let server = server_with_rates(rates).await;
    let (mut ann, mut eve) = (server.sign_up("ann").await, server.sign_up("eve").await);
    server.sign_up("ben").await;
    ann.post("/user/createroom", json!({"name": "cell", "private": true})).await.expect(201);
    for username in ["ann", "ben", "ben", "ann", "ben", "ann"] {
        let refused = eve.post("/rooms/cell/members", json!({"username": username})).await;
        refused.assert_error(404, "no_such_room", None);
    }
    for _ in 0..2 {
        ann.post("/rooms/cell/members", json!({"username": "ben"})).await.expect(200);
        // It changes nothing.
        ann.post("/rooms/cell/members", json!({"username": "ben"})).await.expect(200);
        ann.delete("/rooms/cell/members/ben").await.expect(200);
    }
    ann.post("/rooms/cell/members", json!({"username": "ben"})).await.assert_error(429, "rate_limited", None);
}

#[tokio::test]
async fn those_who_are_added_to_many_rooms_can_leave_them_and_create_their_own() {
    let rates = WriteRates {
        writes: Some(Rate::per_hour(1, 3)),
        additions: Some(Rate::per_hour(20, 20)),
        ..WriteRates::default()
    };
    let server = server_with_rates(rates).await;
    let mut ben = server.sign_up("ben").await;
    for n in 0..4 {
        let (mut other, name) = (server.sign_up(&format!("other{n}")).await, format!("room{n}"));
        other.post("/user/createroom", json!({"name": name})).await.expect(201);
        other.post(&format!("/rooms/{name}/members"), json!({"username": "ben"})).await.expect(200);
    }
    for n in 0..4 {
        ben.call(&format!("/rooms/room{n}/leave")).await.expect(200);
    }
    ben.post("/user/createroom", json!({"name": "own"})).await.expect(201);
    // To leave where one is no member, or the owner, is a write like any other.
    ben.call("/rooms/room0/leave").await.assert_error(403, "not_member", None);
    ben.call("/rooms/own/leave").await.assert_error(403, "not_allowed", None);
    ben.call("/rooms/room0/leave").await.assert_error(429, "rate_limited", None);
}

#[tokio::test]
async fn a_user_can_join_and_leave_a_room_only_a_few_times() {
    let rates = WriteRates { joins_of_one_room: Some(Rate::per_minute(1, 2)), ..WriteRates::default() };
    let server = server_with_rates(rates).await;
    let (mut ann, mut ben) = (server.sign_up("ann").await, server.sign_up("ben").await);
    for name in ["lobby", "kitchen"] {
        ann.post("/user/createroom", json!({"name": name})).await.expect(201);
    }
    for _ in 0..2 {
        ben.call("/rooms/lobby/join").await.expect(200);
        ben.call("/rooms/lobby/join").await.expect(200);
        ben.call("/rooms/lobby/leave").await.expect(200);
    }
    ben.call("/rooms/lobby/join").await.assert_error(429, "rate_limited", None);
    ben.call("/rooms/kitchen/join").await.expect(200);
}
