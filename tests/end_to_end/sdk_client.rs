//! Remote-controlled clients of the Centrifugo SDKs. A driver is a process (tests/sdk/driver.mjs or driver.py) with any
//! number of clients. Each line that it reads is a command, or a list of commands that start together. Each line that
//! it writes is an event.
//!
//! The name of a command is in `do`. All commands except `server` name a `client`:
//!
//! - `server {port}`: the port of the server from now on. With 0 it cannot be reached.
//! - `create {token?, tokens?, headers?, path?, mute?, max_ping_delay_ms?}`: `getToken` returns the `tokens` one after
//!   the other. The token `""` stands for `UnauthorizedError`. With `mute`, the client's frames are dropped.
//! - `connect`, `disconnect`, `mute {mute}`, `tokens {tokens}` (adds tokens).
//! - `traffic`: the counters that [`Client::traffic`] describes.
//! - `drop`: aborts the socket without telling the SDK.
//! - `subscribe {channel, recoverable?, join_leave?, since?, states?}`: `getState` returns the `states` one after the
//!   other. Only the first `subscribe` to a channel uses the options.
//! - `unsubscribe`, `remove`, `status`, `presence`, `presence_stats {channel}`.
//! - `publish {channel, data}`, `send {data}`, `rpc {method, data}`, `history {channel, limit?, since?, reverse?}`.
//!
//! Each command has a number, `call`, and is answered by `result` or by `failed {code, message, temporary}`. The other
//! events of a client are `state`, `error`, `token` (`getToken` was called) and `closed` (the socket, with code and
//! reason). Those of a channel are `subscription`, `publication`, `presence` (join or leave), `subscription_error` and
//! `get_state` (it was called). The event `broken` reports something that must never happen.

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

/// How many lines of the driver are shown when a test fails.
const SHOWN_LINES: usize = 40;

/// An SDK and its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sdk {
    JsJson,
    JsProtobuf,
    PyJson,
    PyProtobuf,
}

/// The error of a call. Codes from 100 on come from the server, others from the SDK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub code: u64,
    pub message: String,
    pub is_temporary: bool,
}

/// A process with clients of one SDK. It is killed when it is dropped.
pub struct Driver {
    events: Arc<Events>,
    stdin: tokio::sync::Mutex<ChildStdin>,
    calls: AtomicU64,
    _child: Child,
}

/// A client in a driver.
#[derive(Clone)]
pub struct Client<'a> {
    pub name: String,
    driver: &'a Driver,
}

/// A channel of a client.
#[derive(Clone)]
pub struct Subscription<'a> {
    pub client: Client<'a>,
    pub channel: String,
}

/// Events of a driver, each kind in a queue, so that a test takes the next event of the kind it needs.
#[derive(Default)]
struct Events {
    queues: Mutex<Queues>,
    is_new: Notify,
}

#[derive(Default)]
struct Queues {
    queues: HashMap<String, VecDeque<Value>>,
    /// The last lines of the driver.
    shown: VecDeque<String>,
    /// Why no more events can be expected.
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
            // Without writing a compiled copy next to the driver.
            command.arg("-B").arg(sources.join("driver.py"));
            command
        };
        command.arg(self.encoding());
        command
    }
}

/// The path of something that `scripts/test-sdks` has installed in the target folder.
pub fn installed(path: &str) -> PathBuf {
    let sdks = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder").join("sdk");
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

    /// The last lines of the driver, for the message of a failure.
    fn last_lines(&self) -> String {
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
            Ok(Err(broken)) => panic!("{broken}, while waiting for {queue}:{}", self.last_lines()),
            Err(_) => panic!("not within {PATIENCE:?}: {queue}:{}", self.last_lines()),
        }
    }

    fn try_next(&self, queue: &str) -> Option<Result<Value, String>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(broken) = &queues.broken {
            return Some(Err(broken.clone()));
        }
        queues.queues.get_mut(queue).and_then(VecDeque::pop_front).map(Ok)
    }

    /// Takes all events of a queue.
    fn take(&self, queue: &str) -> Vec<Value> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.queues.remove(queue).unwrap_or_default().into()
    }

    /// Sorts the events of a driver into the queues.
    async fn read(&self, output: impl AsyncBufRead + Unpin) {
        let mut lines = output.lines();
        while let Ok(Some(line)) = lines.next_line().await {
            self.show(&line);
            let Ok(event) = serde_json::from_str::<Value>(&line) else {
                self.end(&format!("the driver wrote {line:?}"));
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
                // Publications without an offset get a queue of their own: they may come between any two others.
                "publication" if event["offset"] == 0 => format!("{client} {channel} ephemeral"),
                kind if !channel.is_empty() => format!("{client} {channel} {kind}"),
                kind => format!("{client} {kind}"),
            };
            self.put(queue, event);
        }
        self.end("the driver has ended");
    }
}

