//! A receiver of webhooks, which answers as a test wants it to and checks every signature.

use crate::server::{number, text, until};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What all tests share with their receivers.
pub const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Status and further headers, each with its line end.
    Status(u16, &'static str),
    /// What no web server answers.
    Garbage,
    /// Nothing, for ever.
    Silence,
    /// The connection is closed.
    Close,
}

pub const OK: Answer = Answer::Status(204, "");

/// A POST that has arrived.
#[derive(Clone, Debug)]
pub struct Post {
    pub id: String,
    pub room: String,
    pub epoch: String,
    pub from: u64,
    pub to: u64,
    pub publications: Vec<Value>,
    pub body: Value,
    pub answer: Answer,
    pub at: Instant,
}

impl Post {
    pub fn offsets(&self) -> Vec<u64> {
        self.publications.iter().map(|publication| number(&publication["offset"])).collect()
    }

    pub fn texts(&self) -> Vec<String> {
        self.publications.iter().map(|publication| text(&publication["text"])).collect()
    }

    pub fn is_accepted(&self) -> bool {
        matches!(self.answer, Answer::Status(200..=299, _))
    }
}

type Decide = Box<dyn FnMut(&str) -> Answer + Send>;

/// It accepts everything, once it has given the answers that it was told to give.
#[derive(Clone)]
pub struct Receiver {
    pub port: u16,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    decide: Arc<Mutex<Option<Decide>>>,
    posts: Arc<Mutex<Vec<Post>>>,
    tls: Arc<Mutex<Option<TlsAcceptor>>>,
}

impl Receiver {
    pub async fn start(answers: impl IntoIterator<Item = Answer>) -> Receiver {
        Receiver::listen(None, answers).await
    }

    /// A receiver that speaks TLS.
    pub async fn start_with_tls(tls: TlsAcceptor) -> Receiver {
        Receiver::listen(Some(tls), []).await
    }

    async fn listen(tls: Option<TlsAcceptor>, answers: impl IntoIterator<Item = Answer>) -> Receiver {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let receiver = Receiver {
            port: listener.local_addr().expect("an address").port(),
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
            decide: Arc::default(),
            posts: Arc::default(),
            tls: Arc::new(Mutex::new(tls)),
        };
        let accepting = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let receiver = accepting.clone();
                tokio::spawn(async move {
                    let tls = receiver.tls.lock().unwrap().clone();
                    match tls {
                        None => receiver.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                receiver.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        receiver
    }

    /// Uses another certificate for new connections.
    pub fn use_certificate(&self, tls: TlsAcceptor) {
        *self.tls.lock().unwrap() = Some(tls);
    }

    /// Decides about each POST by its id.
    pub fn decide_by(&self, decide: impl FnMut(&str) -> Answer + Send + 'static) {
        *self.decide.lock().unwrap() = Some(Box::new(decide));
    }

    /// The next answers.
    pub fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().unwrap().extend(answers);
    }

    /// Serves one connection until it ends.
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut unread = Vec::new();
        while let Some((headers, body)) = receive(&mut stream, &mut unread).await {
            let post = check(&headers, &body);
            let decided = self.decide.lock().unwrap().as_mut().map(|decide| decide(&post.id));
            let answer = self.answers.lock().unwrap().pop_front().or(decided).unwrap_or(OK);
            self.posts.lock().unwrap().push(Post { answer: answer.clone(), ..post });
            let bytes = match answer {
                Answer::Status(status, headers) => {
                    let length = if status == 204 { "" } else { "content-length: 0\r\n" };
                    format!("HTTP/1.1 {status} Status\r\n{headers}{length}connection: close\r\n\r\n")
                }
                Answer::Garbage => "220 mail.example.org ESMTP\r\n".to_owned(),
                Answer::Silence => return std::future::pending().await,
                Answer::Close => return,
            };
            // A connection for each POST: a new certificate or a restart is noticed at once.
            if stream.write_all(bytes.as_bytes()).await.is_err() || stream.shutdown().await.is_err() {
                return;
            }
        }
    }

    pub fn count(&self) -> usize {
        self.posts.lock().unwrap().len()
    }

    pub fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }

    /// Waits for this many POSTs.
    pub async fn wait_for(&self, count: usize) -> Vec<Post> {
        until(&format!("{count} POSTs arrive"), async || self.posts.lock().unwrap().len() >= count).await;
        self.posts()
    }

    /// The offsets that were accepted in each room, in order; those of a POST that came again once.
    pub fn accepted(&self) -> BTreeMap<String, Vec<u64>> {
        let mut rooms: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for post in self.posts.lock().unwrap().iter().filter(|post| post.is_accepted()) {
            if seen.insert(post.id.clone()) {
                rooms.entry(post.room.clone()).or_default().extend(post.offsets());
            }
        }
        rooms
    }

    /// Waits until the offsets 1 to `head` of a room were accepted, and checks that they were so in order.
    pub async fn has_all(&self, room: &str, head: u64) {
        until(&format!("everything up to {head} in {room} is delivered"), async || {
            self.accepted().get(room).and_then(|offsets| offsets.last()).is_some_and(|last| *last >= head)
        })
        .await;
        let expected: Vec<u64> = (1..=head).collect();
        assert_eq!(self.accepted()[room], expected, "{room}");
    }
}

/// The headers and the body of the next request.
async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
    unread: &mut Vec<u8>,
) -> Option<(BTreeMap<String, String>, Vec<u8>)> {
    let end = loop {
        if let Some(end) = unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(unread).await.unwrap_or(0) == 0 {
            return None;
        }
    };
    let head = String::from_utf8(unread.drain(..end).collect()).expect("ASCII");
    assert!(head.starts_with("POST "), "{head}");
    let headers: BTreeMap<String, String> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers["content-length"].parse().expect("a length");
    while unread.len() < length {
        if stream.read_buf(unread).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    Some((headers, unread.drain(..length).collect()))
}

/// The signature of a POST. `timestamp`: Unix seconds.
pub fn sign(id: &str, timestamp: &str, body: &[u8]) -> String {
    let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY), &signed);
    format!("v1,{}", STANDARD.encode(signature))
}

fn check(headers: &BTreeMap<String, String>, body: &[u8]) -> Post {
    let (id, timestamp) = (headers["webhook-id"].clone(), &headers["webhook-timestamp"]);
    assert_eq!(headers["webhook-signature"], sign(&id, timestamp, body));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let sent: u64 = timestamp.parse().expect("seconds");
    assert!(now.abs_diff(sent) < 60, "{timestamp}");
    assert_eq!(headers["content-type"], "application/json");
    let body: Value = serde_json::from_slice(body).expect("JSON");
    assert_eq!(body["type"], "room.publications");
    let data = &body["data"];
    Post {
        id,
        room: text(&data["room"]),
        epoch: text(&data["epoch"]),
        from: number(&data["from"]),
        to: number(&data["to"]),
        publications: data["publications"].as_array().expect("publications").clone(),
        answer: OK,
        at: Instant::now(),
        body,
    }
}

/// How long after one POST the next one came.
pub fn pause(posts: &[Post]) -> Duration {
    posts[1].at - posts[0].at
}
