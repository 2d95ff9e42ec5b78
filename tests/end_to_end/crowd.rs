//! Proves that all members of a crowded room receive every message in the same order.

use crate::databases::Kind;
use crate::server::Server;
use serde_json::Value;
use std::hash::{DefaultHasher, Hasher};
use tokio::task::JoinSet;

const MEMBERS: usize = 200;
const SENDERS: usize = 8;
const MESSAGES: usize = 1000;

on_each_database! { a_thousand_members_receive_a_thousand_messages_in_one_order }

async fn a_thousand_members_receive_a_thousand_messages_in_one_order(kind: Kind) {
    const MEMBERS: usize = 1000;
    let server = Server::start(kind, &["--limit", "publish_rate_per_second=0"]).await;
    let owner = server.user("owner").await;
    server.create_room(&owner, "hall").await;
    let mut received = JoinSet::new();
    let mut members = Vec::new();
    for user in server.users("member", MEMBERS) {
        members.push(server.join(&user, "room=hall").await);
    }
    let room = server.get("/rooms/hall", &owner.token).await.expect(200);
    assert_eq!(room["room"]["members"], MEMBERS + 1);
    for (number, mut member) in members.into_iter().enumerate() {
        received.spawn(async move {
            if number < SENDERS {
                for message in 0..MESSAGES / SENDERS {
                    member.send(format!("{number} {message}")).await;
                }
            }
            // A million frames are too many to keep, so their hash is compared.
            let mut all = DefaultHasher::new();
            for offset in 1..=MESSAGES {
                let frame = member.text().await;
                assert!(frame.contains(&format!("\"offset\":{offset},")), "not at offset {offset}: {frame}");
                all.write(frame.as_bytes());
            }
            all.finish()
        });
    }
    let received = received.join_all().await;
    assert_eq!(received.len(), MEMBERS);
    assert!(received.iter().all(|frames| *frames == received[0]), "members received different frames");
}

on_each_database_and_shards! { two_hundred_members_receive_a_thousand_messages_in_one_order }

async fn two_hundred_members_receive_a_thousand_messages_in_one_order(kind: Kind, shards: &str) {
    let server = Server::start(kind, &["--shards", shards, "--limit", "publish_rate_per_second=0"]).await;
    let owner = server.user("owner").await;
    server.create_room(&owner, "hall").await;
    let mut members = Vec::new();
    for user in server.users("member", MEMBERS) {
        members.push(server.join(&user, "room=hall").await);
    }
    let room = server.get("/rooms/hall", &owner.token).await.expect(200);
    assert_eq!(room["room"]["members"], MEMBERS + 1);

    // Each sender sends its share without waiting. All members receive everything.
    let mut received = JoinSet::new();
    for (number, mut member) in members.into_iter().enumerate() {
        received.spawn(async move {
            if number < SENDERS {
                for message in 0..MESSAGES / SENDERS {
                    member.send(format!("{number} {message}")).await;
                }
            }
            let mut frames = Vec::with_capacity(MESSAGES);
            for _ in 0..MESSAGES {
                frames.push(member.text().await);
            }
            frames
        });
    }
    let received = received.join_all().await;
    assert_eq!(received.len(), MEMBERS);
    assert!(received.iter().all(|frames| frames == &received[0]), "members received different frames");

    let mut next = [0; SENDERS];
    for (frame, offset) in received[0].iter().zip(1_u64..) {
        let event: Value = serde_json::from_str(frame).unwrap();
        assert_eq!((event["type"].as_str(), event["offset"].as_u64()), (Some("message"), Some(offset)));
        let (sender, message) = event["text"].as_str().unwrap().split_once(' ').unwrap();
        assert_eq!(event["user"]["username"], format!("member{sender}"));
        let sender: usize = sender.parse().unwrap();
        assert_eq!(message.parse(), Ok(next[sender]), "a message of sender {sender} is out of order");
        next[sender] += 1;
    }
    assert_eq!(server.history(&owner, "hall").await.len(), MESSAGES);
}