impl Driver {
    /// Starts a driver whose clients connect to this port.
    pub async fn start(sdk: Sdk, port: u16) -> Driver {
        let mut command = sdk.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let (stdin, stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let stderr = child.stderr.take().expect("a pipe");
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
        driver.set_server_port(port).await;
        driver
    }

    /// Sets the port of the server. With 0 it cannot be reached. Existing connections stay.
    pub async fn set_server_port(&self, port: u16) {
        self.must_call(json!({"do": "server", "port": port})).await;
    }

    /// Creates a client without connecting it.
    pub async fn create(&self, name: &str, options: Value) -> Client<'_> {
        self.must_call(merged(json!({"do": "create", "client": name}), options)).await;
        Client { name: name.to_owned(), driver: self }
    }

    /// Creates a client and connects it.
    pub async fn connect(&self, name: &str, token: &str) -> Client<'_> {
        let client = self.create(name, json!({"token": token})).await;
        client.connect().await;
        client
    }

    /// Sends commands in one line, without waiting for their results. Returns the numbers of the calls.
    pub async fn start_calls(&self, commands: Vec<Value>) -> Vec<u64> {
        let mut calls = Vec::new();
        let mut numbered = Vec::new();
        for command in commands {
            calls.push(self.calls.fetch_add(1, Ordering::Relaxed));
            numbered.push(merged(command, json!({"call": calls.last()})));
        }
        let line = format!("{}\n", Value::Array(numbered));
        if let Err(error) = self.stdin.lock().await.write_all(line.as_bytes()).await {
            panic!("the driver does not read: {error}:{}", self.events.last_lines());
        }
        calls
    }

    /// Waits for the result of a call.
    pub async fn outcome(&self, call: u64) -> Result<Value, Failed> {
        let event = self.events.next(&format!("the result of call {call}")).await;
        match event["event"] == "result" {
            true => Ok(event["result"].clone()),
            false => Err(failed(&event)),
        }
    }

    pub async fn call(&self, command: Value) -> Result<Value, Failed> {
        let calls = self.start_calls(vec![command]).await;
        self.outcome(calls[0]).await
    }

    async fn must_call(&self, command: Value) -> Value {
        let shown = command["do"].clone();
        self.call(command).await.unwrap_or_else(|failed| panic!("{shown}: {failed:?}:{}", self.events.last_lines()))
    }
}

