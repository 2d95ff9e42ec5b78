//! Many in one room.

use crate::client::User;
use crate::databases::Kind;
use crate::server::Server;
use serde_json::Value;
use std::hash::{DefaultHasher, Hasher};
use tokio::task::JoinSet;
use uproar_http::Tokens;

const MEMBERS: usize = 200;
const SENDERS: usize = 8;
const MESSAGES: usize = 1000;

on_each_database! { a_thousand_members_receive_a_thousand_messages_in_one_order }

async fn a_thousand_members_receive_a_thousand_messages_in_one_order(kind: Kind) {
    const MEMBERS: usize = 1000;
    let server = Server::start(kind, &["--limit", "publish_rate_per_second=0"]).await;
    let owner = server.user("owner").await;
    server.create_room(&owner, "hall").await;
    // What `uproar token` does, without a process for each.
    let tokens = Tokens::read_key_file(&server.place.data().join("signing.key")).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut received = JoinSet::new();
    let mut members = Vec::new();
    for number in 0..MEMBERS {
        let name = format!("member{number}");
        let token = tokens.mint(&name, now, 3600);
        members.push(server.join(&User { name, token }, "room=hall").await);
    }
    let room = server.get("/rooms/hall", &owner.token).await.expect(200);
    assert_eq!(room["room"]["members"], MEMBERS + 1);
    for (number, mut member) in members.into_iter().enumerate() {
        received.spawn(async move {
            if number < SENDERS {
                for message in 0..MESSAGES / SENDERS {
                    member.say(format!("{number} {message}")).await;
                }
            }
            // A million frames are compared, not kept.
            let mut all = DefaultHasher::new();
            for offset in 1..=MESSAGES {
                let frame = member.text().await;
                assert!(frame.contains(&format!("\"offset\":{offset},")), "{frame} is not at {offset}");
                all.write(frame.as_bytes());
            }
            all.finish()
        });
    }
    let received = received.join_all().await;
    assert_eq!(received.len(), MEMBERS);
    assert!(received.iter().all(|frames| *frames == received[0]), "they saw different things");
}

on_each_database_and_shards! { two_hundred_members_receive_a_thousand_messages_in_one_order }

async fn two_hundred_members_receive_a_thousand_messages_in_one_order(kind: Kind, shards: &str) {
    let server = Server::start(kind, &["--shards", shards, "--limit", "publish_rate_per_second=0"]).await;
    let owner = server.user("owner").await;
    server.create_room(&owner, "hall").await;
    let mut members = Vec::new();
    for number in 0..MEMBERS {
        let user = server.user(&format!("member{number}")).await;
        members.push(server.join(&user, "room=hall").await);
    }
    let room = server.get("/rooms/hall", &owner.token).await.expect(200);
    assert_eq!(room["room"]["members"], MEMBERS + 1);

    // Each sender says its share at once; all receive everything.
    let mut received = JoinSet::new();
    for (number, mut member) in members.into_iter().enumerate() {
        received.spawn(async move {
            if number < SENDERS {
                for message in 0..MESSAGES / SENDERS {
                    member.say(format!("{number} {message}")).await;
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
    assert!(received.iter().all(|frames| frames == &received[0]), "they saw different things");

    let mut next = [0; SENDERS];
    for (frame, offset) in received[0].iter().zip(1_u64..) {
        let event: Value = serde_json::from_str(frame).unwrap();
        assert_eq!((event["type"].as_str(), event["offset"].as_u64()), (Some("message"), Some(offset)));
        let (sender, message) = event["text"].as_str().unwrap().split_once(' ').unwrap();
        assert_eq!(event["user"]["username"], format!("member{sender}"));
        let sender: usize = sender.parse().unwrap();
        assert_eq!(message.parse(), Ok(next[sender]), "the order of sender {sender}");
        next[sender] += 1;
    }
    assert_eq!(server.history(&owner, "hall").await.len(), MESSAGES);
}
