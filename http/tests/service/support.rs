//! A server on a loopback port, a chat that records every call, and a client that shows every byte.

use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use uproar_http::passwords::PasswordPool;
use uproar_http::{
    Adopted, Channel, Chat, ChatCounts, ChatError, Disconnect, Expiry, PasswordCost, PresenceStats, PresentClient,
    PublishError, PublishRequest, Service, Settings, SharedChat, SharedTraces, Term, Tokens,
};
use uproar_model::{
    DatabaseGeneration, Item, Lease, Outcome, Publication, Revocation, RoomId, Stored, User, UserEvent, UserId,
};
use uproar_store::{DataFolder, DatabaseUrl, OpenOptions, SharedStore, WriteRates};

/// A chat that records calls and behaves as the test sets it up.
pub struct FakeChat {
    store: SharedStore,
    pub learned: Mutex<Vec<(RoomId, Publication)>>,
    pub closed: Mutex<Vec<RoomId>>,
    pub notified: Mutex<Vec<(UserId, UserEvent)>>,
    pub revocations: Mutex<HashMap<UserId, Revocation>>,
    pub lease: Mutex<Lease>,
    pub unready_reason: Mutex<Option<String>>,
    /// Results of the next publishes, last first. If empty, publishes reach the store.
    pub publish_results: Mutex<Vec<Result<Stored, PublishError>>>,
    pub published: Mutex<Vec<PublishRequest>>,
    /// Messages for `live:` channels: the channel, the data and the sender.
    pub published_live: Mutex<Vec<(String, Bytes, Option<User>)>>,
    /// Who is in which channel.
    pub present: Mutex<HashMap<Channel, Vec<PresentClient>>>,
    pub channels: Mutex<Vec<(String, u64)>>,
    /// What backends have asked for, in words.
    pub commands: Mutex<Vec<String>>,
    /// The next request of a backend fails like this.
    pub chat_error: Mutex<Option<ChatError>>,
    adopted: mpsc::UnboundedSender<Adopted>,
    /// If set, a publish reports that it has started and waits until this is true.
    pub gate: Mutex<Option<(mpsc::UnboundedSender<()>, watch::Receiver<bool>)>>,
}

#[async_trait::async_trait]
impl Chat for FakeChat {
    fn sweep(&self) {}

    async fn publish(&self, message: PublishRequest) -> Result<Stored, PublishError> {
        self.published.lock().unwrap().push(message.clone());
        let gate = self.gate.lock().unwrap().clone();
        if let Some((started, mut open)) = gate {
            started.send(()).unwrap();
            let _ = open.wait_for(|open| *open).await;
        }
        if let Some(result) = self.publish_results.lock().unwrap().pop() {
            return result;
        }
        let number = self.published.lock().unwrap().len();
        let item = Item {
            room: message.room,
            user: message.user.id,
            id: message.id.map_or_else(|| format!("~test-{number}").into(), Into::into),
            kind: message.kind,
            target: message.target,
            body: message.body.map(Into::into),
            meta: message.meta.map(Into::into),
        };
        match self.store.append(&[item]).await.map_err(|_| PublishError::OutcomeUnknown)?[0] {
            Outcome::New(stored) | Outcome::Duplicate(stored) => Ok(stored),
            Outcome::Refused(refusal) => Err(refusal.into()),
        }
    }

    fn learn(&self, room: RoomId, _: Option<DatabaseGeneration>, publication: Publication) {
        self.learned.lock().unwrap().push((room, publication));
    }

    async fn close_room(&self, room: RoomId) {
        self.closed.lock().unwrap().push(room);
    }

    fn notify(&self, user: UserId, event: UserEvent) {
        self.notified.lock().unwrap().push((user, event));
    }

    async fn publish_live(&self, channel: &str, data: Bytes, info: Option<User>) -> Result<(), ChatError> {
        self.take_chat_error()?;
        self.published_live.lock().unwrap().push((channel.to_owned(), data, info));
        Ok(())
    }

    async fn publish_to_user(&self, user: UserId, data: Bytes) -> Result<(), ChatError> {
        self.take_chat_error()?;
        let data = String::from_utf8(data.to_vec()).unwrap();
        self.notified.lock().unwrap().push((user, UserEvent::Data { data: data.into() }));
        Ok(())
    }

