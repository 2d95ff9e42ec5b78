//! A reader that stops reading harms nobody, itself included: it gets what it missed when it comes back.

use crate::client::{FIN, Http, PING, Raw, TEXT, User};
use crate::databases::Kind;
use crate::server::{Server, until};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::task::JoinSet;

const SENDERS: usize = 3;
/// Of each sender. Together far more than the buffers of the server and of the kernel hold.
const MESSAGES: usize = 80;
const TEXT_BYTES: usize = 6_000;

on_each_database! {
    a_reader_that_stops_is_ended_and_the_others_lose_nothing
    a_reader_that_reads_nothing_is_cut
}

async fn a_reader_that_stops_is_ended_and_the_others_lose_nothing(kind: Kind) {
    // Time enough to read the close frame behind all that the kernel holds.
    let limits = ["outbound_limit_bytes=100000", "close_timeout_ms=60000"];
    let code = one_stops_reading(kind, &limits, async |server| {
        server.metric("uproar_ended_total{code=\"3008\"}").await == 1.0
    });
    assert_eq!(code.await, Some(3008));
}

async fn a_reader_that_reads_nothing_is_cut(kind: Kind) {
    // Its queue holds everything, so only that nothing moves can end it.
    let limits = ["outbound_limit_bytes=100000000", "write_timeout_ms=3000"];
    let code = one_stops_reading(kind, &limits, async |server| server.metric("uproar_subscriptions").await == 0.0);
    assert_eq!(code.await, None);
}

/// Others talk while one does not read, until `is_ended`. Returns the code with which that one is ended, if any.
async fn one_stops_reading(kind: Kind, limits: &[&str], is_ended: impl AsyncFn(&Server) -> bool) -> Option<u16> {
    let mut options = Vec::new();
    for limit in ["publish_rate_per_second=0", "socket_send_buffer_bytes=65536"].iter().chain(limits) {
        options.extend(["--limit", limit]);
    }
    let server = Server::start(kind, &options).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut slow = narrow(server.port, &ann).await;
    let joined: Value = serde_json::from_slice(&slow.frame().await.payload).unwrap();

    let mut all = Vec::new();
    for _ in 0..SENDERS + 2 {
        all.push(server.join(&ann, "room=r").await);
    }
    let mut others = JoinSet::new();
    for (number, mut ws) in all.into_iter().enumerate() {
        others.spawn(async move {
            // One after the other, so that there is never much at once: only who does not read is slow.
            let mine = format!("{number} {}", "x".repeat(TEXT_BYTES));
            let mut said = 0;
            if number < SENDERS {
                ws.say(mine.clone()).await;
                said += 1;
            }
            for offset in 1..=(SENDERS * MESSAGES) as u64 {
                let message = ws.message().await;
                assert_eq!(message.0, offset);
                if message.1 == mine && said < MESSAGES {
                    ws.say(mine.clone()).await;
                    said += 1;
                }
            }
        });
    }
    while let Some(other) = others.join_next().await {
        other.unwrap();
    }
    until("the one who does not read is ended", async || is_ended(&server).await).await;

    // What has come through is whole and without a gap.
    let (mut last, mut code) = (0, None);
    while let Some(frame) = slow.receive().await {
        if frame.first == FIN | PING {
            continue;
        }
        if frame.first != FIN | TEXT {
            code = Some(frame.close_code());
            break;
        }
        let event: Value = serde_json::from_slice(&frame.payload).unwrap();
        assert_eq!(event["offset"], last + 1);
        last += 1;
    }
    let top = (SENDERS * MESSAGES) as u64;
    assert!(last < top, "it has missed nothing");

    let epoch = joined["epoch"].as_str().unwrap();
    let mut back = server.join(&ann, &format!("room=r&since={last}&epoch={epoch}")).await;
    assert_eq!((&back.joined["recovered"], back.offset()), (&Value::Bool(true), last));
    for offset in last + 1..=top {
        assert_eq!(back.message().await.0, offset);
    }
    assert_eq!(back.round_trip("up to date").await, (top + 1, "up to date".into()));
    code
}

/// A WebSocket whose kernel takes little that is not read.
pub async fn narrow(port: u16, user: &User) -> Raw {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let http = Http::over(tokio::net::TcpStream::from_std(socket.into()).unwrap());
    let bearer = format!("Bearer {}", user.token);
    match http.upgrade("/ws?room=r", &[("Authorization", &bearer)]).await {
        Ok((raw, _)) => raw,
        Err(response) => panic!("{response:?}"),
    }
}
