//! Proves that Uproar works with the Centrifugo SDKs for JavaScript and Python, each in JSON and in Protobuf.
//!
//! Each test is written once and runs with these four clients. The database and the number of shards vary between
//! clients and tests. `UPROAR_TEST_DATABASE=sqlite` (or `postgres`) and `UPROAR_TEST_SHARDS=1` set them for all tests,
//! as `make test-all` does.

use crate::api::{api_key, call, printed};
use crate::client::{User, Ws};
use crate::databases::Kind;
use crate::sdk_client::{Driver, Sdk, Subscription, assert_failed};
use crate::server::{Server, number, text, until, with_limits};
use crate::two_nodes::are_two;
use serde_json::{Value, json};

/// Sets the database for all tests.
const DATABASE_VARIABLE: &str = "UPROAR_TEST_DATABASE";
/// Sets the number of shards for all tests.
const SHARDS_VARIABLE: &str = "UPROAR_TEST_SHARDS";
/// The default of `outbound_message_limit_bytes`.
const OUTBOUND_MESSAGE_LIMIT_BYTES: u64 = 256 * 1024;

/// Turns each `async fn(Sdk, Kind, shards: &str)` into a test with each of the four clients.
macro_rules! with_each_client {
    ($($name:ident)+) => {
        const TESTS: &[&str] = &[$(stringify!($name)),+];

        $(mod $name {
            use super::{Sdk, environment};

            async fn with(sdk: Sdk) {
                let (kind, shards) = environment(stringify!($name), sdk);
                super::$name(sdk, kind, &shards).await;
            }

            #[tokio::test]
            async fn with_javascript_and_json() {
                with(Sdk::JsJson).await;
            }

            #[tokio::test]
            async fn with_javascript_and_protobuf() {
                with(Sdk::JsProtobuf).await;
            }

            #[tokio::test]
            async fn with_python_and_json() {
                with(Sdk::PyJson).await;
            }

            #[tokio::test]
            async fn with_python_and_protobuf() {
                with(Sdk::PyProtobuf).await;
            }
        })+
    };
}

with_each_client! {
    rooms_and_live_channels_deliver
    history_is_paged_in_both_directions
    presence_joins_and_leaves_are_reported
    rpc_calls_and_user_events_work
    invalid_publishes_get_their_errors
    subscriptions_and_tokens_are_rejected_with_their_codes
    a_given_position_is_recovered
    expired_tokens_are_refreshed
    a_removed_member_stays_unsubscribed
    signing_out_disconnects_every_client
    missed_messages_arrive_once_and_in_order
    kills_and_restarts_lose_nothing
    connect_and_all_subscribes_fit_into_one_frame
    every_command_is_answered
    silent_clients_are_disconnected_and_busy_ones_are_pinged
    large_content_is_split_into_messages_within_the_limit
    crossing_unsubscribes_and_subscribes_leave_both_sides_agreeing
    backends_act_on_connections_with_the_codes_they_choose
    users_that_backends_create_rename_and_add_learn_of_it
}

/// Varies the database and the number of shards: any four successive tests run all combinations with each client.
fn environment(test: &str, sdk: Sdk) -> (Kind, String) {
    let test = TESTS.iter().position(|known| *known == test).expect("a test of the list");
    let (kind, shards) = match (test + sdk as usize) % 4 {
        0 => (Kind::Sqlite, "2"),
        1 => (Kind::Postgres, "1"),
        2 => (Kind::Sqlite, "1"),
        _ => (Kind::Postgres, "2"),
    };
    let kind = match std::env::var(DATABASE_VARIABLE).as_deref() {
        Ok("sqlite") => Kind::Sqlite,
        Ok("postgres") => Kind::Postgres,
        Ok(other) => panic!("{DATABASE_VARIABLE}={other} is neither sqlite nor postgres"),
        Err(_) if are_two() => Kind::Postgres,
        Err(_) => kind,
    };
    (kind, std::env::var(SHARDS_VARIABLE).unwrap_or(shards.to_owned()))
}

/// Starts a server with these limits, and a driver for it.
async fn start(sdk: Sdk, kind: Kind, shards: &str, limits: &[&str]) -> (Server, Driver) {
    let server = Server::start(kind, &with_limits(&["--shards", shards], limits)).await;
    let driver = Driver::start(sdk, server.port).await;
    (server, driver)
}

/// Mints a token for a user, and waits until it has expired.
async fn expired(server: &Server, name: &str) -> User {
    let user = server.mint(name, "1").await;
    let is_expired = async || server.get("/me", &user.token).await.status == 401;
    until("the token has expired", is_expired).await;
    user
}

/// A fast sender whose messages have their offsets as texts.
struct NumberedSender {
    ws: Ws,
    last: u64,
}

impl NumberedSender {
    async fn join(server: &Server, user: &User, room: &str) -> NumberedSender {
        let ws = server.join(user, &format!("room={room}")).await;
        NumberedSender { last: ws.offset(), ws }
    }

    /// Sends that many more messages, and waits until they are stored.
    async fn send(&mut self, messages: u64) {
        /// The largest number of messages without an answer.
        const WINDOW: u64 = 32;
        let (first, last) = (self.last + 1, self.last + messages);
        for offset in first..=last {
            self.ws.send(offset.to_string()).await;
            if offset - self.last >= WINDOW {
                self.receive().await;
            }
        }
        while self.last < last {
            self.receive().await;
        }
    }

    async fn receive(&mut self) {
        self.last += 1;
        assert_eq!(self.ws.message().await, (self.last, self.last.to_string()));
    }
}