    async fn presence(&self, channel: Channel) -> Result<Vec<PresentClient>, ChatError> {
        self.take_chat_error()?;
        Ok(self.present.lock().unwrap().get(&channel).cloned().unwrap_or_default())
    }

    async fn presence_stats(&self, channel: Channel) -> Result<PresenceStats, ChatError> {
        let present = self.presence(channel).await?;
        let users: HashSet<UserId> = present.iter().map(|client| client.user.id).collect();
        Ok(PresenceStats { clients: present.len() as u64, users: users.len() as u64 })
    }

    async fn channels(&self, pattern: Option<&str>) -> Result<Vec<(String, u64)>, ChatError> {
        self.take_chat_error()?;
        self.commands.lock().unwrap().push(format!("channels {pattern:?}"));
        Ok(self.channels.lock().unwrap().clone())
    }

    async fn unsubscribe(&self, user: UserId, channel: &str, client: Option<&str>) -> Result<(), ChatError> {
        self.take_chat_error()?;
        self.commands.lock().unwrap().push(format!("unsubscribe {user} {channel} {client:?}"));
        Ok(())
    }

    async fn disconnect(&self, disconnect: Disconnect) -> Result<(), ChatError> {
        self.take_chat_error()?;
        let Disconnect { user, client, whitelist, code } = disconnect;
        let (code, reason) = (code.code(), code.reason());
        self.commands.lock().unwrap().push(format!("disconnect {user} {client:?} {whitelist:?} {code} {reason}"));
        Ok(())
    }

    async fn refresh(&self, user: UserId, client: Option<&str>, expiry: Expiry) -> Result<(), ChatError> {
        self.take_chat_error()?;
        self.commands.lock().unwrap().push(format!("refresh {user} {client:?} {expiry:?}"));
        Ok(())
    }

    async fn revoke(&self, revocation: Revocation) {
        self.revocations.lock().unwrap().insert(revocation.user, revocation);
    }

    fn revocation(&self, user: UserId) -> Option<Revocation> {
        self.revocations.lock().unwrap().get(&user).copied()
    }

    fn lease(&self) -> Lease {
        self.lease.lock().unwrap().clone()
    }

    fn adopt(&self, connection: Adopted) {
        self.adopted.send(connection).unwrap();
    }

    fn unready_reason(&self) -> Option<String> {
        self.unready_reason.lock().unwrap().clone()
    }

    async fn metrics(&self) -> String {
        "# TYPE fake gauge\nfake 1\n".to_owned()
    }

    fn webhooks(&self) -> Value {
        json!({"webhooks": [{"name": "crm", "state": "sending"}]})
    }

    async fn counts(&self) -> Option<ChatCounts> {
        Some(ChatCounts { connections: 3, users: 2, subscriptions: 4, channels: 1 })
    }
}

impl FakeChat {
    fn take_chat_error(&self) -> Result<(), ChatError> {
        self.chat_error.lock().unwrap().take().map_or(Ok(()), Err)
    }
}

