//! Clients of the Centrifugo SDKs, remote-controlled. A driver is one process (tests/sdk/driver.mjs or driver.py) with
//! any number of clients in it. It reads one command a line, or several in a list which then all begin at once, and
//! writes one event a line.
//!
//! Commands, under `do`, with what belongs to them; all but the first are for one `client`:
//!
//! - `server {port}`: where the server is from now on; 0: it can't be reached.
//! - `create {token?, tokens?, headers?, path?, mute?, max_ping_delay_ms?}`: `tokens` is what its `getToken` gives, one
//!   after the other; `""`: there will never be one again. `mute`: its frames go nowhere.
//! - `connect`, `disconnect`, `mute {mute}`, `tokens {tokens}` (more of them).
//! - `traffic`: what has passed so far, as [`Client::traffic`] says.
//! - `drop`: its socket is gone, without a word to the SDK.
//! - `subscribe {channel, recoverable?, join_leave?, since?, states?}`: `states` is what `getState` gives, one after the
//!   other. The options count the first time.
//! - `unsubscribe`, `remove`, `status`, `presence`, `presence_stats {channel}`.
//! - `publish {channel, data}`, `send {data}`, `rpc {method, data}`, `history {channel, limit?, since?, reverse?}`.
//!
//! Each command has a number, `call`, and gets a `result` or `failed {code, message, temporary}`. The events beside
//! them: `state`, `error`, `token`, `closed` (the socket: code and reason) of a client; `subscription`, `publication`,
//! `presence` (join or leave), `subscription_error`, `get_state` of a channel; `broken`: what must never happen.

use crate::client::PATIENCE;
use crate::server::{number, text};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Notify;

/// Lines that are shown when a test fails.
const SHOWN_LINES: usize = 40;

/// An SDK and how it encodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sdk {
    JsJson,
    JsProtobuf,
    PyJson,
    PyProtobuf,
}

/// What the SDK or the server says about a call that failed. Codes from 100 on are the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub code: u64,
    pub message: String,
    pub is_temporary: bool,
}

/// A process with clients of one SDK. Dropped, it is killed.
pub struct Driver {
    events: Arc<Events>,
    stdin: tokio::sync::Mutex<ChildStdin>,
    calls: AtomicU64,
    _child: Child,
}

/// One client in it.
#[derive(Clone)]
pub struct Client<'a> {
    pub name: String,
    driver: &'a Driver,
}

/// One channel of a client.
#[derive(Clone)]
pub struct Subscription<'a> {
    pub client: Client<'a>,
    pub channel: String,
}

/// What came, each kind in a queue of its own: a test asks for the next of what it is about.
#[derive(Default)]
struct Events {
    queues: Mutex<Queues>,
    is_new: Notify,
}

#[derive(Default)]
struct Queues {
    queues: HashMap<String, VecDeque<Value>>,
    /// The last lines of all.
    shown: VecDeque<String>,
    /// Why nothing can be expected any more.
    broken: Option<String>,
}

impl Sdk {
    pub fn is_javascript(self) -> bool {
        matches!(self, Sdk::JsJson | Sdk::JsProtobuf)
    }

    fn encoding(self) -> &'static str {
        match self {
            Sdk::JsJson | Sdk::PyJson => "json",
            Sdk::JsProtobuf | Sdk::PyProtobuf => "protobuf",
        }
    }

    fn command(self) -> Command {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk");
        let mut command = if self.is_javascript() {
            installed("node_modules/centrifuge");
            let mut command = Command::new("node");
            command.arg(sources.join("driver.mjs")).arg(installed(""));
            command
        } else {
            let mut command = Command::new(installed("python/bin/python"));
            // No compiled copy of the driver beside it.
            command.arg("-B").arg(sources.join("driver.py"));
            command
        };
        command.arg(self.encoding());
        command
    }
}

/// Something of what `scripts/test-sdks` has installed, beside the folder that cargo has for what tests need.
pub fn installed(path: &str) -> PathBuf {
    let sdks = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target folder").join("sdk");
    let path = sdks.join(path);
    assert!(path.exists(), "the tests need the Centrifugo SDKs in {}: run scripts/test-sdks", sdks.display());
    path
}

