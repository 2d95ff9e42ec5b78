//! Proves that the people of a direct room, and nobody else, reach it at once, by every protocol and on every node.

use crate::centrifuge::Wire;
use crate::client::User;
use crate::databases::Kind;
use crate::nodes::{Bus, Cluster};
use crate::server::{Server, text, until};
use serde_json::{Value, json};

on_each_database_and_shards! {
    a_direct_room_is_there_for_all_its_people
}
on_each_database! {
    a_block_closes_the_direct_room_of_the_two
}
on_each_bus! {
    a_direct_room_appears_on_the_other_node
}

/// Opens the direct room of a user and the other. Returns its name, and whether it is new.
async fn open(server: &Server, user: &User, other: &str) -> (String, bool) {
    let response = server.post("/me/direct", &user.token, json!({"usernames": [other]})).await;
    let is_new = response.status == 201;
    (text(&response.expect(if is_new { 201 } else { 200 })["room"]["name"]), is_new)
}

async fn a_direct_room_is_there_for_all_its_people(kind: Kind, shards: &str) {
    let server = Server::start(kind, &["--shards", shards]).await;
    let (ann, ben, eve) = (server.user("ann").await, server.user("ben").await, server.user("eve").await);
    // A user exists from the first request on.
    let (ann_id, ben_id) = (server.user_id(&ann).await, server.user_id(&ben).await);
    let mut of_ben = Wire::connect(&server, &ben).await;
    // Both at the same moment, and still one room.
    let ((at_ann, is_new), (at_ben, is_new_too)) = tokio::join!(open(&server, &ann, "ben"), open(&server, &ben, "ann"));
    assert_eq!((&at_ann, is_new), (&at_ben, !is_new_too));
    let room = format!("room:{at_ann}");
    assert_eq!(of_ben.user_event().await, json!({"joined": at_ann}));

    let rooms = of_ben.result(2, "rpc", json!({"method": "rooms", "data": {}})).await["data"]["rooms"].clone();
    let shown = &rooms[0];
    assert_eq!((&shown["name"], &shown["title"], &shown["direct"]), (&json!(at_ann), &json!("ann"), &json!(true)));
    let people = json!([{"id": ann_id, "username": "ann"}, {"id": ben_id, "username": "ben"}]);
    assert_eq!(shown["people"], people);
    assert_eq!(rooms.as_array().map(Vec::len), Some(1), "{rooms}");
    let after = json!({"method": "rooms", "data": {"after": at_ann}});
    assert_eq!(of_ben.result(3, "rpc", after).await["data"]["rooms"], json!([]));

    // By both protocols, in both directions.
    of_ben.result(4, "subscribe", json!({"channel": room})).await;
    let mut of_ann = server.join(&ann, &format!("room={at_ann}")).await;
    of_ann.send("hello").await;
    assert_eq!(of_ann.message().await.1, "hello");
    assert_eq!(of_ben.push(&room, "pub").await["data"]["text"], "hello");
    of_ben.result(5, "publish", json!({"channel": room, "data": {"text": "hi"}})).await;
    assert_eq!(of_ann.message().await.1, "hi");

    assert_eq!(server.reject_join(&eve, &format!("room={at_ann}")).await.0, 404);
    let mut of_eve = Wire::connect(&server, &eve).await;
    assert_eq!(of_eve.error(2, "subscribe", json!({"channel": room})).await, 102);
    for name in ["room:@", "room:@1-2", "room:@0123456789ABCDEF"] {
        assert_eq!(of_eve.error(3, "subscribe", json!({"channel": name})).await, 102, "{name}");
    }
    server.post(&format!("/rooms/{at_ann}/leave"), &ben.token, Value::Null).await.expect(403);
}

async fn a_block_closes_the_direct_room_of_the_two(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let (ann, ben) = (server.user("ann").await, server.user("ben").await);
    let mut of_ben = Wire::connect(&server, &ben).await;
    let (name, _) = open(&server, &ann, "ben").await;
    let room = format!("room:{name}");
    of_ben.result(2, "subscribe", json!({"channel": room})).await;
    server.call("PUT", "/me/blocks/ben", &ann.token, Value::Null).await.expect(200);
    assert_eq!(of_ben.push(&room, "pub").await["data"], json!({"room": {"who_may_post": "nobody"}}));
    let publish = json!({"channel": room, "data": {"text": "hi"}});
    assert_eq!(of_ben.error(3, "publish", publish.clone()).await, 103);
    let path = format!("/rooms/{name}/messages");
    server.post(&path, &ann.token, json!({"text": "hi"})).await.expect(403);
    server.call("DELETE", "/me/blocks/ben", &ann.token, Value::Null).await.expect(200);
    assert_eq!(of_ben.push(&room, "pub").await["data"], json!({"room": {"who_may_post": "members"}}));
    of_ben.result(4, "publish", publish).await;
    server.post(&path, &ann.token, json!({"text": "hi"})).await.expect(201);
}

async fn a_direct_room_appears_on_the_other_node(bus: Bus) {
    let cluster = Cluster::start_over(bus, 2, &[]).await;
    let [a, b] = &cluster.nodes[..] else { panic!("two nodes") };
    for node in [a, b] {
        until("the nodes hear each other", async || node.metric("uproar_bus_peers").await == 1.0).await;
    }
    let (ann, ben) = (a.sign_up("Ann").await, b.sign_up("Ben").await);
    let mut of_ben = Wire::connect(b, &ben).await;
    let (name, is_new) = open(a, &ann, "Ben").await;
    assert!(is_new);
    assert_eq!(of_ben.user_event().await, json!({"joined": name}));
    let room = format!("room:{name}");
    of_ben.result(2, "subscribe", json!({"channel": room})).await;
    let mut of_ann = a.join(&ann, &format!("room={name}")).await;
    of_ann.send("across").await;
    assert_eq!(of_ben.push(&room, "pub").await["data"]["text"], "across");
    assert_eq!(open(b, &ben, "Ann").await, (name, false));
}