/// A running server with a real store. Passwords are hashed at the lowest cost.
pub struct Server {
    pub address: SocketAddr,
    pub service: Arc<Service>,
    pub chat: Arc<FakeChat>,
    pub store: SharedStore,
    pub tokens: Arc<Tokens>,
    pub drain: watch::Sender<bool>,
    pub adopted: mpsc::UnboundedReceiver<Adopted>,
    /// One message for each connection that has been served until it closed.
    pub ended: mpsc::UnboundedReceiver<()>,
    accepting: JoinHandle<()>,
    _folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

pub async fn server() -> Server {
    server_with(settings()).await
}

/// The term of a token that is issued at the sign-in, in Unix seconds.
pub fn term(now: u64, lifetime: u64) -> Term {
    Term::new(now, now, lifetime, u64::MAX)
}

pub fn settings() -> Settings {
    Settings { password_cost: PasswordCost::CHEAPEST, public_metrics: true, ..Settings::default() }
}

pub async fn server_with(settings: Settings) -> Server {
    start(settings, None, WriteRates::default(), None).await
}

pub async fn server_with_passwords(settings: Settings, passwords: PasswordPool) -> Server {
    start(settings, Some(passwords), WriteRates::default(), None).await
}

/// A server whose users may write only so often.
pub async fn server_with_rates(rates: WriteRates) -> Server {
    start(settings(), None, rates, None).await
}

/// A server that tells of its calls.
pub async fn server_with_traces(settings: Settings, traces: SharedTraces) -> Server {
    start(settings, None, WriteRates::default(), Some(traces)).await
}

async fn start(
    settings: Settings,
    passwords: Option<PasswordPool>,
    rates: WriteRates,
    traces: Option<SharedTraces>,
) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let data = DataFolder::open(folder.path().join("data")).unwrap();
    let url = DatabaseUrl::Sqlite(data.database_path());
    let options = OpenOptions { rates, ..OpenOptions::default() };
    let store = uproar_store::open(&url, &data, options).await.unwrap();
    let (adopt, adopted) = mpsc::unbounded_channel();
    let chat = Arc::new(FakeChat {
        store: Arc::clone(&store),
        learned: Mutex::default(),
        closed: Mutex::default(),
        notified: Mutex::default(),
        revocations: Mutex::default(),
        lease: Mutex::new(Lease::unlimited()),
        unready_reason: Mutex::default(),
        publish_results: Mutex::default(),
        published: Mutex::default(),
        published_live: Mutex::default(),
        present: Mutex::default(),
        channels: Mutex::default(),
        commands: Mutex::default(),
        chat_error: Mutex::default(),
        adopted: adopt,
        gate: Mutex::default(),
    });
    let tokens = Tokens::from_key(b"a key of exactly thirty-two bytes").unwrap();
    let tokens = Arc::new(tokens.for_database(store.generation()));
    let shared: SharedChat = Arc::clone(&chat) as SharedChat;
    let service = match passwords {
        None => Service::new(Arc::clone(&store), Arc::clone(&tokens), shared, settings, traces).unwrap(),
        Some(passwords) => {
            Service::with_passwords(Arc::clone(&store), Arc::clone(&tokens), shared, settings, traces, passwords)
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (drain, draining) = watch::channel(false);
    let (end, ended) = mpsc::unbounded_channel();
    let accepting = {
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            // Held as long as connections are accepted, because it locks the database.
            let _data = data;
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let (service, draining, end) = (Arc::clone(&service), draining.clone(), end.clone());
                tokio::spawn(async move {
                    if let Some(slot) = service.slot(peer, &[]) {
                        service.serve(stream, None, peer, Bytes::new(), draining, slot).await;
                    }
                    let _ = end.send(());
                });
            }
        })
    };
    Server { address, service, chat, store, tokens, drain, adopted, ended, accepting, _folder: folder }
}

impl Server {
    /// The notifications since the last call, as (user id, what happened, room).
    pub fn notified(&self) -> Vec<(String, &'static str, String)> {
        let notified = std::mem::take(&mut *self.chat.notified.lock().unwrap());
        let summary = |(user, event): (UserId, UserEvent)| match event {
            UserEvent::Joined { room } => (user.to_string(), "joined", room.to_string()),
            UserEvent::Left { room } => (user.to_string(), "left", room.to_string()),
            UserEvent::Read { room, .. } => (user.to_string(), "read", room.to_string()),
            UserEvent::Renamed { username } => (user.to_string(), "renamed", username.to_string()),
            UserEvent::Data { data } => (user.to_string(), "data", data.to_string()),
        };
        notified.into_iter().map(summary).collect()
    }

    pub async fn client(&self) -> Client {
        Client::new(TcpStream::connect(self.address).await.unwrap())
    }

    /// A client that connects from another address of the loopback network.
    pub async fn client_from(&self, address: &str) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        Client::new(socket.connect(self.address).await.unwrap())
    }

    /// A client of the operators' port.
    pub async fn admin(&self) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let (stream, peer) = listener.accept().await.unwrap();
        let slot = self.service.admin_slot(peer).unwrap();
        tokio::spawn(Arc::clone(&self.service).serve_admin(stream, peer, self.drain.subscribe(), slot));
        client
    }

    /// Holds publishes: the receiver gets a message for each one that starts, the sender lets them continue.
    pub fn gate(&self) -> (mpsc::UnboundedReceiver<()>, watch::Sender<bool>) {
        let (started, starts) = mpsc::unbounded_channel();
        let (open, opened) = watch::channel(false);
        *self.chat.gate.lock().unwrap() = Some((started, opened));
        (starts, open)
    }

    /// Signs a user up. The client sends the token with every request.
    pub async fn sign_up(&self, username: &str) -> Client {
        let mut client = self.client().await;
        let body = json!({
            "username": username, "email": format!("{username}@example.org"), "password": "correct horse"
        });
        let response = client.post("/user/signup", body).await;
        assert_eq!(response.status, 201, "{}", response.text());
        client.token = Some(response.json()["token"].as_str().unwrap().to_owned());
        client.user_id = response.json()["user"]["id"].as_str().unwrap().to_owned();
        client
    }
}