impl Events {
    fn put(&self, queue: String, event: Value) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.queues.entry(queue).or_default().push_back(event);
        drop(queues);
        self.is_new.notify_waiters();
    }

    fn show(&self, line: &str) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if queues.shown.len() == SHOWN_LINES {
            queues.shown.pop_front();
        }
        queues.shown.push_back(line.chars().take(500).collect());
    }

    fn end(&self, reason: &str) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.broken.get_or_insert_with(|| reason.to_owned());
        drop(queues);
        self.is_new.notify_waiters();
    }

    /// What came last, for the message of a failure.
    fn last(&self) -> String {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.shown.iter().map(|line| format!("\n  {line}")).collect()
    }

    /// The next event of a queue.
    async fn next(&self, queue: &str) -> Value {
        let wait = async {
            loop {
                let mut is_new = std::pin::pin!(self.is_new.notified());
                is_new.as_mut().enable();
                if let Some(next) = self.try_next(queue) {
                    return next;
                }
                is_new.await;
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(Ok(event)) => event,
            Ok(Err(broken)) => panic!("{broken}, while waiting for {queue}:{}", self.last()),
            Err(_) => panic!("not within {PATIENCE:?}: {queue}:{}", self.last()),
        }
    }

    fn try_next(&self, queue: &str) -> Option<Result<Value, String>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(broken) = &queues.broken {
            return Some(Err(broken.clone()));
        }
        queues.queues.get_mut(queue).and_then(VecDeque::pop_front).map(Ok)
    }

    /// All that is in a queue now.
    fn take(&self, queue: &str) -> Vec<Value> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.queues.remove(queue).unwrap_or_default().into()
    }

    /// Sorts what a driver says.
    async fn read(&self, said: impl AsyncBufRead + Unpin) {
        let mut lines = said.lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.show(&line);
            let Ok(event) = serde_json::from_str::<Value>(&line) else {
                self.end(&format!("the driver says {line:?}"));
                continue;
            };
            let of = |field: &str| event[field].as_str().unwrap_or_default();
            let (client, channel) = (of("client"), of("channel"));
            let queue = match of("event") {
                "result" | "failed" => format!("the result of call {}", event["call"]),
                "broken" => {
                    self.end(of("message"));
                    continue;
                }
                // What has no place in a history goes a way of its own: it may come between any two that have.
                "publication" if event["offset"] == 0 => format!("{client} {channel} note"),
                kind if !channel.is_empty() => format!("{client} {channel} {kind}"),
                kind => format!("{client} {kind}"),
            };
            self.put(queue, event);
        }
        self.end("the driver has ended");
    }
}

impl Driver {
    /// Clients that will find a server at this port.
    pub async fn start(sdk: Sdk, port: u16) -> Driver {
        let mut command = sdk.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let stderr = child.stderr.take().expect("piped");
        let events = Arc::new(Events::default());
        let reader = Arc::clone(&events);
        tokio::spawn(async move { reader.read(BufReader::new(stdout)).await });
        let reader = Arc::clone(&events);
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                reader.show(&line);
            }
        });
        let stdin = tokio::sync::Mutex::new(stdin);
        let driver = Driver { events, stdin, calls: AtomicU64::new(1), _child: child };
        driver.server_is_at(port).await;
        driver
    }

    /// From now on the server is at this port; at 0 it can't be reached. Connections that there are stay.
    pub async fn server_is_at(&self, port: u16) {
        self.done(json!({"do": "server", "port": port})).await;
    }

    /// A client that has not been told to connect.
    pub async fn create(&self, name: &str, options: Value) -> Client<'_> {
        self.done(merged(json!({"do": "create", "client": name}), options)).await;
        Client { name: name.to_owned(), driver: self }
    }

    /// A client that is connected.
    pub async fn connect(&self, name: &str, token: &str) -> Client<'_> {
        let client = self.create(name, json!({"token": token})).await;
        client.connect().await;
        client
    }

    /// Sends commands, all in one line. Returns the numbers of their calls.
    pub async fn begin(&self, commands: Vec<Value>) -> Vec<u64> {
        let mut calls = Vec::new();
        let mut numbered = Vec::new();
        for command in commands {
            calls.push(self.calls.fetch_add(1, Ordering::Relaxed));
            numbered.push(merged(command, json!({"call": calls.last()})));
        }
        let line = format!("{}\n", Value::Array(numbered));
        if let Err(error) = self.stdin.lock().await.write_all(line.as_bytes()).await {
            panic!("the driver does not listen: {error}:{}", self.events.last());
        }
        calls
    }

    /// How a call went.
    pub async fn outcome(&self, call: u64) -> Result<Value, Failed> {
        let event = self.events.next(&format!("the result of call {call}")).await;
        match event["event"] == "result" {
            true => Ok(event["result"].clone()),
            false => Err(failed(&event)),
        }
    }

    pub async fn call(&self, command: Value) -> Result<Value, Failed> {
        let calls = self.begin(vec![command]).await;
        self.outcome(calls[0]).await
    }

    async fn done(&self, command: Value) -> Value {
        let shown = command["do"].clone();
        self.call(command).await.unwrap_or_else(|failed| panic!("{shown}: {failed:?}:{}", self.events.last()))
    }
}