impl<'a> Client<'a> {
    /// A channel, whether the client is subscribed to it or not.
    pub fn channel(&self, channel: &str) -> Subscription<'a> {
        Subscription { client: self.clone(), channel: channel.to_owned() }
    }

    /// Makes a command for this client.
    pub fn command(&self, command: &str, fields: Value) -> Value {
        merged(json!({"do": command, "client": self.name}), fields)
    }

    pub async fn call(&self, command: &str, fields: Value) -> Result<Value, Failed> {
        self.driver.call(self.command(command, fields)).await
    }

    async fn must_call(&self, command: &str, fields: Value) -> Value {
        self.driver.must_call(self.command(command, fields)).await
    }

    /// Connects, and waits until it is connected.
    pub async fn connect(&self) {
        self.start_connecting().await;
        self.expect_state("connected").await;
    }

    /// Starts to connect, and waits for the state `connecting`.
    pub async fn start_connecting(&self) {
        self.driver.start_calls(vec![self.command("connect", json!({}))]).await;
        assert_eq!(self.becomes("connecting").await, 0, "connect was called");
    }

    pub async fn disconnect(&self) {
        self.must_call("disconnect", json!({})).await;
    }

    /// Aborts its socket.
    pub async fn drop_transport(&self) {
        self.must_call("drop", json!({})).await;
        assert_eq!(self.becomes("connecting").await, 1, "the transport was dropped");
    }

    pub async fn mute(&self, mute: bool) {
        self.must_call("mute", json!({"mute": mute})).await;
    }

    /// Adds tokens for `getToken`.
    pub async fn add_tokens(&self, tokens: &[&str]) {
        self.must_call("tokens", json!({"tokens": tokens})).await;
    }

    /// The counter `frames_in`, `frames_out`, `largest_in` (bytes in a frame), `most_out` (messages in a frame) or
    /// `pings`.
    pub async fn traffic(&self, counter: &str) -> u64 {
        number(&self.must_call("traffic", json!({})).await[counter])
    }

    pub async fn publish(&self, channel: &str, data: Value) -> Result<(), Failed> {
        self.call("publish", json!({"channel": channel, "data": data})).await.map(drop)
    }

    pub async fn send(&self, data: Value) {
        self.must_call("send", json!({"data": data})).await;
    }

    pub async fn rpc(&self, method: &str, data: Value) -> Result<Value, Failed> {
        self.call("rpc", json!({"method": method, "data": data})).await
    }

    /// Waits for the next change of state, which must be to this one. Returns the code.
    pub async fn becomes(&self, state: &str) -> u64 {
        number(&self.expect_state(state).await["code"])
    }

    /// Waits for the next change of state, which must be to this one. Returns the event.
    pub async fn expect_state(&self, state: &str) -> Value {
        let event = self.next_state().await;
        self.check_state(&event, state);
        event
    }

    /// Waits for the next call of `getToken`. Returns whether there was a token.
    pub async fn requests_token(&self) -> bool {
        self.next("token").await["is_there"] == true
    }

    /// Waits until the socket is closed. Returns the code and reason that the client sees.
    pub async fn socket_closes(&self) -> (u64, String) {
        let event = self.next("closed").await;
        (number(&event["code"]), text(&event["reason"]))
    }

    /// Waits for the next error from the server outside of calls. Errors of the SDK are skipped.
    pub async fn next_error(&self) -> Failed {
        loop {
            let event = self.next("error").await;
            if event["code"].as_u64().is_some_and(|code| code >= 100) {
                return failed(&event);
            }
        }
    }

    /// Waits until the server has subscribed the client to the channel of its user. Call it once per connection.
    pub async fn user_channel(&self, user_id: &str) -> Subscription<'a> {
        let channel = self.channel(&format!("user:{user_id}"));
        let event = channel.expect_state("subscribed").await;
        assert_eq!((&event["is_server"], &event["recoverable"]), (&json!(true), &json!(false)), "{event}");
        channel
    }

    /// Subscribes, and waits until the client is subscribed.
    pub async fn subscribe(&self, channel: &str, options: Value) -> Subscription<'a> {
        let subscription = self.start_subscribing(channel, options).await;
        subscription.expect_state("subscribed").await;
        subscription
    }

    /// Starts to subscribe, and waits for the state `subscribing`.
    pub async fn start_subscribing(&self, channel: &str, options: Value) -> Subscription<'a> {
        self.must_call("subscribe", merged(json!({"channel": channel}), options)).await;
        let subscription = self.channel(channel);
        assert_eq!(subscription.becomes("subscribing").await, 0, "subscribe was called");
        subscription
    }

    /// Subscribes, which must fail for good. Returns the code.
    pub async fn fail_to_subscribe(&self, channel: &str) -> u64 {
        let subscription = self.start_subscribing(channel, json!({})).await;
        subscription.becomes("unsubscribed").await
    }

    /// Waits for the next change of state.
    pub async fn next_state(&self) -> Value {
        self.next("state").await
    }

    /// The number of changes of state that the test has not taken yet. Drops them.
    pub fn skipped_states(&self) -> usize {
        self.driver.events.take(&format!("{} state", self.name)).len()
    }

    async fn next(&self, kind: &str) -> Value {
        self.driver.events.next(&format!("{} {kind}", self.name)).await
    }

    /// Checks the state of an event, and that a code from the server comes with a reason.
    fn check_state(&self, event: &Value, state: &str) {
        assert_eq!(event["state"], state, "{event}:{}", self.driver.events.last_lines());
        if event["code"].as_u64().is_some_and(|code| code >= 100) {
            let reason = event["reason"].as_str().unwrap_or_default();
            assert!(!reason.is_empty() && serde_json::from_str::<Value>(reason).is_err(), "{event}");
            assert!(reason.len() <= 123, "{event}");
        }
    }
}

