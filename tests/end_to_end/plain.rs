//! Proves that the plain protocol keeps its rules on positions, frames, resuming, rates, pings and limits.

use crate::client::{FIN, PING, PONG, Raw, TEXT, Ws, frame, within};
use crate::databases::Kind;
use crate::server::{Server, until, with_limits};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

on_each_database! {
    a_connection_starts_at_the_requested_position
    frames_are_checked_and_rejected_ones_cost_no_offset
    a_client_that_answers_no_pings_is_disconnected
    a_client_without_a_request_is_disconnected
}
on_each_database! {
    alone "each node has its own limits":
    the_rate_of_a_user_is_limited
    the_connections_of_a_user_are_limited
}
on_each_database_and_shards! { a_long_absence_is_recovered_page_by_page }

async fn a_connection_starts_at_the_requested_position(kind: Kind) {
    let server = Server::start(kind, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut first = server.join(&ann, "room=r").await;
    for n in 1..=3 {
        assert_eq!(first.round_trip(&format!("{n}")).await.0, n);
    }
    let epoch = first.epoch();
    let joined = |offset: u64, recovered: Option<bool>| {
        let mut frame = json!({"type": "joined", "room": "r", "epoch": epoch, "offset": offset});
        if let Some(recovered) = recovered {
            frame["recovered"] = recovered.into();
        }
        frame
    };
    for (position, expected) in [
        (String::new(), joined(3, None)),
        (format!("&since=0&epoch={epoch}"), joined(0, Some(true))),
        (format!("&since=2&epoch={epoch}"), joined(2, Some(true))),
        (format!("&since=3&epoch={epoch}"), joined(3, Some(true))),
        // Without an epoch, only the offset is checked.
        ("&since=1".into(), joined(1, Some(true))),
        // Positions above the head or in another history start at the head.
        (format!("&since=4&epoch={epoch}"), joined(3, Some(false))),
        ("&since=9007199254740991".into(), joined(3, Some(false))),
        ("&since=1&epoch=other".into(), joined(3, Some(false))),
    ] {
        let mut ws = server.join(&ann, &format!("room=r{position}")).await;
        assert_eq!(ws.joined, expected, "{position}");
        let next = ws.offset() + 1;
        if next <= 3 {
            for n in next..=3 {
                assert_eq!(ws.message().await, (n, n.to_string()), "{position}");
            }
        }
    }
    // Room names are folded to lower case.
    assert_eq!(server.join(&ann, "room=R&since=3").await.joined, joined(3, Some(true)));
}

async fn frames_are_checked_and_rejected_ones_cost_no_offset(kind: Kind) {
    let server = Server::start(kind, &["--limit", "text_limit_bytes=100"]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut plain = server.join(&ann, "room=r").await;
    let mut json = server.join(&ann, "room=r&format=json").await;

    // Text is sent as it is, even if it looks like JSON.
    plain.send("{\"text\":\"x\",\"id\":\"a\"}").await;
    for ws in [&mut plain, &mut json] {
        let event = ws.event().await;
        assert_eq!((&event["text"], &event["id"]), (&json!("{\"text\":\"x\",\"id\":\"a\"}"), &Value::Null));
    }
    plain.send("é".repeat(51)).await;
    assert_eq!(plain.error().await, (106, None));
    plain.send("  \n ").await;
    assert_eq!(plain.error().await, (107, None));
    plain.send("a\0b").await;
    assert_eq!(plain.error().await, (107, None));
    let longest = "é".repeat(50);
    assert_eq!(plain.round_trip(&longest).await, (2, longest.clone()));
    assert_eq!(json.message().await, (2, longest));

    let id = |id: &str| Some(id.to_owned());
    for (data, expected) in [
        (json!({"edit": 9, "text": "y", "id": "e"}), (107, id("e"))),
        (json!({"edit": 1, "delete": 1, "text": "y"}), (107, None)),
        (json!({"delete": 9, "id": "d"}), (107, id("d"))),
        (json!({"react": 9, "emoji": "👍", "id": "r"}), (107, id("r"))),
        (json!({"react": 1, "emoji": "", "id": "r"}), (107, id("r"))),
        (json!({"text": "x".repeat(101), "id": "long"}), (106, id("long"))),
        (json!({"text": "", "id": "empty"}), (107, id("empty"))),
        (json!({"text": 7, "id": "seven"}), (107, id("seven"))),
        (json!({"id": "none"}), (107, id("none"))),
        (json!({"text": "x", "id": ""}), (107, None)),
        (json!({"text": "x", "id": "~1"}), (107, None)),
        (json!({"text": "x", "id": "x".repeat(65)}), (107, None)),
        (json!({"text": "x", "reply_to": 99, "id": "reply"}), (107, id("reply"))),
        (json!(["text"]), (107, None)),
        (json!("text"), (107, None)),
    ] {
        json.send(data.to_string()).await;
        assert_eq!(json.error().await, expected, "{data}");
    }
    json.send("{\"text\": \"x\"").await;
    assert_eq!(json.error().await, (107, None));
    json.send("{\"text\": \"\\ud800\"}").await;
    assert_eq!(json.error().await, (107, None));

    // The rejected messages took no offset. Fields that the server does not know are dropped.
    json.send(json!({"text": "yes", "id": "y", "reply_to": 1, "role": "owner", "user": {"id": "1"}}).to_string()).await;
    let event = json.event().await;
    assert_eq!(event["offset"], 3);
    assert_eq!((&event["id"], &event["reply_to"], &event["number"]), (&json!("y"), &json!(1), &json!(3)));
    assert_eq!(event["role"], Value::Null);
    assert_eq!(plain.event().await, event);
}

async fn a_long_absence_is_recovered_page_by_page(kind: Kind, shards: &str) {
    const BEFORE: u64 = 150;
    const MEANWHILE: u64 = 60;
    let limits = ["publish_rate_per_second=0", "ring_limit_publications=8", "page_limit_publications=7"];
    let server = Server::start(kind, &with_limits(&["--shards", shards], &limits)).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut sender = server.join(&ann, "room=r").await;
    for n in 1..=BEFORE {
        sender.send(n.to_string()).await;
    }
    for n in 1..=BEFORE {
        assert_eq!(sender.message().await.0, n);
    }
    // Readers come back while the sender continues.
    let mut readers = JoinSet::new();
    for since in [0, 1, 75, 141, 142, 149, 150] {
        let mut reader = server.join(&ann, &format!("room=r&since={since}")).await;
        readers.spawn(async move {
            assert_eq!(reader.joined["recovered"], true);
            for n in since + 1..=BEFORE + MEANWHILE {
                assert_eq!(reader.message().await, (n, n.to_string()), "since {since}");
            }
        });
        sender.send((BEFORE + 1 + readers.len() as u64 - 1).to_string()).await;
    }
    for n in BEFORE + 1 + readers.len() as u64..=BEFORE + MEANWHILE {
        sender.send(n.to_string()).await;
    }
    readers.join_all().await;
}

async fn the_rate_of_a_user_is_limited(kind: Kind) {
    let limits = ["--limit", "publish_rate_per_second=1", "--limit", "publish_burst_limit=3", "--shards", "1"];
    let server = Server::start(kind, &limits).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut at_ann = server.join(&ann, "room=r").await;
    let mut at_bob = server.join(&bob, "room=r").await;
    // Of twenty messages in a burst, the first three are accepted, and the rate allows only a few of the others.
    for n in 0..20 {
        at_ann.send(n.to_string()).await;
    }
    let mut rejected = 0;
    let mut stored = 0;
    while rejected + stored < 20 {
        let event = at_ann.event().await;
        if event["type"] == "error" {
            assert_eq!((&event["code"], &event["temporary"]), (&json!(111), &json!(true)), "{event}");
            rejected += 1;
        } else {
            assert_eq!(event["type"], "message");
            stored += 1;
        }
    }
    assert!(rejected > 0 && stored >= 3, "{stored} stored, {rejected} rejected");
    // The limit applies to her alone.
    at_bob.send("mine").await;
    for n in 1..=stored {
        assert_eq!(at_bob.message().await.0, n);
    }
    assert_eq!(at_bob.message().await, (stored + 1, "mine".into()));
}

async fn a_client_that_answers_no_pings_is_disconnected(kind: Kind) {
    let limits = ["--limit", "ping_interval_ms=200", "--limit", "pong_timeout_ms=400"];
    let server = Server::start(kind, &limits).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut well_behaved = Raw::join(server.port, &ann.token, "room=r").await;
    assert_eq!(well_behaved.frame().await.first, FIN | TEXT);
    let mut silent = Raw::join(server.port, &ann.token, "room=r").await;
    assert_eq!(silent.frame().await.first, FIN | TEXT);
    assert_eq!(silent.frame().await.first, FIN | PING);
    let answered = tokio::spawn(async move {
        for _ in 0..8 {
            let ping = well_behaved.frame().await;
            assert_eq!(ping.first, FIN | PING, "{ping:?}");
            well_behaved.send(&frame(FIN | PONG, &ping.payload)).await;
        }
        // Any frame counts as an answer.
        let ping = well_behaved.frame().await;
        assert_eq!(ping.first, FIN | PING);
        well_behaved.send(&frame(FIN | TEXT, b"here")).await;
        let message = well_behaved.frame().await;
        assert_eq!(message.first, FIN | TEXT);
        assert_eq!(well_behaved.frame().await.first, FIN | PING);
    });
    assert_eq!(silent.frame().await.close_code(), 3012);
    silent.expect_end().await;
    answered.await.unwrap();

    // The server answers the pings of a client.
    let mut raw = Raw::join(server.port, &ann.token, "room=r").await;
    assert_eq!(raw.frame().await.first, FIN | TEXT);
    raw.send(&frame(FIN | PING, b"are you there?")).await;
    loop {
        let received = raw.frame().await;
        if received.first == FIN | PONG {
            assert_eq!(received.payload, b"are you there?");
            break;
        }
        assert_eq!(received.first, FIN | PING, "{received:?}");
    }
}

async fn a_client_without_a_request_is_disconnected(kind: Kind) {
    let server = Server::start(kind, &["--limit", "handshake_timeout_ms=300"]).await;
    for start in ["", "GET /ws?room=r HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"] {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The server may answer first.
        let _ = within("the connection ends", stream.read_to_end(&mut answer)).await;
    }
}

async fn the_connections_of_a_user_are_limited(kind: Kind) {
    let server = Server::start(kind, &["--shards", "1", "--limit", "user_connections_limit=2"]).await;
    let (ann, bob) = (server.user("ann").await, server.user("bob").await);
    server.create_room(&ann, "r").await;
    let mut first = server.join(&ann, "room=r").await;
    let second = server.join(&ann, "room=live:x").await;
    for room in ["r", "live:x"] {
        assert_eq!(server.reject_join(&ann, &format!("room={room}")).await.0, 429);
    }
    server.join(&bob, "room=r").await;
    assert_eq!(first.round_trip("one of two").await, (1, "one of two".into()));
    drop(second);
    until("another connection is admitted", async || Ws::join(server.port, &ann.token, "room=r").await.is_ok()).await;
}