/// Waits for an event that must happen. Only a failing test waits for the whole timeout, and then says where.
pub async fn soon<F: Future>(event: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), event).await.expect("the event did not happen")
}

/// One connection, kept open between requests.
pub struct Client {
    pub stream: TcpStream,
    /// Bytes that were received and not yet consumed.
    pub received: Vec<u8>,
    pub token: Option<String>,
    pub user_id: String,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Status, code and field of an error. Checks that it has the shape of errors.
    pub fn error(&self) -> (u16, String, Option<String>) {
        let body = self.json();
        let error = body["error"].as_object().unwrap_or_else(|| panic!("not an error: {}", self.text()));
        assert_eq!(body.as_object().unwrap().len(), 1);
        // An error about fields lists them all, and one about a right that is taken away says until when.
        let expected = 3 + usize::from(error.contains_key("fields")) + usize::from(error.contains_key("until"));
        assert_eq!(error.len(), expected, "code, message, field, and perhaps fields or until: {error:?}");
        assert!(!error["message"].as_str().unwrap().is_empty());
        assert_eq!(self.header("content-type"), Some("application/json"));
        let field = error["field"].as_str().map(str::to_owned);
        (self.status, error["code"].as_str().unwrap().to_owned(), field)
    }

    #[track_caller]
    pub fn assert_error(&self, status: u16, code: &str, field: Option<&str>) {
        assert_eq!(self.error(), (status, code.to_owned(), field.map(str::to_owned)), "{}", self.text());
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }
}

impl Client {
    pub fn new(stream: TcpStream) -> Client {
        stream.set_nodelay(true).unwrap();
        Client { stream, received: Vec::new(), token: None, user_id: String::new() }
    }

    pub async fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, &[], None).await
    }

    pub async fn delete(&mut self, path: &str) -> Response {
        self.request("DELETE", path, &[], None).await
    }

    pub async fn post(&mut self, path: &str, body: Value) -> Response {
        self.post_text(path, &body.to_string()).await
    }

    pub async fn patch(&mut self, path: &str, body: Value) -> Response {
        let body = body.to_string();
        self.request("PATCH", path, &[("Content-Type", "application/json")], Some(body.as_bytes())).await
    }

    pub async fn post_text(&mut self, path: &str, body: &str) -> Response {
        self.request("POST", path, &[("Content-Type", "application/json")], Some(body.as_bytes())).await
    }

    /// A POST without a body.
    pub async fn call(&mut self, path: &str) -> Response {
        self.request("POST", path, &[], None).await
    }

    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Response {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        if let Some(token) = &self.token {
            request.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        self.send(request.as_bytes()).await;
        if let Some(body) = body {
            self.send(body).await;
        }
        if method == "HEAD" { self.head().await } else { self.response().await }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads the head of a response without its body.
    pub async fn head(&mut self) -> Response {
        let end = loop {
            if let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(self.more().await, "closed within a head: {:?}", String::from_utf8_lossy(&self.received));
        };
        let head: Vec<u8> = self.received.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Response { status, headers, body: Vec::new() }
    }

    pub async fn response(&mut self) -> Response {
        let mut response = self.head().await;
        let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.received.len() < length {
            assert!(self.more().await, "closed within a body");
        }
        response.body = self.received.drain(..length).collect();
        response
    }

    /// Reads more bytes; false if the connection has been closed.
    pub async fn more(&mut self) -> bool {
        matches!(soon(self.stream.read_buf(&mut self.received)).await, Ok(count) if count > 0)
    }

    /// Waits for the server to close the connection, and checks that no unread bytes came before that.
    pub async fn closed(&mut self) {
        while self.more().await {}
        assert_eq!(String::from_utf8_lossy(&self.received), "");
    }
}
