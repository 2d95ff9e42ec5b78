//! Proves that a violation of RFC 6455 closes that connection, with the code of the RFC, and no other connection.

use crate::client::{BINARY, CLOSE, CONTINUATION, FIN, PING, Raw, TEXT, frame, unmasked_frame};
use crate::databases::Kind;
use crate::server::{Server, with_limits};

on_each_database! { a_violation_closes_only_its_own_connection }

pub async fn a_violation_closes_only_its_own_connection(kind: Kind) {
    // These clients do not answer the close frame, so the server should not wait long for each of them.
    let limits = ["inbound_frame_limit_bytes=1000", "text_limit_bytes=900", "close_timeout_ms=100"];
    let server = Server::start(kind, &with_limits(&[], &limits)).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut neighbour = server.join(&ann, "room=r").await;
    let mut offset = 0;
    let large = vec![b'x'; 1001];
    let half = vec![b'x'; 501];
    let both = |frames: [Vec<u8>; 2]| frames.concat();
    for (what, bytes, code) in [
        ("a binary message", frame(FIN | BINARY, b"x"), 1003),
        ("text that is not UTF-8", frame(FIN | TEXT, b"a\xff"), 1007),
        ("a surrogate", frame(FIN | TEXT, b"\xed\xa0\x80"), 1007),
        ("half a character", frame(FIN | TEXT, b"\xe2\x9c"), 1007),
        ("bad UTF-8 in a fragment", both([frame(TEXT, b"a\xe2"), frame(CONTINUATION, b"\x28")]), 1007),
        ("a long frame", frame(FIN | TEXT, &large), 1009),
        ("only the header of a long frame", frame(FIN | TEXT, &large)[..14].to_vec(), 1009),
        ("an absurd length", [&[FIN | TEXT, 0xff][..], &(1_u64 << 62).to_be_bytes(), &[0; 4]].concat(), 1009),
        ("a length of 2^63", [&[FIN | TEXT, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat(), 1002),
        ("a long message", both([frame(TEXT, &half), frame(FIN | CONTINUATION, &half)]), 1009),
        ("an unmasked frame", unmasked_frame(FIN | TEXT, b"x"), 1002),
        ("a reserved bit", frame(FIN | 0x40 | TEXT, b"x"), 1002),
        ("a reserved opcode", frame(FIN | 0x3, b"x"), 1002),
        ("a reserved control opcode", frame(FIN | 0xb, b""), 1002),
        ("a ping in fragments", frame(PING, b""), 1002),
        ("a long ping", frame(FIN | PING, &[b'x'; 126]), 1002),
        ("a continuation of nothing", frame(FIN | CONTINUATION, b"x"), 1002),
        ("a message within a message", both([frame(TEXT, b"x"), frame(FIN | TEXT, b"y")]), 1002),
        ("half a close code", frame(FIN | CLOSE, &[3]), 1002),
        ("a close code that must not be sent", frame(FIN | CLOSE, &1005_u16.to_be_bytes()), 1002),
        ("a close code outside all ranges", frame(FIN | CLOSE, &5000_u16.to_be_bytes()), 1002),
        ("a close reason that is not UTF-8", frame(FIN | CLOSE, b"\x03\xe8\xff"), 1007),
    ] {
        let mut raw = Raw::join(server.port, &ann.token, "room=r").await;
        assert_eq!(raw.frame().await.first, FIN | TEXT, "{what}");
        raw.send(&bytes).await;
        let close = raw.frame().await;
        assert_eq!(close.first, FIN | CLOSE, "{what}: {close:?}");
        assert_eq!(close.close_code(), code, "{what}");
        assert!(close.payload.len() <= 125 && str::from_utf8(&close.payload[2..]).is_ok(), "{what}");
        raw.expect_end().await;
        offset += 1;
        assert_eq!(neighbour.round_trip(what).await, (offset, what.to_owned()));
    }

    // Frames that are just within the rules.
    let mut raw = Raw::join(server.port, &ann.token, "room=r").await;
    raw.frame().await;
    for (what, bytes) in [
        ("the longest text", frame(FIN | TEXT, &[b'x'; 900])),
        ("fragments", [frame(TEXT, b"a"), frame(CONTINUATION, b""), frame(FIN | CONTINUATION, b"b")].concat()),
        ("an unsolicited pong", [frame(FIN | 0xa, b"x"), frame(FIN | TEXT, b"c")].concat()),
    ] {
        raw.send(&bytes).await;
        offset += 1;
        assert_eq!(neighbour.message().await.0, offset, "{what}");
        assert_eq!(raw.frame().await.first, FIN | TEXT, "{what}");
    }
    // A frame within its limit that carries a text above the text limit gets an error, and the connection stays.
    raw.send(&frame(FIN | TEXT, &[b'x'; 1000])).await;
    let error: serde_json::Value = serde_json::from_slice(&raw.frame().await.payload).unwrap();
    assert_eq!((&error["type"], &error["code"]), (&"error".into(), &106.into()));
    // A proper close is answered with the same code.
    raw.send(&frame(FIN | CLOSE, b"\x0f\xa1bye")).await;
    assert_eq!(raw.frame().await.close_code(), 4001);
    raw.expect_end().await;
    let mut raw = Raw::join(server.port, &ann.token, "room=r").await;
    raw.frame().await;
    raw.send(&frame(FIN | CLOSE, b"")).await;
    assert_eq!(raw.frame().await.payload, b"");
    raw.expect_end().await;
}
