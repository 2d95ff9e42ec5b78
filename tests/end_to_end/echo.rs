//! `/echo`: the same connection code without the chat.

use crate::client::{BINARY, CLOSE, CONTINUATION, FIN, Http, PING, PONG, Raw, TEXT, frame};
use crate::databases::Kind;
use crate::server::Server;

#[tokio::test]
async fn it_sends_back_what_it_gets() {
    let server = Server::start(Kind::Sqlite, &["--echo"]).await;
    for keeps_connection in [false, true] {
        let mut http = Http::connect(server.port).await.unwrap();
        if keeps_connection {
            http.request("GET", "/healthz", &[], None).await.unwrap().expect(200);
        }
        let Ok((mut raw, _)) = http.upgrade("/echo", &[]).await else { panic!("refused") };
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
        // Fragments, a character torn apart, and a ping between.
        let mut bytes = frame(TEXT, b"one \xe2\x9c");
        bytes.extend(frame(FIN | PING, b"p"));
        bytes.extend(frame(CONTINUATION, b"\x93 "));
        bytes.extend(frame(FIN | CONTINUATION, b"two"));
        // Byte by byte.
        for byte in bytes {
            raw.send(&[byte]).await;
        }
        let pong = raw.frame().await;
        assert_eq!((pong.first, pong.payload.as_slice()), (FIN | PONG, b"p".as_slice()));
        let echo = raw.frame().await;
        assert_eq!((echo.first, String::from_utf8(echo.payload).unwrap()), (FIN | TEXT, "one ✓ two".to_owned()));
        // Several at once.
        let bytes: Vec<u8> = (0..200).flat_map(|n: u8| frame(FIN | BINARY, &[n; 3])).collect();
        raw.send(&bytes).await;
        for n in 0..200 {
            assert_eq!(raw.frame().await.payload, [n; 3]);
        }
        raw.send(&frame(FIN | CLOSE, &1000_u16.to_be_bytes())).await;
        assert_eq!(raw.frame().await.close_code(), 1000);
        raw.ended().await;
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_everything() {
    let server = Server::start(Kind::Sqlite, &["--echo", "--limit", "outbound_limit_bytes=65536"]).await;
    let Raw { stream, unread } = Raw::open(server.port, "/echo", &[]).await;
    let (reading, mut writing) = stream.into_split();
    const FRAMES: usize = 300;
    // Far more than all buffers between hold: the server has to stop reading, and go on later.
    let written = tokio::spawn(async move {
        for n in 0..FRAMES {
            let bytes = frame(FIN | BINARY, &vec![n as u8; 50_000]);
            tokio::io::AsyncWriteExt::write_all(&mut writing, &bytes).await.unwrap();
        }
        writing
    });
    // Until the kernel takes no more from the writer, nobody reads.
    let mut before = usize::MAX;
    crate::server::until("the writer is stopped or done", async || {
        let waiting = std::mem::replace(&mut before, queued(&reading));
        waiting == before || written.is_finished()
    })
    .await;
    let mut raw = RawReader { reading, unread };
    for n in 0..FRAMES {
        let payload = raw.binary().await;
        assert!(payload == vec![n as u8; 50_000], "frame {n}");
    }
    written.await.unwrap();
}

/// Bytes that wait to be read.
fn queued(stream: &tokio::net::tcp::OwnedReadHalf) -> usize {
    rustix::io::ioctl_fionread(stream.as_ref()).unwrap_or(0) as usize
}

struct RawReader {
    reading: tokio::net::tcp::OwnedReadHalf,
    unread: Vec<u8>,
}

impl RawReader {
    async fn binary(&mut self) -> Vec<u8> {
        loop {
            if let [first, 126, high, low, rest @ ..] = self.unread.as_slice() {
                assert_eq!(*first, FIN | BINARY);
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if rest.len() >= length {
                    let payload = rest[..length].to_vec();
                    self.unread.drain(..4 + length);
                    return payload;
                }
            }
            let reading = tokio::io::AsyncReadExt::read_buf(&mut self.reading, &mut self.unread);
            assert_ne!(crate::client::within("a frame", reading).await.unwrap(), 0, "it has ended");
        }
    }
}

#[tokio::test]
async fn it_is_off_unless_asked_for() {
    let server = Server::start(Kind::Sqlite, &[]).await;
    for keeps_connection in [false, true] {
        let mut http = Http::connect(server.port).await.unwrap();
        if keeps_connection {
            http.request("GET", "/healthz", &[], None).await.unwrap().expect(200);
        }
        let refused = http.upgrade("/echo", &[]).await.err().expect("it is there");
        assert_eq!(refused.error(), (404, "not_found".into()));
    }
}