impl Subscription<'_> {
    /// Waits for the next change of state, which must be to this one. Returns the code.
    pub async fn becomes(&self, state: &str) -> u64 {
        number(&self.expect_state(state).await["code"])
    }

    /// Waits for the next change of state, which must be to this one. Returns the event.
    pub async fn expect_state(&self, state: &str) -> Value {
        let event = self.next("subscription").await;
        self.client.check_state(&event, state);
        event
    }

    /// Waits until it was lost with its connection and is subscribed again. Returns the event.
    pub async fn resubscribes(&self) -> Value {
        assert_eq!(self.becomes("subscribing").await, 1, "the transport was closed");
        self.expect_state("subscribed").await
    }

    /// The same, and it must recover. Returns the offset from which it continues.
    pub async fn recovers(&self) -> u64 {
        let event = self.resubscribes().await;
        assert_eq!((&event["was_recovering"], &event["recovered"]), (&json!(true), &json!(true)), "{event}");
        number(&event["offset"])
    }

    /// The next publication with an offset.
    pub async fn publication(&self) -> Value {
        self.next("publication").await
    }

    /// The offset and text of the next publication with an offset, which must be a message.
    pub async fn message(&self) -> (u64, String) {
        let event = self.publication().await;
        (number(&event["offset"]), text(&event["data"]["text"]))
    }

    /// Checks that the next publications are messages with these offsets, which are also their texts.
    pub async fn expect_numbered(&self, offsets: std::ops::RangeInclusive<u64>) {
        for offset in offsets {
            assert_eq!(self.message().await, (offset, offset.to_string()), "{} {}", self.client.name, self.channel);
        }
    }

    /// The next publication without an offset that has this field.
    pub async fn ephemeral(&self, field: &str) -> Value {
        loop {
            let event = self.next("ephemeral").await;
            if event["data"].get(field).is_some() {
                return event;
            }
        }
    }

    /// The next join or leave, with the name of its user.
    pub async fn presence_change(&self) -> (String, String) {
        let event = self.next("presence").await;
        assert!(!text(&event["client_id"]).is_empty() && !text(&event["user"]).is_empty(), "{event}");
        (text(&event["change"]), text(&event["conn_info"]["username"]))
    }

    /// Waits for the next call of `getState`. Returns whether there was a state.
    pub async fn requests_state(&self) -> bool {
        self.next("get_state").await["is_there"] == true
    }

    /// Waits for the next error from the server that does not end the subscription.
    pub async fn next_error(&self) -> Failed {
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
    pub async fn publish_text(&self, text: &str) {
        let published = self.publish(json!({"text": text})).await;
        published.unwrap_or_else(|failed| panic!("{} cannot publish {text:?}: {failed:?}", self.client.name));
    }

    pub async fn unsubscribe(&self) {
        self.client.must_call("unsubscribe", json!({"channel": self.channel})).await;
        assert_eq!(self.becomes("unsubscribed").await, 0, "unsubscribe was called");
    }

    /// Removes it from the SDK. It must be unsubscribed.
    pub async fn remove(&self) {
        self.client.must_call("remove", json!({"channel": self.channel})).await;
    }

    /// Its current state: `subscribed`, `subscribing` or `unsubscribed`.
    pub async fn status(&self) -> String {
        text(&self.client.must_call("status", json!({"channel": self.channel})).await)
    }

    /// The codes of the changes of state that the test has not taken yet. Drops them.
    pub fn skipped_codes(&self) -> Vec<u64> {
        self.skipped("subscription").iter().filter_map(|event| event["code"].as_u64()).collect()
    }

    /// The number of joins and leaves that the test has not taken yet. Drops them.
    pub fn skipped_changes(&self) -> usize {
        self.skipped("presence").len()
    }

    fn skipped(&self, kind: &str) -> Vec<Value> {
        self.client.driver.events.take(&format!("{} {} {kind}", self.client.name, self.channel))
    }

    /// The history as `{publications, offset, epoch}`.
    pub async fn history(&self, options: Value) -> Result<Value, Failed> {
        self.client.call("history", merged(json!({"channel": self.channel}), options)).await
    }

    /// The presence: `{user, client_id, conn_info}` by client.
    pub async fn presence(&self) -> Result<Value, Failed> {
        self.client.call("presence", json!({"channel": self.channel})).await
    }

    /// The numbers of clients and users.
    pub async fn presence_stats(&self) -> Result<(u64, u64), Failed> {
        let stats = self.client.call("presence_stats", json!({"channel": self.channel})).await?;
        Ok((number(&stats["num_clients"]), number(&stats["num_users"])))
    }

    async fn next(&self, kind: &str) -> Value {
        self.client.next(&format!("{} {kind}", self.channel)).await
    }
}

/// Checks that a call failed with this code, with a message, and as temporary exactly if SDKs should retry.
#[track_caller]
pub fn assert_failed<T: std::fmt::Debug>(outcome: Result<T, Failed>, code: u64) {
    let failed = outcome.expect_err("the call succeeded");
    assert_eq!(failed.code, code, "{failed:?}");
    assert!(!failed.message.is_empty(), "{failed:?}");
    assert_eq!(failed.is_temporary, [100, 111].contains(&code), "{failed:?}");
}

#[track_caller]
fn failed(event: &Value) -> Failed {
    let code = event["code"].as_u64().unwrap_or_else(|| panic!("{event} has no code"));
    Failed { code, message: text(&event["message"]), is_temporary: event["temporary"] == true }
}

/// Adds the fields of one object to another.
fn merged(mut object: Value, more: Value) -> Value {
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}
