//! Proves that a reader that stops reading harms nobody: others lose nothing, and it recovers what it missed.

use crate::client::{FIN, Http, PING, Raw, TEXT, User};
use crate::databases::Kind;
use crate::server::{Server, until, with_limits};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::task::JoinSet;

const SENDERS: usize = 3;
/// Messages per sender. In total they are far more than the buffers of the server and of the kernel hold.
const MESSAGES: usize = 80;
const TEXT_BYTES: usize = 6_000;

on_each_database! {
    a_reader_that_stops_is_disconnected_and_the_others_lose_nothing
    a_reader_that_reads_nothing_is_aborted
}

pub async fn a_reader_that_stops_is_disconnected_and_the_others_lose_nothing(kind: Kind) {
    // Enough time to read everything that the kernel holds, and then the close frame.
    let limits = ["outbound_limit_bytes=100000", "close_timeout_ms=60000"];
    let code = one_stops_reading(kind, &limits, async |server| {
        server.metric("uproar_ended_total{code=\"3008\"}").await == 1.0
    });
    assert_eq!(code.await, Some(3008));
}

pub async fn a_reader_that_reads_nothing_is_aborted(kind: Kind) {
    // Its queue holds everything, so only the write timeout can end the connection.
    let limits = ["outbound_limit_bytes=100000000", "write_timeout_ms=3000"];
    let code = one_stops_reading(kind, &limits, async |server| server.metric("uproar_subscriptions").await == 0.0);
    assert_eq!(code.await, None);
}

/// Lets others chat while one client does not read, until `is_closed`. Returns its close code, if it receives one.
async fn one_stops_reading(kind: Kind, limits: &[&str], is_closed: impl AsyncFn(&Server) -> bool) -> Option<u16> {
    let limits = [&["publish_rate_per_second=0", "socket_send_buffer_bytes=65536"], limits].concat();
    let server = Server::start(kind, &with_limits(&[], &limits)).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut slow = join_with_small_buffer(server.port, &ann).await;
    let joined: Value = serde_json::from_slice(&slow.frame().await.payload).unwrap();

    let mut all = Vec::new();
    for _ in 0..SENDERS + 2 {
        all.push(server.join(&ann, "room=r").await);
    }
    let mut others = JoinSet::new();
    for (number, mut ws) in all.into_iter().enumerate() {
        others.spawn(async move {
            // Each sender waits for its own message, so that bursts stay small and only the stopped reader is slow.
            let mine = format!("{number} {}", "x".repeat(TEXT_BYTES));
            let mut sent = 0;
            if number < SENDERS {
                ws.send(mine.clone()).await;
                sent += 1;
            }
            for offset in 1..=(SENDERS * MESSAGES) as u64 {
                let message = ws.message().await;
                assert_eq!(message.0, offset);
                if message.1 == mine && sent < MESSAGES {
                    ws.send(mine.clone()).await;
                    sent += 1;
                }
            }
        });
    }
    while let Some(other) = others.join_next().await {
        other.unwrap();
    }
    until("the stopped reader is disconnected", async || is_closed(&server).await).await;

    // Everything that it received is complete and without a gap.
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
    let head = (SENDERS * MESSAGES) as u64;
    assert!(last < head, "the stopped reader has missed nothing");

    let epoch = joined["epoch"].as_str().unwrap();
    let mut returned = server.join(&ann, &format!("room=r&since={last}&epoch={epoch}")).await;
    assert_eq!((&returned.joined["recovered"], returned.offset()), (&Value::Bool(true), last));
    for offset in last + 1..=head {
        assert_eq!(returned.message().await.0, offset);
    }
    assert_eq!(returned.round_trip("up to date").await, (head + 1, "up to date".into()));
    code
}

/// Connects to room `r`, with a small receive buffer in the kernel.
pub async fn join_with_small_buffer(port: u16, user: &User) -> Raw {
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