impl<'a> Client<'a> {
    /// The channel, subscribed to or not.
    pub fn channel(&self, channel: &str) -> Subscription<'a> {
        Subscription { client: self.clone(), channel: channel.to_owned() }
    }

    /// A command with this client's name, to be completed.
    pub fn command(&self, command: &str, fields: Value) -> Value {
        merged(json!({"do": command, "client": self.name}), fields)
    }

    pub async fn call(&self, command: &str, fields: Value) -> Result<Value, Failed> {
        self.driver.call(self.command(command, fields)).await
    }

    async fn done(&self, command: &str, fields: Value) -> Value {
        self.driver.done(self.command(command, fields)).await
    }

    /// Connects, and waits until it is connected.
    pub async fn connect(&self) {
        self.start_connecting().await;
        self.is("connected").await;
    }

    /// Begins to connect, and waits until it does that.
    pub async fn start_connecting(&self) {
        self.driver.begin(vec![self.command("connect", json!({}))]).await;
        assert_eq!(self.becomes("connecting").await, 0, "connect was called");
    }

    pub async fn disconnect(&self) {
        self.done("disconnect", json!({})).await;
    }

    /// Its socket is gone.
    pub async fn drop_transport(&self) {
        self.done("drop", json!({})).await;
        assert_eq!(self.becomes("connecting").await, 1, "the transport was dropped");
    }

    pub async fn mute(&self, mute: bool) {
        self.done("mute", json!({"mute": mute})).await;
    }

    /// What `getToken` gives next.
    pub async fn gets_tokens(&self, tokens: &[&str]) {
        self.done("tokens", json!({"tokens": tokens})).await;
    }

    /// `frames_in`, `frames_out`, `largest_in` (bytes), `most_out` (messages in one frame), `pings`.
    pub async fn traffic(&self, of: &str) -> u64 {
        number(&self.done("traffic", json!({})).await[of])
    }

    pub async fn publish(&self, channel: &str, data: Value) -> Result<(), Failed> {
        self.call("publish", json!({"channel": channel, "data": data})).await.map(drop)
    }

    pub async fn send(&self, data: Value) {
        self.done("send", json!({"data": data})).await;
    }

    pub async fn rpc(&self, method: &str, data: Value) -> Result<Value, Failed> {
        self.call("rpc", json!({"method": method, "data": data})).await
    }

    /// The next change of its state, which must be to this one: the code of the reason.
    pub async fn becomes(&self, state: &str) -> u64 {
        number(&self.is(state).await["code"])
    }

    /// The next change of its state, which must be to this one.
    pub async fn is(&self, state: &str) -> Value {
        let event = self.next_state().await;
        self.expect(&event, state);
        event
    }

    /// The next call of `getToken`: whether it gave one.
    pub async fn asks_for_a_token(&self) -> bool {
        self.next("token").await["is_there"] == true
    }

    /// The next close frame, or what the client takes for one: code and reason.
    pub async fn socket_closes(&self) -> (u64, String) {
        let event = self.next("closed").await;
        (number(&event["code"]), text(&event["reason"]))
    }

    /// The next error that the server told the client outside of calls. SDKs report their own too.
    pub async fn is_told(&self) -> Failed {
        loop {
            let event = self.next("error").await;
            if event["code"].as_u64().is_some_and(|code| code >= 100) {
                return failed(&event);
            }
        }
    }

    /// The channel that the server subscribes the client to: its name. To be asked once for each connection.
    pub async fn user_channel(&self, user_id: &str) -> Subscription<'a> {
        let channel = self.channel(&format!("user:{user_id}"));
        let event = channel.is("subscribed").await;
        assert_eq!((&event["is_server"], &event["recoverable"]), (&json!(true), &json!(false)), "{event}");
        channel
    }

    /// Subscribes, and waits until it is.
    pub async fn subscribe(&self, channel: &str, options: Value) -> Subscription<'a> {
        let subscription = self.start_subscribing(channel, options).await;
        subscription.is("subscribed").await;
        subscription
    }

    /// Begins to subscribe, and waits until it does that.
    pub async fn start_subscribing(&self, channel: &str, options: Value) -> Subscription<'a> {
        self.done("subscribe", merged(json!({"channel": channel}), options)).await;
        let subscription = self.channel(channel);
        assert_eq!(subscription.becomes("subscribing").await, 0, "subscribe was called");
        subscription
    }

    /// Subscribes, which must end in being unsubscribed for good: the code.
    pub async fn is_refused(&self, channel: &str) -> u64 {
        let subscription = self.start_subscribing(channel, json!({})).await;
        subscription.becomes("unsubscribed").await
    }

    /// The next change of its state, whatever it is.
    pub async fn next_state(&self) -> Value {
        self.next("state").await
    }

    /// Changes of its state that nobody has asked for yet.
    pub fn skipped_states(&self) -> usize {
        self.driver.events.take(&format!("{} state", self.name)).len()
    }

    async fn next(&self, kind: &str) -> Value {
        self.driver.events.next(&format!("{} {kind}", self.name)).await
    }

    /// Checks a change of state: what it is, and that the server gave a reason for it if it gave a code.
    fn expect(&self, event: &Value, state: &str) {
        assert_eq!(event["state"], state, "{event}:{}", self.driver.events.last());
        if event["code"].as_u64().is_some_and(|code| code >= 100) {
            let reason = event["reason"].as_str().unwrap_or_default();
            assert!(!reason.is_empty() && serde_json::from_str::<Value>(reason).is_err(), "{event}");
            assert!(reason.len() <= 123, "{event}");
        }
    }
}

