//! Proves that `/echo`, the connection code without the chat, returns every message, also to a slow reader.

use crate::client::{BINARY, CLOSE, CONTINUATION, FIN, Http, PING, PONG, Raw, TEXT, frame, take_frame, within};
use crate::databases::Kind;
use crate::server::{Server, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;

#[tokio::test]
async fn each_message_is_echoed() {
    let server = Server::start(Kind::Sqlite, &["--echo"]).await;
    for is_reused in [false, true] {
        let http = Http::fresh_or_reused(server.port, is_reused).await;
        let Ok((mut raw, _)) = http.upgrade("/echo", &[]).await else { panic!("the upgrade was rejected") };
        for (opcode, payload) in [
            (TEXT, "hello ✓".as_bytes().to_vec()),
            (BINARY, vec![0, 255, 128]),
            (TEXT, Vec::new()),
            (BINARY, vec![7; 125]),
            (BINARY, vec![7; 126]),
            (TEXT, vec![b'x'; 65_535]),
            (BINARY, vec![7; 65_536]),
        ] {
            raw.send(&frame(FIN | opcode, &payload)).await;
            let echo = raw.frame().await;
            assert_eq!((echo.first, echo.payload.len()), (FIN | opcode, payload.len()));
            assert!(echo.payload == payload);
        }
        // Fragments that split a character, with a ping between them, sent byte by byte.
        let mut bytes = frame(TEXT, b"one \xe2\x9c");
        bytes.extend(frame(FIN | PING, b"p"));
        bytes.extend(frame(CONTINUATION, b"\x93 "));
        bytes.extend(frame(FIN | CONTINUATION, b"two"));
        for byte in bytes {
            raw.send(&[byte]).await;
        }
        let pong = raw.frame().await;
        assert_eq!((pong.first, pong.payload.as_slice()), (FIN | PONG, b"p".as_slice()));
        let echo = raw.frame().await;
        assert_eq!((echo.first, String::from_utf8(echo.payload).unwrap()), (FIN | TEXT, "one ✓ two".to_owned()));
        // Several frames in one write.
        let bytes: Vec<u8> = (0..200).flat_map(|n: u8| frame(FIN | BINARY, &[n; 3])).collect();
        raw.send(&bytes).await;
        for n in 0..200 {
            assert_eq!(raw.frame().await.payload, [n; 3]);
        }
        raw.send(&frame(FIN | CLOSE, &1000_u16.to_be_bytes())).await;
        assert_eq!(raw.frame().await.close_code(), 1000);
        raw.expect_end().await;
    }
}

#[tokio::test]
async fn a_slow_reader_receives_everything() {
    let server = Server::start(Kind::Sqlite, &["--echo", "--limit", "outbound_limit_bytes=65536"]).await;
    let Raw { stream, mut unread } = Raw::open(server.port, "/echo", &[]).await;
    let (mut reading, mut writing) = stream.into_split();
    const FRAMES: usize = 300;
    // Far more than all buffers hold: the server must stop reading, and continue later.
    let written = tokio::spawn(async move {
        for n in 0..FRAMES {
            let bytes = frame(FIN | BINARY, &vec![n as u8; 50_000]);
            writing.write_all(&bytes).await.unwrap();
        }
        writing
    });
    // Nothing is read until the kernel accepts nothing more from the writer.
    let mut before = usize::MAX;
    until("the writer is blocked or done", async || {
        let last = std::mem::replace(&mut before, queued(&reading));
        last == before || written.is_finished()
    })
    .await;
    for n in 0..FRAMES {
        let echo = loop {
            match take_frame(&mut unread) {
                Some(frame) => break frame,
                None => assert_ne!(
                    within("a frame", reading.read_buf(&mut unread)).await.unwrap(),
                    0,
                    "the connection has ended"
                ),
            }
        };
        assert_eq!(echo.first, FIN | BINARY);
        assert!(echo.payload == vec![n as u8; 50_000], "frame {n}");
    }
    written.await.unwrap();
}

/// The number of bytes that the kernel holds for the reader.
fn queued(stream: &OwnedReadHalf) -> usize {
    rustix::io::ioctl_fionread(stream.as_ref()).unwrap_or(0) as usize
}

#[tokio::test]
async fn echo_is_off_by_default() {
    let server = Server::start(Kind::Sqlite, &[]).await;
    for is_reused in [false, true] {
        let http = Http::fresh_or_reused(server.port, is_reused).await;
        let rejected = http.upgrade("/echo", &[]).await.err().expect("a rejected upgrade");
        assert_eq!(rejected.error(), (404, "not_found".into()));
    }
}