async fn rooms_and_live_channels_deliver(sdk: Sdk, kind: Kind, shards: &str) {
    let (server, driver) = start(sdk, kind, shards, &[]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let epoch = text(&server.get("/rooms/r", &ann.token).await.expect(200)["room"]["epoch"]);
    let id = server.user_id(&ann).await;

    let at_ann = driver.create("ann", json!({"token": ann.token})).await;
    at_ann.start_connecting().await;
    assert!(!text(&at_ann.expect_state("connected").await["id"]).is_empty());
    at_ann.user_channel(&id).await;
    let at_bob = driver.connect("bob", &bob.token).await;
    let in_ann = at_ann.start_subscribing("room:r", json!({})).await;
    let event = in_ann.expect_state("subscribed").await;
    assert_eq!((&event["recoverable"], &event["positioned"]), (&json!(true), &json!(true)), "{event}");
    assert_eq!((&event["was_recovering"], &event["recovered"]), (&json!(false), &json!(false)), "{event}");
    assert_eq!((&event["offset"], &event["epoch"]), (&json!(0), &json!(epoch)), "{event}");
    let in_bob = at_bob.subscribe("room:r", json!({"recoverable": true})).await;

    // Messages by each API reach each client.
    let text = "two\nlines, \"quoted\", ünïcödé ✓ \u{2028} \\ \u{1f600}";
    in_ann.publish(json!({"text": text, "id": "my own"})).await.expect("published");
    server.post("/rooms/r/messages", &bob.token, json!({"text": "by HTTP"})).await.expect(201);
    let mut plain = server.join(&ann, "room=r").await;
    plain.send("by the plain protocol").await;
    for subscription in [&in_ann, &in_bob] {
        let event = subscription.publication().await;
        assert_eq!((&event["offset"], &event["data"]), (&json!(1), &json!({"text": text, "id": "my own"})), "{event}");
        assert_eq!((&event["user"], &event["client_id"]), (&json!(id), &json!("")), "{event}");
        assert_eq!(event["conn_info"], json!({"username": "ann"}), "{event}");
        assert_eq!(subscription.message().await, (2, "by HTTP".into()));
        assert_eq!(subscription.message().await, (3, "by the plain protocol".into()));
    }
    assert_eq!(plain.message().await, (3, "by the plain protocol".into()));
    in_bob.publish_text("from an SDK").await;
    assert_eq!(plain.message().await, (4, "from an SDK".into()));

    // Bob unsubscribes for a while, and then disconnects for a while.
    in_bob.unsubscribe().await;
    in_ann.publish_text("without Bob").await;
    let again = at_bob.start_subscribing("room:r", json!({})).await;
    let event = again.expect_state("subscribed").await;
    assert_eq!((&event["recovered"], &event["offset"]), (&json!(true), &json!(4)), "{event}");
    for (offset, text) in [(4, "from an SDK"), (5, "without Bob")] {
        assert_eq!(in_bob.message().await, (offset, text.into()));
        assert_eq!(in_ann.message().await, (offset, text.into()));
    }
    at_bob.disconnect().await;
    assert_eq!(at_bob.becomes("disconnected").await, 0);
    in_ann.publish_text("still without Bob").await;
    at_bob.connect().await;
    assert_eq!(in_bob.recovers().await, 5);
    for subscription in [&in_ann, &in_bob] {
        assert_eq!(subscription.message().await, (6, "still without Bob".into()));
    }

    // `live:` channels take any JSON, and have no offsets.
    let live_ann = at_ann.start_subscribing("live:Ünïcödé x", json!({})).await;
    let event = live_ann.expect_state("subscribed").await;
    assert_eq!((&event["recoverable"], &event["positioned"]), (&json!(false), &json!(false)), "{event}");
    let live_bob = at_bob.subscribe("live:Ünïcödé x", json!({})).await;
    let data = json!({"any": [1, 2.5, null, {"x": "a\nb"}]});
    live_ann.publish(data.clone()).await.expect("published");
    for subscription in [&live_ann, &live_bob] {
        let event = subscription.ephemeral("any").await;
        assert_eq!((&event["data"], &event["user"]), (&data, &json!(id)), "{event}");
        assert_eq!(event["conn_info"], json!({"username": "ann"}), "{event}");
    }
}

async fn history_is_paged_in_both_directions(sdk: Sdk, kind: Kind, shards: &str) {
    let (server, driver) = start(sdk, kind, shards, &["history_page_limit=10"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    server.create_room(&ann, "empty").await;
    NumberedSender::join(&server, &ann, "r").await.send(12).await;
    let client = driver.connect("ann", &ann.token).await;
    assert_failed(client.channel("room:r").history(json!({"limit": 1})).await, 103);
    let room = client.start_subscribing("room:r", json!({})).await;
    let epoch = text(&room.expect_state("subscribed").await["epoch"]);

    let since = |offset: u64| json!({"offset": offset, "epoch": epoch});
    let cases: [(Value, Vec<u64>); 12] = [
        (json!({}), vec![]),
        (json!({"limit": 0}), vec![]),
        (json!({"limit": 0, "since": since(3)}), vec![]),
        (json!({"limit": 5}), (1..=5).collect()),
        (json!({"limit": -1}), (1..=10).collect()),
        (json!({"limit": 1_000_000}), (1..=10).collect()),
        (json!({"limit": 5, "since": since(3)}), (4..=8).collect()),
        (json!({"limit": 5, "since": {"offset": 10, "epoch": ""}}), vec![11, 12]),
        (json!({"limit": 5, "since": since(12)}), vec![]),
        (json!({"limit": 5, "reverse": true}), (8..=12).rev().collect()),
        (json!({"limit": 3, "reverse": true, "since": since(8)}), vec![7, 6, 5]),
        (json!({"limit": -1, "reverse": true, "since": since(2)}), vec![1]),
    ];
    for (options, expected) in cases {
        let history = room.history(options.clone()).await.expect("history");
        let publications = history["publications"].as_array().expect("publications");
        let offsets: Vec<u64> = publications.iter().map(|publication| number(&publication["offset"])).collect();
        assert_eq!(offsets, expected, "{options}");
        assert_eq!((number(&history["offset"]), text(&history["epoch"])), (12, epoch.clone()), "{options}");
        for publication in publications {
            assert_eq!(publication["data"], json!({"text": publication["offset"].to_string()}), "{options}");
            assert_eq!(publication["conn_info"], json!({"username": "ann"}), "{options}");
        }
    }
    for reverse in [false, true] {
        let wrong = json!({"limit": 5, "since": {"offset": 3, "epoch": "another"}, "reverse": reverse});
        assert_failed(room.history(wrong).await, 112);
    }
    assert_failed(room.history(json!({"limit": 5, "since": since(0), "reverse": true})).await, 107);

    let empty = client.subscribe("room:empty", json!({})).await;
    let history = empty.history(json!({"limit": 5})).await.expect("history");
    assert_eq!((&history["publications"], &history["offset"]), (&json!([]), &json!(0)));
    assert!(!text(&history["epoch"]).is_empty());
}

async fn presence_joins_and_leaves_are_reported(sdk: Sdk, kind: Kind, shards: &str) {
    let (server, driver) = start(sdk, kind, shards, &["join_leave_limit=100"]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let at_ann = driver.connect("ann", &ann.token).await;
    let at_bob = driver.create("bob", json!({"token": bob.token})).await;
    let second = driver.connect("second", &bob.token).await;
    for channel in ["room:r", "live:x"] {
        at_bob.start_connecting().await;
        let bobs_client = text(&at_bob.expect_state("connected").await["id"]);
        let in_ann = at_ann.subscribe(channel, json!({"join_leave": true})).await;
        assert_failed(at_bob.channel(channel).presence().await, 103);
        assert_failed(at_bob.channel(channel).presence_stats().await, 103);
        let in_bob = at_bob.subscribe(channel, json!({})).await;
        // Clients may receive their own join, so it is skipped.
        let others = async |subscription: &Subscription<'_>| {
            loop {
                let change = subscription.presence_change().await;
                if change.1 != "ann" {
                    return change;
                }
            }
        };
        assert_eq!(others(&in_ann).await, ("join".into(), "bob".into()));
        assert_eq!(in_ann.presence_stats().await, Ok((2, 2)));
        let in_second = second.subscribe(channel, json!({})).await;
        assert_eq!(others(&in_ann).await, ("join".into(), "bob".into()));
        // Bob's node may learn of it later than Ann's.
        until("all three are here", async || in_bob.presence_stats().await == Ok((3, 2))).await;
        let present = in_ann.presence().await.expect("presence");
        let clients = present.as_object().expect("clients");
        assert_eq!(clients.len(), 3, "{present}");
        for (client, info) in clients {
            assert_eq!(&info["client_id"], client, "{present}");
            let name = &info["conn_info"]["username"];
            let user = if name == "ann" { &ann } else { &bob };
            assert_eq!((&info["user"], name), (&json!(server.user_id(user).await), &json!(user.name)), "{present}");
        }
        assert_eq!(present[&bobs_client]["conn_info"]["username"], "bob", "{present}");

        in_second.unsubscribe().await;
        assert_eq!(others(&in_ann).await, ("leave".into(), "bob".into()));
        assert_eq!(in_ann.presence_stats().await, Ok((2, 2)));
        at_bob.disconnect().await;
        assert_eq!(at_bob.becomes("disconnected").await, 0);
        assert_eq!(others(&in_ann).await, ("leave".into(), "bob".into()));
        assert_eq!(in_ann.presence_stats().await, Ok((1, 1)));
        // Clients that did not ask for notices received none. Any before this leave would have arrived by now.
        assert_eq!(in_bob.skipped_changes() + in_second.skipped_changes(), 0);
        // An aborted connection leaves too.
        let aborted = driver.connect(&format!("aborted in {channel}"), &bob.token).await;
        aborted.subscribe(channel, json!({})).await;
        assert_eq!(others(&in_ann).await, ("join".into(), "bob".into()));
        driver.set_server_port(0).await;
        aborted.drop_transport().await;
        assert_eq!(others(&in_ann).await, ("leave".into(), "bob".into()));
        aborted.disconnect().await;
        driver.set_server_port(server.port).await;
        // Otherwise he would be subscribed again when he connects again.
        in_bob.skipped_codes();
        in_bob.unsubscribe().await;
    }
}

async fn rpc_calls_and_user_events_work(sdk: Sdk, kind: Kind, shards: &str) {
    let (server, driver) = start(sdk, kind, shards, &["join_leave_limit=100"]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    for room in ["r", "q"] {
        server.create_room(&ann, room).await;
    }
    let at_ann = driver.connect("ann", &ann.token).await;
    let at_bob = driver.connect("bob", &bob.token).await;
    let of_bob = at_bob.user_channel(&server.user_id(&bob).await).await;
    let in_ann = at_ann.start_subscribing("room:r", json!({})).await;
    let epoch = text(&in_ann.expect_state("subscribed").await["epoch"]);
    let in_bob = at_bob.subscribe("room:r", json!({})).await;
    assert_eq!(of_bob.ephemeral("joined").await["data"], json!({"joined": "r"}));
    // The room is told, too, and the join is before his position.
    let event = in_ann.publication().await;
    let added = json!({"added": server.user_id(&bob).await, "username": "bob"});
    assert_eq!((number(&event["offset"]), &event["data"]), (1, &added));

    // The result of this call has more fields than that of a publish.
    let message = json!({"channel": "room:r", "data": {"text": "first", "id": "1"}});
    let published = at_ann.rpc("publish", message.clone()).await.expect("published");
    assert_eq!((number(&published["offset"]), text(&published["epoch"])), (2, epoch), "{published}");
    assert!(number(&published["time"]) > 1_700_000_000_000, "{published}");
    assert_eq!(at_ann.rpc("publish", message).await, Ok(published), "a retry");
    for text in ["second", "third"] {
        let message = json!({"channel": "room:r", "data": {"text": text}});
        at_ann.rpc("publish", message).await.expect("published");
    }
    for subscription in [&in_ann, &in_bob] {
        for (offset, text) in [(2, "first"), (3, "second"), (4, "third")] {
            assert_eq!(subscription.message().await, (offset, text.into()));
        }
    }
    let elsewhere = json!({"channel": "room:q", "data": {"text": "x"}});
    assert_failed(at_bob.rpc("publish", elsewhere).await, 103);
    for wrong in [json!({"channel": "room:r", "data": {"text": 5}}), json!({"data": {"text": "x"}}), json!("x")] {
        assert_failed(at_ann.rpc("publish", wrong).await, 107);
    }

    // Read markers.
    let unread = async || {
        let rooms = at_bob.rpc("rooms", json!({})).await.expect("rooms");
        let rooms = rooms["rooms"].as_array().expect("rooms").clone();
        let room = rooms.into_iter().find(|room| room["name"] == "r").expect("the room");
        assert_eq!((number(&room["offset"]), number(&room["members"])), (4, 2), "{room}");
        let history = server.get("/user/getchats?room=r&limit=1", &bob.token).await.expect(200);
        assert_eq!(room["time"], history["messages"][0]["time"], "{room}");
        // HTTP agrees, also while the marker is not written yet. (Another node is told of the marker.)
        until("HTTP agrees", async || {
            let found = server.get("/rooms/r", &bob.token).await.expect(200);
            let listed = server.get("/rooms?query=r&limit=1", &bob.token).await.expect(200);
            let agrees = [&found["room"], &listed["rooms"][0]]
                .map(|seen| (&seen["name"], &seen["unread"]) == (&room["name"], &room["unread"]));
            assert!(are_two() || agrees == [true; 2], "{found} {listed}");
            agrees == [true; 2]
        })
        .await;
        number(&room["unread"])
    };
    assert_eq!(unread().await, 3);
    at_bob.rpc("read", json!({"channel": "room:r", "offset": 3})).await.expect("read");
    let event = of_bob.ephemeral("read").await;
    assert_eq!(event["data"], json!({"read": {"room": "r", "offset": 3, "number": 2}}));
    assert_eq!(unread().await, 1);
    at_bob.rpc("read", json!({"channel": "room:r", "offset": 1})).await.expect("read");
    assert_eq!(unread().await, 1, "the read marker moved back");
    assert_failed(at_bob.rpc("read", json!({"channel": "room:none", "offset": 1})).await, 103);

    // Typing, by a call and by a message without an answer.
    let typist = json!({"id": server.user_id(&ann).await, "username": "ann"});
    at_ann.rpc("typing", json!({"channel": "room:r"})).await.expect("typing");
    assert_eq!(in_bob.ephemeral("typing").await["data"], json!({"typing": typist}));
    let typist = json!({"id": server.user_id(&bob).await, "username": "bob"});
    at_bob.send(json!({"typing": "room:r"})).await;
    let typing = async || {
        loop {
            let event = in_ann.ephemeral("typing").await;
            if event["data"]["typing"] == typist {
                return;
            }
        }
    };
    typing().await;
    // Invalid messages without an answer do not close the connection.
    for wrong in [json!({}), json!("typing"), json!({"typing": "room:none"}), json!({"dancing": true})] {
        at_bob.send(wrong).await;
    }
    assert_failed(at_bob.rpc("typing", json!({"channel": "room:q"})).await, 103);

    for method in ["", "Publish", "no such thing"] {
        assert_failed(at_ann.rpc(method, json!({})).await, 104);
    }
    // Other events of the user.
    server.post("/rooms/q/join", &bob.token, Value::Null).await.expect(200);
    assert_eq!(of_bob.ephemeral("joined").await["data"], json!({"joined": "q"}));
    server.post("/rooms/q/leave", &bob.token, Value::Null).await.expect(200);
    assert_eq!(of_bob.ephemeral("left").await["data"], json!({"left": "q"}));
}

async fn invalid_publishes_get_their_errors(sdk: Sdk, kind: Kind, shards: &str) {
    let limits = ["text_limit_bytes=100", "publish_rate_per_second=1", "publish_burst_limit=40"];
    let (server, driver) = start(sdk, kind, shards, &limits).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let client = driver.connect("ann", &ann.token).await;
    let user_channel = client.user_channel(&server.user_id(&ann).await).await;
    for channel in ["room:r", "room:none", "live:x", "nonsense"] {
        assert_failed(client.publish(channel, json!({"text": "x"})).await, 103);
    }
    assert_failed(user_channel.publish(json!({"text": "x"})).await, 103);
    let room = client.subscribe("room:r", json!({})).await;
    for wrong in [
        json!(null),
        json!("text"),
        json!(["text"]),
        json!({}),
        json!({"text": 5}),
        json!({"text": " \n"}),
        json!({"text": "a\u{0}b"}),
        json!({"text": "x", "id": 5}),
        json!({"text": "x", "id": ""}),
        json!({"text": "x", "id": "x".repeat(65)}),
        json!({"text": "x", "reply_to": "1"}),
    ] {
        assert_failed(room.publish(wrong).await, 107);
    }
    assert_failed(room.publish(json!({"text": "x".repeat(101)})).await, 106);
    assert_eq!(room.publish(json!({"text": "x".repeat(100)})).await, Ok(()));
    // A retry is stored once. The same id with other content is an error.
    for _ in 0..2 {
        assert_eq!(room.publish(json!({"text": "once", "id": "7"})).await, Ok(()));
    }
    let other = room.publish(json!({"text": "twice", "id": "7"})).await.expect_err("the call succeeded");
    assert!(other.code >= 100 && !other.is_temporary, "{other:?}");
    room.publish_text("afterwards").await;
    for (offset, text) in [(1, "x".repeat(100)), (2, "once".into()), (3, "afterwards".into())] {
        assert_eq!(room.message().await, (offset, text));
    }
    room.unsubscribe().await;
    assert_failed(room.publish(json!({"text": "x"})).await, 103);

    // Publishes above the rate.
    let client = driver.connect("bob", &bob.token).await;
    let room = client.subscribe("room:r", json!({})).await;
    let mut published = 0;
    let failed = loop {
        match room.publish(json!({"text": "again"})).await {
            Ok(()) => published += 1,
            Err(failed) => break failed,
        }
    };
    assert_failed(Err::<(), _>(failed), 111);
    assert!(published >= 40, "only {published} publishes, fewer than the burst, were accepted");
}

async fn subscriptions_and_tokens_are_rejected_with_their_codes(sdk: Sdk, kind: Kind, shards: &str) {
    let server = Server::start(kind, &["--query-token", "--shards", shards]).await;
    let driver = Driver::start(sdk, server.port).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    server.post("/user/createroom", &ann.token, json!({"name": "full", "size": 1})).await.expect(201);
    server.post("/user/createroom", &ann.token, json!({"name": "secret", "private": true})).await.expect(201);

    // Channels.
    let client = driver.connect("bob", &bob.token).await;
    let id = server.user_id(&bob).await;
    client.user_channel(&id).await;
    let long = format!("room:{}", "x".repeat(65));
    for channel in ["room:none", "room:secret", "room:R", "room:", "r", "live:", "nonsense:r", &long] {
        assert_eq!(client.fail_to_subscribe(channel).await, 102, "{channel}");
    }
    assert_eq!(client.fail_to_subscribe("room:full").await, 106);
    assert_eq!(client.fail_to_subscribe(&format!("user:{id}")).await, 105);
    let secret = client.channel("room:secret");
    server.post("/rooms/secret/members", &ann.token, json!({"username": "bob"})).await.expect(200);
    client.subscribe("room:secret", json!({})).await;
    secret.publish_text("admitted").await;
    assert_eq!(secret.message().await, (1, "admitted".into()));

    // Tokens.
    for (name, token) in [("nonsense", "nonsense"), ("nobody", "")] {
        let client = driver.create(name, json!({"token": token})).await;
        client.start_subscribing("room:r", json!({})).await;
        client.start_connecting().await;
        assert_eq!(client.becomes("disconnected").await, 3500, "{name}");
    }
    let old = expired(&server, "bob").await;
    let client = driver.create("with another", json!({"token": old.token, "tokens": [bob.token]})).await;
    let room = client.start_subscribing("room:r", json!({})).await;
    client.start_connecting().await;
    assert_eq!(client.next_error().await.code, 109);
    assert!(client.requests_token().await);
    client.expect_state("connected").await;
    room.expect_state("subscribed").await;
    let client = driver.create("without another", json!({"token": old.token})).await;
    client.start_connecting().await;
    assert_eq!(client.next_error().await.code, 109);
    assert_eq!(client.becomes("disconnected").await, 1, "unauthorized");

    // Other places for a token.
    let bearer = format!("Bearer {}", bob.token);
    let client = driver.create("by header", json!({"headers": {"Authorization": bearer}})).await;
    client.connect().await;
    client.user_channel(&id).await;
    let path = format!("/connection/websocket?token={}", bob.token);
    let client = driver.create("in the address", json!({"path": path})).await;
    client.connect().await;
    client.user_channel(&id).await;
}

async fn a_given_position_is_recovered(sdk: Sdk, kind: Kind, shards: &str) {
    let (server, driver) = start(sdk, kind, shards, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut sender = NumberedSender::join(&server, &ann, "r").await;
    sender.send(5).await;
    let chats = server.get("/user/getchats?room=r&limit=2&after=0", &ann.token).await.expect(200);
    let epoch = text(&chats["epoch"]);
    assert_eq!(number(&chats["offset"]), 5);
    let client = driver.connect("ann", &ann.token).await;

    // Positions that exist. Without an epoch, only the offset is compared.
    for (offset, epoch) in [(0, epoch.as_str()), (2, epoch.as_str()), (5, epoch.as_str()), (0, "")] {
        let since = json!({"since": {"offset": offset, "epoch": epoch}});
        let room = client.start_subscribing("room:r", since).await;
        let event = room.expect_state("subscribed").await;
        assert_eq!((&event["was_recovering"], &event["recovered"]), (&json!(true), &json!(true)), "{event}");
        assert_eq!(number(&event["offset"]), offset, "not the requested position");
        room.expect_numbered(offset + 1..=sender.last).await;
        sender.send(1).await;
        room.expect_numbered(sender.last..=sender.last).await;
        room.unsubscribe().await;
        room.remove().await;
    }
    // Positions that do not exist.
    for (offset, epoch) in [(2, "another"), (1000, epoch.as_str()), (0, "_")] {
        let since = json!({"since": {"offset": offset, "epoch": epoch}});
        let room = client.start_subscribing("room:r", since).await;
        let event = room.expect_state("subscribed").await;
        assert_eq!((&event["was_recovering"], &event["recovered"]), (&json!(true), &json!(false)), "{event}");
        assert_eq!(number(&event["offset"]), sender.last, "not the head");
        sender.send(1).await;
        room.expect_numbered(sender.last..=sender.last).await;
        room.unsubscribe().await;
        room.remove().await;
    }
    // With `getState`, the answer is an error, and the SDK asks for another state.
    let states =
        json!([{"offset": 2, "epoch": "another"}, {"offset": 1000, "epoch": epoch}, {"offset": 3, "epoch": epoch}]);
    let room = client.start_subscribing("room:r", json!({"states": states})).await;
    for _ in 0..3 {
        assert!(room.requests_state().await);
    }
    let event = room.expect_state("subscribed").await;
    assert_eq!((&event["recovered"], number(&event["offset"])), (&json!(true), 3), "{event}");
    room.expect_numbered(4..=sender.last).await;
    // The SDK does not ask when it knows a position.
    driver.set_server_port(0).await;
    client.drop_transport().await;
    sender.send(2).await;
    driver.set_server_port(server.port).await;
    client.expect_state("connected").await;
    assert_eq!(room.recovers().await, sender.last - 2);
    room.expect_numbered(sender.last - 1..=sender.last).await;
}

async fn expired_tokens_are_refreshed(sdk: Sdk, kind: Kind, shards: &str) {
    let (server, driver) = start(sdk, kind, shards, &["expired_grace_ms=1500"]).await;
    let (ann, eve) = (server.user("ann").await, server.user("eve").await);
    server.create_room(&ann, "r").await;
    let old = expired(&server, "ann").await;
    // Expiry has a resolution of one second. The last token must be used while the second is still valid.
    let (short, longer) = (server.mint("ann", "3").await, server.mint("ann", "5").await);
    let cases = [
        ("refreshes", &short, json!([longer.token, ann.token])),
        ("has none", &short, json!([])),
        ("has an old one", &short, json!([old.token, ann.token])),
        ("has another's", &short, json!([eve.token])),
        // A client that receives no token after the second one.
        ("has none later", &longer, json!([])),
    ];
    let mut rooms = Vec::new();
    for (name, first, tokens) in cases {
        let client = driver.create(name, json!({"token": first.token, "tokens": tokens})).await;
        client.connect().await;
        rooms.push(client.subscribe("room:r", json!({"recoverable": true})).await);
    }
    let [refreshes, has_none, has_an_old_one, has_anothers, has_none_later] = rooms.as_slice() else {
        panic!("not five rooms")
    };

    // All ask for a token when the first one expires. None is disconnected before.
    assert!(!has_none.client.requests_token().await);
    for room in [refreshes, has_an_old_one, has_anothers] {
        assert!(room.client.requests_token().await);
    }
    assert_eq!(has_anothers.client.becomes("disconnected").await, 3500);
    // After an expired token the SDK reconnects, and the error makes it get another token.
    assert_eq!(has_an_old_one.client.becomes("connecting").await, 3005);
    has_an_old_one.client.expect_state("connected").await;
    has_an_old_one.recovers().await;
    // Without another token, the connection outlives its token only by the grace period.
    assert_eq!(has_none.client.becomes("connecting").await, 3005);
    assert_eq!(has_none.client.next_error().await.code, 109);
    // The client that refreshed in time was never disconnected, and refreshes again.
    refreshes.publish_text("still here").await;
    assert_eq!(refreshes.message().await, (1, "still here".into()));
    assert!(refreshes.client.requests_token().await, "there is no third token");
    has_none.client.add_tokens(&[&ann.token]).await;
    has_none.client.expect_state("connected").await;
    assert_eq!(has_none.recovers().await, 0);
    assert_eq!(has_none.message().await, (1, "still here".into()));
    assert_eq!(has_none_later.client.becomes("connecting").await, 3005);
    refreshes.publish_text("and still here").await;
    assert_eq!(refreshes.message().await, (2, "and still here".into()));
    assert_eq!(refreshes.client.skipped_states(), 0, "the client was disconnected");
}

async fn a_removed_member_stays_unsubscribed(sdk: Sdk, kind: Kind, shards: &str) {
    let (server, driver) = start(sdk, kind, shards, &["join_leave_limit=100"]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    for room in ["r", "left", "deleted"] {
        server.create_room(&ann, room).await;
    }
    let (at_ann, at_bob) = (driver.connect("ann", &ann.token).await, driver.connect("bob", &bob.token).await);
    let second = driver.connect("second", &bob.token).await;
    let of_bob = at_bob.user_channel(&server.user_id(&bob).await).await;
    let in_ann = at_ann.subscribe("room:r", json!({})).await;
    let (in_bob, in_second) =
        (at_bob.subscribe("room:r", json!({})).await, second.subscribe("room:r", json!({})).await);
    let left = at_bob.subscribe("room:left", json!({})).await;
    let (deleted, of_owner) =
        (at_bob.subscribe("room:deleted", json!({})).await, at_ann.subscribe("room:deleted", json!({})).await);
    in_bob.publish_text("hello").await;

    server.call("DELETE", "/rooms/r/members/bob", &ann.token, Value::Null).await.expect(200);
    for subscription in [&in_bob, &in_second] {
        assert_eq!(subscription.message().await, (2, "hello".into()));
        assert_eq!(subscription.becomes("unsubscribed").await, 2000);
        assert_failed(subscription.publish(json!({"text": "psst"})).await, 103);
        assert_failed(subscription.history(json!({"limit": 1})).await, 103);
    }
    assert_eq!(of_bob.ephemeral("left").await["data"], json!({"left": "r"}));
    let bob_id = server.user_id(&bob).await;
    let event = in_ann.publication().await;
    let added = json!({"added": bob_id, "username": "bob"});
    assert_eq!((number(&event["offset"]), &event["data"]), (1, &added));
    assert_eq!(in_ann.message().await, (2, "hello".into()));
    let event = in_ann.publication().await;
    let removed = json!({"removed": bob_id, "username": "bob"});
    assert_eq!((number(&event["offset"]), &event["data"]), (3, &removed));
    in_ann.publish_text("bye").await;

    server.post("/rooms/left/leave", &bob.token, Value::Null).await.expect(200);
    assert_eq!(left.becomes("unsubscribed").await, 2000);
    server.call("DELETE", "/rooms/deleted", &ann.token, Value::Null).await.expect(200);
    for subscription in [&deleted, &of_owner] {
        assert_eq!(subscription.becomes("unsubscribed").await, 2000);
    }
    assert_eq!(at_bob.fail_to_subscribe("room:deleted").await, 102);

    // The public room admits him again, and he recovers what he missed, including the removal.
    at_bob.start_subscribing("room:r", json!({})).await;
    let event = in_bob.expect_state("subscribed").await;
    assert_eq!((&event["recovered"], &event["offset"]), (&json!(true), &json!(2)), "{event}");
    assert_eq!(in_bob.publication().await["data"], removed);
    assert_eq!(in_bob.message().await, (4, "bye".into()));
    assert_eq!(in_bob.publication().await["data"], added);
    in_bob.publish_text("back").await;
    assert_eq!(in_bob.message().await, (6, "back".into()));
}

async fn signing_out_disconnects_every_client(sdk: Sdk, kind: Kind, shards: &str) {
    let (server, driver) = start(sdk, kind, shards, &[]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut at_bob = Vec::new();
    for name in ["phone", "desk", "idle"] {
        // The tokens from `getToken` must not help.
        let client = driver.create(name, json!({"token": bob.token, "tokens": [bob.token]})).await;
        client.connect().await;
        if name != "idle" {
            client.subscribe("room:r", json!({})).await;
        }
        at_bob.push(client);
    }
    let at_ann = driver.connect("ann", &ann.token).await;
    let in_ann = at_ann.subscribe("room:r", json!({})).await;
    server.post("/user/signout", &bob.token, Value::Null).await.expect(200);
    for client in &at_bob {
        assert_eq!(client.becomes("disconnected").await, 3503);
        assert_eq!(client.socket_closes().await.0, 3503);
    }
    in_ann.publish_text("alone").await;
    assert_eq!(in_ann.message().await, (1, "alone".into()));
    let again = driver.create("again", json!({"token": bob.token})).await;
    again.start_connecting().await;
    assert_eq!(again.becomes("disconnected").await, 3500);
}

async fn missed_messages_arrive_once_and_in_order(sdk: Sdk, kind: Kind, shards: &str) {
    let (server, driver) = start(sdk, kind, shards, &["publish_rate_per_second=0"]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    server.create_room(&ann, "quiet").await;
    let mut sender = NumberedSender::join(&server, &ann, "r").await;
    let client = driver.connect("bob", &bob.token).await;
    let room = client.subscribe("room:r", json!({"recoverable": true})).await;
    let quiet = client.subscribe("room:quiet", json!({"recoverable": true})).await;
    for missed in [0, 1, 300, 10_000] {
        driver.set_server_port(0).await;
        client.drop_transport().await;
        let before = sender.last;
        sender.send(missed).await;
        driver.set_server_port(server.port).await;
        client.expect_state("connected").await;
        assert_eq!(room.recovers().await, before);
        assert_eq!(quiet.recovers().await, 0);
        // More messages, while missed ones are still arriving.
        sender.send(10).await;
        room.expect_numbered(before + 1..=sender.last).await;
    }
    let largest = client.traffic("largest_in").await;
    assert!(largest <= OUTBOUND_MESSAGE_LIMIT_BYTES, "a message of {largest} bytes");
}

async fn kills_and_restarts_lose_nothing(sdk: Sdk, kind: Kind, shards: &str) {
    let (mut server, driver) = start(sdk, kind, shards, &["publish_rate_per_second=0"]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut sender = NumberedSender::join(&server, &ann, "r").await;
    let client = driver.connect("bob", &bob.token).await;
    let room = client.subscribe("room:r", json!({"recoverable": true})).await;
    sender.send(3).await;
    room.expect_numbered(1..=3).await;

    driver.set_server_port(0).await;
    client.drop_transport().await;
    sender.send(5_000).await;
    server.kill().await;
    server = server.restart().await;
    let mut sender = NumberedSender::join(&server, &ann, "r").await;
    assert_eq!(sender.last, 5_003);
    sender.send(5_000).await;
    driver.set_server_port(server.port).await;
    client.expect_state("connected").await;
    assert_eq!(room.recovers().await, 3);
    room.expect_numbered(4..=10_003).await;

    // A graceful stop.
    driver.set_server_port(0).await;
    server.stop().await;
    assert_eq!(client.becomes("connecting").await, 3001);
    server = server.restart().await;
    let mut sender = NumberedSender::join(&server, &ann, "r").await;
    sender.send(3).await;
    driver.set_server_port(server.port).await;
    client.expect_state("connected").await;
    assert_eq!(room.recovers().await, 10_003);
    sender.send(3).await;
    room.expect_numbered(10_004..=10_009).await;
    // The ring in memory is gone with the server, but the client's position is still valid.
    driver.set_server_port(0).await;
    server.kill().await;
    assert_eq!(client.becomes("connecting").await, 1);
    server = server.restart().await;
    driver.set_server_port(server.port).await;
    client.expect_state("connected").await;
    assert_eq!(room.recovers().await, 10_009);
    room.publish_text("10010").await;
    room.expect_numbered(10_010..=10_010).await;
}

async fn connect_and_all_subscribes_fit_into_one_frame(sdk: Sdk, kind: Kind, shards: &str) {
    /// The default of `subscription_limit`.
    const SUBSCRIPTIONS: usize = 128;
    let (server, driver) = start(sdk, kind, shards, &[]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    // The longest names: all commands must fit into one frame.
    let mut channels = Vec::new();
    for number in 0..SUBSCRIPTIONS / 2 {
        let name = format!("{number:064}");
        server.create_room(&ann, &name).await;
        channels.extend([format!("room:{name}"), format!("live:{name}")]);
    }
    channels.push("live:one more".to_owned());
    let client = driver.create("bob", json!({"token": bob.token})).await;
    let subscribe = |channel: &String| {
        client.command("subscribe", json!({"channel": channel, "recoverable": true, "join_leave": true}))
    };
    let mut commands: Vec<Value> = channels[..SUBSCRIPTIONS].iter().map(subscribe).collect();
    commands.push(client.command("connect", json!({})));
    for call in driver.start_calls(commands).await {
        driver.outcome(call).await.expect("a result");
    }
    assert_eq!(client.becomes("connecting").await, 0);
    client.expect_state("connected").await;
    for channel in &channels[..SUBSCRIPTIONS] {
        let subscription = client.channel(channel);
        assert_eq!(subscription.becomes("subscribing").await, 0);
        subscription.expect_state("subscribed").await;
    }
    if sdk.is_javascript() {
        assert_eq!(client.traffic("most_out").await, SUBSCRIPTIONS as u64 + 1, "the commands were not in one frame");
    }
    // One more is too many, until there is room for it.
    assert_eq!(client.fail_to_subscribe(&channels[SUBSCRIPTIONS]).await, 106);
    client.channel(&channels[0]).unsubscribe().await;
    client.subscribe(&channels[SUBSCRIPTIONS], json!({})).await;
    // The commands with positions are longer, and all channels are subscribed again.
    client.drop_transport().await;
    client.expect_state("connected").await;
    for channel in &channels[1..] {
        let event = client.channel(channel).resubscribes().await;
        assert_eq!(event["recovered"] == true, channel.starts_with("room:"), "{event}");
    }
}

async fn every_command_is_answered(sdk: Sdk, kind: Kind, shards: &str) {
    let (server, driver) = start(sdk, kind, shards, &[]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    for room in ["r", "other"] {
        server.create_room(&ann, room).await;
    }
    let (at_ann, at_bob) = (driver.connect("ann", &ann.token).await, driver.connect("bob", &bob.token).await);
    let in_ann = at_ann.subscribe("room:r", json!({})).await;
    let in_bob = at_bob.subscribe("room:r", json!({})).await;
    in_bob.publish_text("1").await;
    in_ann.expect_numbered(1..=1).await;
    let mut backdoor = server.setup.backdoor().await;
    backdoor.hold_commits().await;
    // The server must answer before the SDKs give up after 5 s.
    let message = json!({"text": "2", "id": "second"});
    let publish = at_bob.command("publish", json!({"channel": "room:r", "data": message}));
    let subscribe = at_bob.command("subscribe", json!({"channel": "room:other"}));
    let calls = driver.start_calls(vec![publish, subscribe]).await;
    assert_failed(driver.outcome(calls[0]).await, 100);
    driver.outcome(calls[1]).await.expect("a result");
    let other = at_bob.channel("room:other");
    assert_eq!(other.becomes("subscribing").await, 0);
    // Joining the room needs a commit, which on PostgreSQL may not be blocked.
    if kind == Kind::Sqlite {
        assert_eq!(other.next_error().await.code, 100);
    }
    backdoor.release_commits().await;
    // The SDK retries by itself. Nothing is lost or stored twice.
    other.expect_state("subscribed").await;
    in_bob.publish(message).await.expect("published");
    in_bob.publish_text("3").await;
    for subscription in [&in_ann, &in_bob] {
        subscription.expect_numbered(if subscription.client.name == "bob" { 1..=3 } else { 2..=3 }).await;
    }
    assert_eq!(at_bob.skipped_states(), 0, "the SDK gave up");
}

async fn silent_clients_are_disconnected_and_busy_ones_are_pinged(sdk: Sdk, kind: Kind, shards: &str) {
    let limits =
        ["ping_interval_ms=1000", "pong_timeout_ms=1000", "handshake_timeout_ms=1000", "publish_rate_per_second=0"];
    let (server, driver) = start(sdk, kind, shards, &limits).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    // The SDK gives up if no ping arrives within 3 s.
    let options = json!({"token": ann.token, "max_ping_delay_ms": 2000});
    let (quiet, busy) = (driver.create("quiet", options.clone()).await, driver.create("busy", options).await);
    quiet.connect().await;
    busy.connect().await;
    let room = busy.subscribe("room:r", json!({})).await;
    let mut offset = 0;
    until("both clients are pinged, the busy one too", async || {
        offset += 1;
        room.publish_text(&offset.to_string()).await;
        room.expect_numbered(offset..=offset).await;
        busy.traffic("pings").await >= 5 && quiet.traffic("pings").await >= 5
    })
    .await;
    for client in [&quiet, &busy] {
        assert_eq!(client.skipped_states(), 0, "{}", client.name);
    }

    // A client that answers no ping is disconnected, and so is one that does not send `connect`. Both reconnect.
    quiet.mute(true).await;
    assert_eq!(quiet.becomes("connecting").await, 3012);
    let (code, reason) = quiet.socket_closes().await;
    assert!(code == 3012 && !reason.is_empty(), "{code} {reason}");
    let (code, reason) = quiet.socket_closes().await;
    assert!(code == 4000 && !reason.is_empty(), "{code} {reason}");
    quiet.mute(false).await;
    quiet.expect_state("connected").await;
}

async fn large_content_is_split_into_messages_within_the_limit(sdk: Sdk, kind: Kind, shards: &str) {
    const MESSAGES: u64 = 100;
    // Less than a page of the store, which would be the limit otherwise.
    const LIMIT_BYTES: u64 = 64 * 1024;
    let limit = format!("outbound_message_limit_bytes={LIMIT_BYTES}");
    let (server, driver) =
        start(sdk, kind, shards, &["publish_rate_per_second=0", "text_limit_bytes=8192", &limit]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    // Twice as long when it is escaped in JSON.
    let large = "\"".repeat(8 * 1024);
    let mut ws = server.join(&ann, "room=r").await;
    for offset in 1..=MESSAGES {
        assert_eq!(ws.round_trip(&large).await, (offset, large.clone()));
    }
    let client = driver.connect("bob", &bob.token).await;
    let room = client.start_subscribing("room:r", json!({"since": {"offset": 0, "epoch": ""}})).await;
    assert_eq!(room.expect_state("subscribed").await["recovered"], true);
    for offset in 1..=MESSAGES {
        assert_eq!(room.message().await, (offset, large.clone()), "recovered");
    }
    for reverse in [false, true] {
        let mut expected: Vec<u64> = (1..=MESSAGES).collect();
        let mut options = json!({"limit": -1, "reverse": reverse});
        if reverse {
            expected.reverse();
        }
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            let history = room.history(options.clone()).await.expect("history");
            let page = history["publications"].as_array().expect("publications");
            assert!(!page.is_empty(), "an empty page after {seen:?}");
            seen.extend(page.iter().map(|publication| number(&publication["offset"])));
            options["since"] = json!({"offset": seen.last(), "epoch": history["epoch"]});
        }
        assert_eq!(seen, expected);
    }
    // A burst of live messages.
    for _ in 0..20 {
        ws.send(large.clone()).await;
    }
    for offset in MESSAGES + 1..=MESSAGES + 20 {
        assert_eq!(room.message().await, (offset, large.clone()), "live");
    }
    let largest = client.traffic("largest_in").await;
    assert!(largest <= LIMIT_BYTES, "a message of {largest} bytes");
    assert_eq!(client.skipped_states(), 0);
}

async fn crossing_unsubscribes_and_subscribes_leave_both_sides_agreeing(sdk: Sdk, kind: Kind, shards: &str) {
    const ROUNDS: usize = 20;
    let (server, driver) =
        start(sdk, kind, shards, &["publish_rate_per_second=0", "rejoins_per_minute=0", "user_writes_per_minute=0"])
            .await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let client = driver.connect("bob", &bob.token).await;
    let room = client.subscribe("room:r", json!({"recoverable": true})).await;
    let command = |name: &str| client.command(name, json!({"channel": "room:r"}));

    // The client alone, faster than the server answers.
    let commands = (0..ROUNDS).flat_map(|_| [command("unsubscribe"), command("subscribe")]).collect();
    for call in driver.start_calls(commands).await {
        driver.outcome(call).await.expect("a result");
    }
    until("the client is subscribed", async || room.status().await == "subscribed").await;
    for text in ["1", "2"] {
        room.publish_text(text).await;
    }
    room.expect_numbered(1..=2).await;
    let codes = room.skipped_codes();
    assert!(codes.iter().all(|code| *code == 0), "{codes:?}");
    assert_eq!(client.skipped_states(), 0, "an unsubscribe failed");

    // A removal and a subscribe at the same time. Both sides must agree afterwards, whichever comes first.
    let mut next = 3;
    for _ in 0..ROUNDS {
        room.unsubscribe().await;
        let subscribed = driver.start_calls(vec![command("subscribe")]);
        let removed = server.call("DELETE", "/rooms/r/members/bob", &ann.token, Value::Null);
        let (_, removed) = tokio::join!(subscribed, removed);
        assert!([200, 404].contains(&removed.status), "{removed:?}");
        until("Bob can publish", async || match room.status().await.as_str() {
            "subscribed" => client.publish("room:r", json!({"text": "in"})).await.is_ok(),
            "unsubscribed" => {
                driver.start_calls(vec![command("subscribe")]).await;
                false
            }
            _ => false,
        })
        .await;
        // Every publication up to that message arrives once, in order.
        loop {
            let event = room.publication().await;
            assert_eq!(number(&event["offset"]), next, "{event}");
            next += 1;
            if event["data"]["text"] == "in" {
                break;
            }
        }
        let codes = room.skipped_codes();
        assert!(codes.iter().all(|code| [0, 2000].contains(code)), "{codes:?}");
    }
    assert_eq!(client.skipped_states(), 0);
}

/// The key of a backend that may do everything.
async fn backend_key(server: &Server) -> String {
    printed(&api_key(server, &["add", "crm", "--user", "CRM", "--scope", "publish,read,manage,impersonate"]).await)
}

async fn backends_act_on_connections_with_the_codes_they_choose(sdk: Sdk, kind: Kind, shards: &str) {
    let (server, driver) = start(sdk, kind, shards, &[]).await;
    let key = backend_key(&server).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let user = server.user_id(&bob).await;
    let act = async |method: &str, mut params: Value| {
        params["user"] = json!(user);
        call(&server, method, &key, params).await
    };
    let phone = driver.create("phone", json!({"token": bob.token})).await;
    let connected = async || {
        let event = phone.expect_state("connected").await;
        text(&event["id"])
    };
    phone.start_connecting().await;
    let mut id = connected().await;
    let desk = driver.connect("desk", &bob.token).await;
    let (in_phone, in_desk) = (phone.subscribe("room:r", json!({})).await, desk.subscribe("room:r", json!({})).await);

    // One subscription, and all of them. Afterwards the SDK does not subscribe by itself, but the user may.
    act("unsubscribe", json!({"channel": "room:r", "client": id})).await;
    assert_eq!(in_phone.becomes("unsubscribed").await, 2000);
    in_desk.publish_text("the other one stays").await;
    assert_eq!(in_desk.message().await.1, "the other one stays");
    assert_eq!(in_phone.status().await, "unsubscribed");
    phone.subscribe("room:r", json!({})).await;
    assert_eq!(in_phone.message().await.1, "the other one stays", "it recovers");
    act("unsubscribe", json!({"channel": "room:r"})).await;
    for subscription in [&in_phone, &in_desk] {
        assert_eq!(subscription.becomes("unsubscribed").await, 2000);
        subscription.client.subscribe("room:r", json!({})).await;
    }

    // Codes after which SDKs connect again, and recover.
    for (code, reason) in [(3000, "a deploy"), (3499, "moved"), (4000, "1 2"), (4499, "\u{fc}ber")] {
        let disconnect = json!({"code": code, "reason": reason});
        act("disconnect", json!({"client": id, "disconnect": disconnect})).await;
        let event = phone.expect_state("connecting").await;
        assert_eq!((number(&event["code"]), text(&event["reason"])), (code, reason.to_owned()), "{event}");
        assert_eq!(phone.socket_closes().await, (code, reason.to_owned()));
        id = connected().await;
        in_phone.recovers().await;
    }
    // Codes after which they do not.
    let own = |code: u64| json!({"code": code, "reason": "bye"});
    for (disconnect, code, reason) in [
        (Value::Null, 3503, "force disconnect"),
        (json!({"reason": "bye"}), 3503, "bye"),
        (json!({"code": 4500}), 4500, "force disconnect"),
        (own(3500), 3500, "bye"),
        (own(3999), 3999, "bye"),
        (own(4999), 4999, "bye"),
    ] {
        act("disconnect", json!({"client": id, "disconnect": disconnect})).await;
        let event = phone.expect_state("disconnected").await;
        assert_eq!((number(&event["code"]), text(&event["reason"])), (code, reason.to_owned()), "{event}");
        assert_eq!(phone.socket_closes().await, (code, reason.to_owned()));
        phone.start_connecting().await;
        id = connected().await;
        in_phone.recovers().await;
    }
    assert_eq!(desk.skipped_states(), 0, "only the named client was disconnected");

    // Those that are spared.
    act("disconnect", json!({"whitelist": [id, "nobody"]})).await;
    assert_eq!(desk.becomes("disconnected").await, 3503);
    in_phone.publish_text("spared").await;
    assert_eq!(in_phone.message().await.1, "spared");
    desk.connect().await;
    in_desk.recovers().await;
    assert_eq!(in_desk.message().await.1, "spared");

    // A connection that has expired, or does so in an hour.
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    for expired in [json!({"expired": true}), json!({"expire_at": now_s - 60})] {
        let mut params = expired;
        params["client"] = json!(id);
        act("refresh", params).await;
        assert_eq!(phone.becomes("connecting").await, 3005);
        assert_eq!(phone.socket_closes().await.0, 3005);
        id = connected().await;
        in_phone.recovers().await;
    }
    act("refresh", json!({"expire_at": now_s + 3600})).await;
    act("refresh", json!({})).await;
    in_phone.publish_text("still there").await;
    assert_eq!(in_phone.message().await.1, "still there");
    assert_eq!((phone.skipped_states(), desk.skipped_states()), (0, 0));

    // Tokens that are taken away, and a user who is blocked.
    act("invalidate_user_tokens", json!({})).await;
    for client in [&phone, &desk] {
        assert_eq!(client.becomes("disconnected").await, 3503);
        client.start_connecting().await;
        assert_eq!(client.becomes("disconnected").await, 3500);
    }
    let cat = server.user("cat").await;
    let of_cat = driver.connect("cat", &cat.token).await;
    let user = server.user_id(&cat).await;
    call(&server, "block_user", &key, json!({"user": user})).await;
    assert_eq!(of_cat.becomes("disconnected").await, 3503);
    of_cat.start_connecting().await;
    assert_eq!(of_cat.becomes("disconnected").await, 3500);
}

async fn users_that_backends_create_rename_and_add_learn_of_it(sdk: Sdk, kind: Kind, shards: &str) {
    let (server, driver) = start(sdk, kind, shards, &["join_leave_limit=100"]).await;
    let key = backend_key(&server).await;
    let ann = server.sign_up("ann").await;
    call(&server, "create_room", &key, json!({"name": "team", "private": true})).await;
    let created = call(&server, "create_user", &key, json!({"username": "zoe"})).await;
    let (id, channel) = (text(&created["user"]), "room:team");

    // Added before they ever connect, and while they are connected.
    call(&server, "subscribe", &key, json!({"user": id, "channel": channel})).await;
    let zoe = server.user("zoe").await;
    assert_eq!(server.user_id(&zoe).await, id, "the token is for the same user");
    let (at_zoe, at_ann) = (driver.connect("zoe", &zoe.token).await, driver.connect("ann", &ann.token).await);
    let ann_id = server.user_id(&ann).await;
    let of_ann = at_ann.user_channel(&ann_id).await;
    let in_zoe = at_zoe.subscribe(channel, json!({})).await;
    assert_eq!(at_ann.fail_to_subscribe(channel).await, 102, "a private room looks missing");
    call(&server, "subscribe", &key, json!({"user": ann_id, "channel": channel})).await;
    assert_eq!(of_ann.ephemeral("joined").await["data"], json!({"joined": "team"}));
    assert_eq!(in_zoe.publication().await["data"], json!({"added": ann_id, "username": "ann"}));
    let in_ann = at_ann.subscribe(channel, json!({})).await;
    call(&server, "publish", &key, json!({"channel": channel, "data": {"text": "hello", "as": id}})).await;
    for subscription in [&in_zoe, &in_ann] {
        let event = subscription.publication().await;
        let seen = (&event["data"]["text"], &event["user"], &event["conn_info"]["username"]);
        assert_eq!(seen, (&json!("hello"), &json!(id), &json!("zoe")), "{event}");
    }

    // Renamed while they are connected: what they write from now on, and their presence, have the new name.
    call(&server, "rename_user", &key, json!({"user": ann_id, "username": "Anna"})).await;
    assert_eq!(of_ann.ephemeral("renamed").await["data"], json!({"renamed": "Anna"}));
    let names = async || {
        let present = in_zoe.presence().await.expect("who is there");
        let present = present.as_object().expect("an object");
        let mut names: Vec<String> = present.values().map(|info| text(&info["conn_info"]["username"])).collect();
        names.sort();
        names
    };
    until("the new name is there", async || names().await == ["Anna", "zoe"]).await;
    let author_sees = async |words: &str| {
        in_ann.publish_text(words).await;
        for subscription in [&in_zoe, &in_ann] {
            let event = subscription.publication().await;
            assert_eq!((&event["data"]["text"], &event["conn_info"]["username"]), (&json!(words), &json!("Anna")));
        }
    };
    author_sees("by Anna").await;
    // Her token has the former name.
    at_ann.drop_transport().await;
    at_ann.expect_state("connected").await;
    in_ann.recovers().await;
    until("she is back", async || names().await == ["Anna", "zoe"]).await;
    author_sees("still by Anna").await;

    // Removed by the room's owner, who is the key's bot user.
    let owner = server.user("CRM").await;
    server.call("DELETE", "/rooms/team/members/anna", &owner.token, Value::Null).await.expect(200);
    assert_eq!(in_ann.becomes("unsubscribed").await, 2000);
    assert_eq!(of_ann.ephemeral("left").await["data"], json!({"left": "team"}));
    assert_eq!(in_zoe.publication().await["data"], json!({"removed": ann_id, "username": "Anna"}));
}