impl Subscription<'_> {
    /// The next change of its state, which must be to this one: the code of the reason.
    pub async fn becomes(&self, state: &str) -> u64 {
        number(&self.is(state).await["code"])
    }

    /// The next change of its state, which must be to this one.
    pub async fn is(&self, state: &str) -> Value {
        let event = self.next("subscription").await;
        self.client.expect(&event, state);
        event
    }

    /// It was lost with its connection, and is there again: the event.
    pub async fn comes_back(&self) -> Value {
        assert_eq!(self.becomes("subscribing").await, 1, "the transport was closed");
        self.is("subscribed").await
    }

    /// It is there again, and goes on where it was: the position.
    pub async fn recovers(&self) -> u64 {
        let event = self.comes_back().await;
        assert_eq!((&event["was_recovering"], &event["recovered"]), (&json!(true), &json!(true)), "{event}");
        number(&event["offset"])
    }

    /// The next publication that has an offset.
    pub async fn publication(&self) -> Value {
        self.next("publication").await
    }

    /// The next publication with an offset, a message: the offset and the text.
    pub async fn message(&self) -> (u64, String) {
        let event = self.publication().await;
        (number(&event["offset"]), text(&event["data"]["text"]))
    }

    /// Messages with these offsets, and nothing between them; their texts are their offsets.
    pub async fn numbered(&self, offsets: std::ops::RangeInclusive<u64>) {
        for offset in offsets {
            assert_eq!(self.message().await, (offset, offset.to_string()), "{} {}", self.client.name, self.channel);
        }
    }

    /// The next publication without an offset that has this field.
    pub async fn note(&self, field: &str) -> Value {
        loop {
            let event = self.next("note").await;
            if event["data"].get(field).is_some() {
                return event;
            }
        }
    }

    /// The next join or leave: which it is and whose it is.
    pub async fn change(&self) -> (String, String) {
        let event = self.next("presence").await;
        assert!(!text(&event["client_id"]).is_empty() && !text(&event["user"]).is_empty(), "{event}");
        (text(&event["change"]), text(&event["conn_info"]["username"]))
    }

    /// The next call of `getState`: whether it gave one.
    pub async fn asks_for_a_state(&self) -> bool {
        self.next("get_state").await["is_there"] == true
    }

    /// The next error that the server told the subscription and that does not end it.
    pub async fn is_told(&self) -> Failed {
        loop {
            let event = self.next("subscription_error").await;
            if event["code"].as_u64().is_some_and(|code| code >= 100) {
                return failed(&event);
            }
        }
    }

    pub async fn publish(&self, data: Value) -> Result<(), Failed> {
        self.client.publish(&self.channel, data).await
    }

    /// Publishes a message.
    pub async fn say(&self, text: &str) {
        let published = self.publish(json!({"text": text})).await;
        published.unwrap_or_else(|failed| panic!("{} publishes {text:?}: {failed:?}", self.client.name));
    }

    pub async fn unsubscribe(&self) {
        self.client.done("unsubscribe", json!({"channel": self.channel})).await;
        assert_eq!(self.becomes("unsubscribed").await, 0, "unsubscribe was called");
    }

    /// The SDK forgets it. It must be unsubscribed.
    pub async fn remove(&self) {
        self.client.done("remove", json!({"channel": self.channel})).await;
    }

    /// `subscribed`, `subscribing` or `unsubscribed`, as it is now.
    pub async fn status(&self) -> String {
        text(&self.client.done("status", json!({"channel": self.channel})).await)
    }

    /// The changes of its state that nobody has asked for yet: the codes of the reasons.
    pub fn skipped_codes(&self) -> Vec<u64> {
        self.skipped("subscription").iter().filter_map(|event| event["code"].as_u64()).collect()
    }

    /// Joins and leaves that nobody has asked for yet.
    pub fn skipped_changes(&self) -> usize {
        self.skipped("presence").len()
    }

    fn skipped(&self, kind: &str) -> Vec<Value> {
        self.client.driver.events.take(&format!("{} {} {kind}", self.client.name, self.channel))
    }

    /// `{publications, offset, epoch}`.
    pub async fn history(&self, options: Value) -> Result<Value, Failed> {
        self.client.call("history", merged(json!({"channel": self.channel}), options)).await
    }

    /// By client: `{user, client_id, conn_info}`.
    pub async fn presence(&self) -> Result<Value, Failed> {
        self.client.call("presence", json!({"channel": self.channel})).await
    }

    /// Clients and users.
    pub async fn presence_stats(&self) -> Result<(u64, u64), Failed> {
        let stats = self.client.call("presence_stats", json!({"channel": self.channel})).await?;
        Ok((number(&stats["num_clients"]), number(&stats["num_users"])))
    }

    async fn next(&self, kind: &str) -> Value {
        self.client.next(&format!("{} {kind}", self.channel)).await
    }
}

/// Checks that it is an error with this code: a reason in words, and temporary exactly if SDKs are to try again.
#[track_caller]
pub fn assert_failed<T: std::fmt::Debug>(outcome: Result<T, Failed>, code: u64) {
    let failed = outcome.expect_err("it must fail");
    assert_eq!(failed.code, code, "{failed:?}");
    assert!(!failed.message.is_empty(), "{failed:?}");
    assert_eq!(failed.is_temporary, [100, 111, 113].contains(&code), "{failed:?}");
}

#[track_caller]
fn failed(event: &Value) -> Failed {
    let code = event["code"].as_u64().unwrap_or_else(|| panic!("{event} has no code"));
    Failed { code, message: text(&event["message"]), is_temporary: event["temporary"] == true }
}

/// An object with the fields of another one too.
fn merged(mut object: Value, more: Value) -> Value {
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}
