//! The table of rights: every call × every kind of user × every door, on each database. What a cell says is what the
//! server answers, so the table is also what people may do.

use crate::api::{api_key, printed};
use crate::client::{BINARY, CLOSE, FIN, Http, Raw, TEXT, User, frame};
use crate::databases::Kind;
use crate::server::Server;
use futures_util::future::join_all;
use prost::Message;
use serde_json::{Value, json};
use std::fmt::Write as _;

on_each_database! {
    everyone_may_do_in_a_public_room_what_the_table_says
    everyone_may_do_in_a_private_room_what_the_table_says
}

/// The columns.
const WHO: [&str; 10] =
    ["nobody", "revoked", "stranger", "removed", "banned", "silenced", "member", "moderator", "owner", "second"];

/// No limits that are about how much somebody does.
const LIMITS: [&str; 7] = [
    "user_writes_per_minute=0",
    "joins_per_hour_limit=0",
    "additions_per_hour_limit=0",
    "rooms_owned_limit=0",
    "publish_rate_per_second=0",
    "rejoins_per_minute=0",
    "join_leave_limit=0",
];

/// What clients publish to change the messages of a room.
const PUBLICATIONS: [&str; 6] =
    ["send a message", "edit own", "edit another's", "delete own", "delete another's", "react"];

/// A server with a user of each kind.
struct World {
    server: Server,
    /// Owns all rooms.
    owner: User,
    /// A member of all rooms, whose message is the first one.
    other: User,
    who: Vec<User>,
    key: String,
    is_private: bool,
}

/// A room in which one user is of the kind of a column.
struct Room<'w> {
    world: &'w World,
    name: String,
    user: &'w User,
    /// A message of another member.
    others: u64,
    /// A message of the user's own; of the owner if there can be none.
    own: u64,
}

impl World {
    async fn new(kind: Kind, is_private: bool) -> World {
        let options: Vec<_> = LIMITS.iter().flat_map(|limit| ["--limit", limit]).collect();
        let server = Server::start(kind, &options).await;
        let (owner, other) = (server.user("olga").await, server.user("otto").await);
        let mut who = Vec::new();
        for name in WHO {
            who.push(match name {
                "nobody" => User { name: name.to_owned(), token: String::new() },
                "owner" => owner.clone(),
                _ => server.user(name).await,
            });
        }
        let key = printed(
            &api_key(&server, &["add", "shop", "--user", "shop-bot", "--scope", "publish,impersonate,manage"]).await,
        );
        let world = World { server, owner, other, who, key, is_private };
        // All names are known before one of them is used.
        for name in ["guest", "plain", "max"] {
            let user = world.server.user(name).await;
            world.server.get("/me", &user.token).await.expect(200);
        }
        for user in world.who.iter().skip(1).chain([&world.other]) {
            world.server.get("/me", &user.token).await.expect(200);
        }
        let revoked = &world.who[1];
        world.server.post("/user/signout", &revoked.token, json!({})).await.expect(200);
        world
    }

    async fn by_owner(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.server.call(method, path, &self.owner.token, body).await;
        assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
        answer.json()
    }

    /// A new room in which the user of this column is what its title says.
    async fn room(&self, column: usize, name: &str) -> Room<'_> {
        let (who, user) = (WHO[column], &self.who[column]);
        let path = format!("/rooms/{name}");
        self.by_owner("POST", "/rooms", json!({"name": name, "private": self.is_private})).await;
        for member in ["otto", "plain", "max"] {
            self.by_owner("POST", &format!("{path}/members"), json!({"username": member})).await;
        }
        self.by_owner("PATCH", &format!("{path}/members/max"), json!({"role": "moderator"})).await;
        let say = async |user: &User, text: &str| {
            let sent = self.server.post(&format!("{path}/messages"), &user.token, json!({"text": text})).await;
            sent.expect(201)["offset"].as_u64().expect("an offset")
        };
        let others = say(&self.other, "of another").await;
        let author = if matches!(who, "nobody" | "revoked" | "stranger" | "owner") { &self.owner } else { user };
        if author.name != "olga" {
            self.by_owner("POST", &format!("{path}/members"), json!({"username": who})).await;
        }
        let own = say(author, "my own").await;
        let until = now_ms() + 3_600_000;
        match who {
            "removed" => drop(self.by_owner("DELETE", &format!("{path}/members/{who}"), Value::Null).await),
            "banned" => drop(self.by_owner("PUT", &format!("{path}/bans/{who}"), json!({})).await),
            "silenced" => drop(self.by_owner("PUT", &format!("{path}/silences/{who}"), json!({"until": until})).await),
            "moderator" | "second" => {
                let role = if who == "second" { "owner" } else { who };
                self.by_owner("PATCH", &format!("{path}/members/{who}"), json!({"role": role})).await;
            }
            _ => {}
        }
        Room { world: self, name: name.to_owned(), user, others, own }
    }
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.expect("a clock after 1970").as_millis()).expect("a time")
}

/// The calls over HTTP: what they do; method, path in the room, body. `OWN` and `OTHERS` stand for the offsets of
/// messages, `SOON` for a time.
const HTTP: [(&str, &str, &str, &str); 33] = [
    ("see the room", "GET", "", ""),
    ("list the members", "GET", "/members", ""),
    ("read messages", "GET", "/messages", ""),
    ("join", "POST", "/join", "{}"),
    ("leave", "POST", "/leave", "{}"),
    ("send a message", "POST", "/messages", r#"{"text":"hello"}"#),
    ("edit own", "PATCH", "/messages/OWN", r#"{"text":"changed"}"#),
    ("edit another's", "PATCH", "/messages/OTHERS", r#"{"text":"changed"}"#),
    ("delete own", "DELETE", "/messages/OWN", ""),
    ("delete another's", "DELETE", "/messages/OTHERS", ""),
    ("react", "PUT", "/messages/OTHERS/reactions/%F0%9F%91%8D", ""),
    ("take back", "DELETE", "/messages/OTHERS/reactions/%F0%9F%91%8D", ""),
    ("add a member", "POST", "/members", r#"{"username":"guest"}"#),
    ("remove a member", "DELETE", "/members/plain", ""),
    ("remove an owner", "DELETE", "/members/olga", ""),
    ("make a moderator", "PATCH", "/members/plain", r#"{"role":"moderator"}"#),
    ("demote an owner", "PATCH", "/members/olga", r#"{"role":"member"}"#),
    ("ban a member", "PUT", "/bans/plain", "{}"),
    ("ban a stranger", "PUT", "/bans/guest", "{}"),
    ("ban a moderator", "PUT", "/bans/max", "{}"),
    ("ban an owner", "PUT", "/bans/olga", "{}"),
    ("list bans", "GET", "/bans", ""),
    ("lift a ban", "DELETE", "/bans/banned", ""),
    ("silence a member", "PUT", "/silences/plain", r#"{"until":SOON}"#),
    ("silence an owner", "PUT", "/silences/olga", r#"{"until":SOON}"#),
    ("end a silence", "DELETE", "/silences/plain", ""),
    ("change settings", "PATCH", "", r#"{"title":"A title"}"#),
    ("pin", "PUT", "/pins/OTHERS", ""),
    ("unpin", "DELETE", "/pins/OTHERS", ""),
    ("read the audit", "GET", "/audit", ""),
    ("create a hook", "POST", "/hooks", r#"{"name":"probe"}"#),
    ("list hooks", "GET", "/hooks", ""),
    ("delete the room", "DELETE", "", ""),
];

impl Room<'_> {
    /// `ok`, or the code of the error.
    async fn http(&self, (_, method, path, body): (&str, &str, &str, &str)) -> String {
        let path = format!("/rooms/{}{path}", self.name);
        let path = path.replace("OWN", &self.own.to_string()).replace("OTHERS", &self.others.to_string());
        let body = body.replace("SOON", &(now_ms() + 60_000).to_string());
        let body = serde_json::from_str(&body).unwrap_or(Value::Null);
        let answer = self.world.server.call(method, &path, &self.user.token, body).await;
        if (200..300).contains(&answer.status) { "ok".to_owned() } else { answer.error().1 }
    }

    /// What clients publish to change the room's messages.
    fn publications(&self) -> [Value; 6] {
        [
            json!({"text": "hello"}),
            json!({"edit": self.own, "text": "changed"}),
            json!({"edit": self.others, "text": "changed"}),
            json!({"delete": self.own}),
            json!({"delete": self.others}),
            json!({"react": self.others, "emoji": "👍"}),
        ]
    }
}

/// A connection of the Centrifugo protocol in one of its encodings.
struct Centrifuge {
    raw: Raw,
    is_protobuf: bool,
    id: u32,
}

/// A request: its name, the channel or method, and what goes with it.
type Request<'r> = (&'r str, &'r str, Vec<u8>);

impl Centrifuge {
    async fn open(world: &World, is_protobuf: bool) -> Centrifuge {
        let query = if is_protobuf { "?format=protobuf" } else { "" };
        let raw = Raw::open(world.server.port, &format!("/connection/websocket{query}"), &[]).await;
        Centrifuge { raw, is_protobuf, id: 0 }
    }

    /// Sends a request and waits for its answer. Err: the code of the error, or of the close frame.
    async fn request(&mut self, (name, of, data): Request<'_>) -> Result<(), u32> {
        self.id += 1;
        if self.is_protobuf {
            let command = proto::Command::new(self.id, name, of, data).encode_length_delimited_to_vec();
            self.raw.send(&frame(FIN | BINARY, &command)).await;
        } else {
            let data: Value = serde_json::from_slice(&data).unwrap_or(Value::Null);
            let parameters = match name {
                "connect" => json!({"token": of}),
                "publish" => json!({"channel": of, "data": data}),
                "rpc" => json!({"method": of, "data": data}),
                _ => json!({"channel": of}),
            };
            let command = json!({"id": self.id, name: parameters}).to_string();
            self.raw.send(&frame(FIN | TEXT, command.as_bytes())).await;
        }
        loop {
            let Some(frame) = self.raw.receive().await else { return Err(0) };
            if frame.first == FIN | CLOSE {
                return Err(frame.close_code().into());
            }
            for (id, error) in self.replies(&frame.payload) {
                if id == self.id {
                    return error.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// The id and the error of each reply in a frame; pushes and pings have the id 0.
    fn replies(&self, mut payload: &[u8]) -> Vec<(u32, Option<u32>)> {
        let mut replies = Vec::new();
        if self.is_protobuf {
            while !payload.is_empty() {
                let reply = proto::Reply::decode_length_delimited(&mut payload).expect("a reply");
                replies.push((reply.id, reply.error.map(|error| error.code)));
            }
        } else {
            for line in payload.split(|byte| *byte == b'\n') {
                let reply: Value = serde_json::from_slice(line).expect("JSON");
                let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
                replies.push((number(&reply["id"]).unwrap_or(0), number(&reply["error"]["code"])));
            }
        }
        replies
    }
}

/// Those messages of `client.proto` that the test needs.
mod proto {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub struct Command {
        #[prost(uint32, tag = "1")]
        pub id: u32,
        #[prost(message, optional, tag = "4")]
        pub connect: Option<Of>,
        #[prost(message, optional, tag = "5")]
        pub subscribe: Option<Of>,
        #[prost(message, optional, tag = "7")]
        pub publish: Option<Of>,
        #[prost(message, optional, tag = "8")]
        pub presence: Option<Of>,
        #[prost(message, optional, tag = "10")]
        pub history: Option<Of>,
        #[prost(message, optional, tag = "13")]
        pub rpc: Option<Rpc>,
    }

    /// The token of a connect or the channel of the others, and the data of a publish.
    #[derive(Clone, PartialEq, Message)]
    pub struct Of {
        #[prost(string, tag = "1")]
        pub of: String,
        #[prost(bytes = "vec", tag = "2")]
        pub data: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Rpc {
        #[prost(bytes = "vec", tag = "1")]
        pub data: Vec<u8>,
        #[prost(string, tag = "2")]
        pub method: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Reply {
        #[prost(uint32, tag = "1")]
        pub id: u32,
        #[prost(message, optional, tag = "2")]
        pub error: Option<Error>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub struct Error {
        #[prost(uint32, tag = "1")]
        pub code: u32,
    }

    impl Command {
        pub fn new(id: u32, name: &str, of: &str, data: Vec<u8>) -> Command {
            let command = Command { id, ..Command::default() };
            let parameters = Some(Of { of: of.to_owned(), data: data.clone() });
            match name {
                "connect" => Command { connect: parameters, ..command },
                "subscribe" => Command { subscribe: parameters, ..command },
                "publish" => Command { publish: parameters, ..command },
                "presence" => Command { presence: parameters, ..command },
                "history" => Command { history: parameters, ..command },
                _ => Command { rpc: Some(Rpc { data, method: of.to_owned() }), ..command },
            }
        }
    }
}

impl Room<'_> {
    /// The same through a connection of the Centrifugo protocol, which subscribes first if it can.
    async fn centrifuge(&self, is_protobuf: bool, call: &str, data: Option<&Value>) -> String {
        let mut connection = Centrifuge::open(self.world, is_protobuf).await;
        let cell = |result: Result<(), u32>| result.map_or_else(|code| code.to_string(), |()| "ok".to_owned());
        if let Err(code) = connection.request(("connect", &self.user.token, Vec::new())).await {
            return format!("connect {code}");
        }
        let channel = format!("room:{}", self.name);
        let subscribed = connection.request(("subscribe", &channel, Vec::new())).await;
        let read = json!({"channel": channel, "offset": 1}).to_string();
        cell(match (call, data) {
            ("subscribe", _) => subscribed,
            ("subscribe live", _) => {
                connection.request(("subscribe", &format!("live:{}/probe", self.name), Vec::new())).await
            }
            ("history" | "presence", _) => connection.request((call, &channel, Vec::new())).await,
            ("mark as read", _) => connection.request(("rpc", "read", read.into_bytes())).await,
            (_, data) => {
                let data = data.expect("what to publish").to_string().into_bytes();
                connection.request(("publish", &channel, data)).await
            }
        })
    }

    /// The same through the plain protocol.
    async fn plain(&self, data: Option<&Value>) -> String {
        let bearer = format!("Bearer {}", self.user.token);
        let headers: &[(&str, &str)] = if self.user.token.is_empty() { &[] } else { &[("Authorization", &bearer)] };
        let http = Http::connect(self.world.server.port).await.expect("no connection");
        let path = format!("/ws?room={}&format=json", self.name);
        let raw = match http.upgrade(&path, headers).await {
            Ok((raw, _)) => raw,
            Err(refusal) => return refusal.error().1,
        };
        let Some(data) = data else { return "ok".to_owned() };
        let mut ws = raw.into_ws().await;
        let mut data = data.clone();
        data["id"] = json!("probe");
        ws.send(data.to_string()).await;
        loop {
            let event = ws.event().await;
            if event["id"] == "probe" {
                let code = event["code"].as_u64().filter(|_| event["type"] == "error");
                return code.map_or_else(|| "ok".to_owned(), |code| code.to_string());
            }
        }
    }

    /// What a backend does in the name of the user, or to the user.
    async fn api(&self, method: &str) -> String {
        let user = self.world.server.get("/me", &self.user.token).await.expect(200)["user"]["id"].clone();
        let channel = format!("room:{}", self.name);
        let parameters = match method {
            "publish" => json!({"channel": channel, "data": {"text": "hello", "as": user}}),
            _ => json!({"channel": channel, "user": user}),
        };
        let mut http = Http::connect(self.world.server.port).await.expect("no connection");
        let headers = [("X-API-Key", self.world.key.as_str())];
        let answer = http.request("POST", &format!("/api/{method}"), &headers, Some(&parameters)).await;
        let answer = answer.expect("an answer").expect(200);
        answer["error"]["code"].as_u64().map_or_else(|| "ok".to_owned(), |code| code.to_string())
    }
}

/// A door, what is done through it, and the outcome for each column.
type Row = (&'static str, String, Vec<String>);

/// Asks the server about one call for each kind of user: in a new room each time.
async fn ask(world: &World, call: usize, door: &str, act: impl AsyncFn(Room<'_>) -> String) -> Vec<String> {
    let asked = (0..WHO.len()).map(async |column| {
        let name = format!("{}-{call}-{}", door.replace(' ', "-").to_lowercase(), WHO[column]);
        act(world.room(column, &name).await).await
    });
    join_all(asked).await
}

async fn rows(world: &World) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (n, call) in HTTP.iter().enumerate() {
        let cells = ask(world, n, "http", async |room| room.http(*call).await).await;
        // Without a valid token, nothing is possible.
        assert_eq!(cells[..2], ["token_missing", "token_invalid"], "{call:?}");
        rows.push(("HTTP", call.0.to_owned(), cells));
    }
    let labels = ["subscribe", "subscribe live", "history", "presence", "mark as read"];
    for (n, label) in labels.iter().enumerate() {
        let [json, protobuf] = [false, true].map(|is_protobuf| {
            let door = if is_protobuf { "protobuf" } else { "json" };
            ask(world, n, door, async move |room| room.centrifuge(is_protobuf, label, None).await)
        });
        push_centrifuge(&mut rows, label, json.await, protobuf.await);
    }
    for (n, label) in PUBLICATIONS.into_iter().enumerate() {
        let mut doors = Vec::new();
        for is_protobuf in [false, true] {
            let door = if is_protobuf { "protobuf-publish" } else { "json-publish" };
            doors.push(
                ask(world, n, door, async |room| {
                    room.centrifuge(is_protobuf, label, Some(&room.publications()[n])).await
                })
                .await,
            );
        }
        let [json, protobuf] = doors.try_into().expect("two encodings");
        push_centrifuge(&mut rows, label, json, protobuf);
    }
    rows.push(("plain", "join".to_owned(), ask(world, 0, "plain", async |room| room.plain(None).await).await));
    for (n, label) in PUBLICATIONS.into_iter().enumerate() {
        let cells = ask(world, n, "plain-publish", async |room| room.plain(Some(&room.publications()[n])).await).await;
        assert_eq!(cells[..2], ["token_missing", "token_invalid"]);
        rows.push(("plain", label.to_owned(), cells));
    }
    for (n, method) in ["publish", "subscribe", "remove_member"].into_iter().enumerate() {
        let cells = ask(world, n, "api", async |room| match room.user.name.as_str() {
            "nobody" | "revoked" => String::new(),
            _ => room.api(method).await,
        });
        rows.push(("server API", method.to_owned(), cells.await));
    }
    rows
}

/// Both encodings must have the same outcome.
fn push_centrifuge(rows: &mut Vec<Row>, label: &str, json: Vec<String>, protobuf: Vec<String>) {
    assert_eq!(json, protobuf, "{label}: JSON and Protobuf");
    assert!(json[..2].iter().all(|cell| cell.starts_with("connect ")), "{label}: {json:?}");
    rows.push(("JSON, Protobuf", label.to_owned(), json));
}

/// The table for people. Those without a valid token are left out.
fn drawn(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut last = "";
    for (door, label, cells) in rows {
        if *door != last {
            let _ = write!(text, "{door:18}");
            let _ = writeln!(text, "{}", aligned(&WHO[2..]));
            last = door;
        }
        let cells: Vec<_> = cells[2..].iter().map(String::as_str).collect();
        let _ = writeln!(text, "{label:18}{}", aligned(&cells));
    }
    text
}

fn aligned(cells: &[&str]) -> String {
    const WIDTHS: [usize; 8] = [13, 13, 13, 13, 12, 12, 12, 12];
    let mut line = cells.iter().zip(WIDTHS).map(|(cell, width)| format!("{cell:width$}")).collect::<String>();
    line.truncate(line.trim_end().len());
    line
}

async fn compare(kind: Kind, is_private: bool, expected: &str) {
    let world = World::new(kind, is_private).await;
    let found = drawn(&rows(&world).await);
    assert!(found == expected.trim_start(), "the table is now:\n{found}");
}

async fn everyone_may_do_in_a_public_room_what_the_table_says(kind: Kind) {
    compare(kind, false, PUBLIC).await;
}

async fn everyone_may_do_in_a_private_room_what_the_table_says(kind: Kind) {
    compare(kind, true, PRIVATE).await;
}

const PUBLIC: &str = "
HTTP              stranger     removed      banned       silenced     member      moderator   owner       second
see the room      ok           ok           ok           ok           ok          ok          ok          ok
list the members  not_member   not_member   not_member   ok           ok          ok          ok          ok
read messages     not_member   not_member   not_member   ok           ok          ok          ok          ok
join              ok           ok           banned       ok           ok          ok          ok          ok
leave             not_member   not_member   not_member   ok           ok          ok          not_allowed ok
send a message    not_member   not_member   not_member   silenced     ok          ok          ok          ok
edit own          not_member   not_member   not_member   silenced     ok          ok          ok          ok
edit another's    not_member   not_member   not_member   silenced     not_yours   not_yours   not_yours   not_yours
delete own        not_member   not_member   not_member   ok           ok          ok          ok          ok
delete another's  not_member   not_member   not_member   not_yours    not_yours   ok          ok          ok
react             not_member   not_member   not_member   silenced     ok          ok          ok          ok
take back         not_member   not_member   not_member   ok           ok          ok          ok          ok
add a member      not_allowed  not_allowed  not_allowed  not_allowed  not_allowed ok          ok          ok
remove a member   not_allowed  not_allowed  not_allowed  not_allowed  not_allowed ok          ok          ok
remove an owner   not_allowed  not_allowed  not_allowed  not_allowed  not_allowed not_allowed not_allowed not_allowed
make a moderator  not_allowed  not_allowed  not_allowed  not_allowed  not_allowed not_allowed ok          ok
demote an owner   not_allowed  not_allowed  not_allowed  not_allowed  not_allowed not_allowed last_owner  ok
ban a member      not_allowed  not_allowed  not_allowed  not_allowed  not_allowed ok          ok          ok
ban a stranger    not_allowed  not_allowed  not_allowed  not_allowed  not_allowed ok          ok          ok
ban a moderator   not_allowed  not_allowed  not_allowed  not_allowed  not_allowed not_allowed ok          ok
ban an owner      not_allowed  not_allowed  not_allowed  not_allowed  not_allowed not_allowed not_allowed not_allowed
list bans         not_allowed  not_allowed  not_allowed  not_allowed  not_allowed ok          ok          ok
lift a ban        not_allowed  not_allowed  not_allowed  not_allowed  not_allowed ok          ok          ok
silence a member  not_allowed  not_allowed  not_allowed  not_allowed  not_allowed ok          ok          ok
silence an owner  not_allowed  not_allowed  not_allowed  not_allowed  not_allowed not_allowed not_allowed not_allowed
end a silence     not_allowed  not_allowed  not_allowed  not_allowed  not_allowed ok          ok          ok
change settings   not_allowed  not_allowed  not_allowed  not_allowed  not_allowed not_allowed ok          ok
pin               not_allowed  not_allowed  not_allowed  not_allowed  not_allowed ok          ok          ok
unpin             not_allowed  not_allowed  not_allowed  not_allowed  not_allowed ok          ok          ok
read the audit    not_allowed  not_allowed  not_allowed  not_allowed  not_allowed ok          ok          ok
create a hook     not_allowed  not_allowed  not_allowed  not_allowed  not_allowed ok          ok          ok
list hooks        not_allowed  not_allowed  not_allowed  not_allowed  not_allowed ok          ok          ok
delete the room   not_allowed  not_allowed  not_allowed  not_allowed  not_allowed not_allowed ok          ok
JSON, Protobuf    stranger     removed      banned       silenced     member      moderator   owner       second
subscribe         ok           ok           103          ok           ok          ok          ok          ok
subscribe live    ok           ok           103          ok           ok          ok          ok          ok
history           ok           ok           103          ok           ok          ok          ok          ok
presence          ok           ok           103          ok           ok          ok          ok          ok
mark as read      ok           ok           103          ok           ok          ok          ok          ok
send a message    ok           ok           103          103          ok          ok          ok          ok
edit own          103          ok           103          103          ok          ok          ok          ok
edit another's    103          103          103          103          103         103         103         103
delete own        103          ok           103          ok           ok          ok          ok          ok
delete another's  103          103          103          103          103         ok          ok          ok
react             ok           ok           103          103          ok          ok          ok          ok
plain             stranger     removed      banned       silenced     member      moderator   owner       second
join              ok           ok           banned       ok           ok          ok          ok          ok
send a message    ok           ok           banned       103          ok          ok          ok          ok
edit own          103          ok           banned       103          ok          ok          ok          ok
edit another's    103          103          banned       103          103         103         103         103
delete own        103          ok           banned       ok           ok          ok          ok          ok
delete another's  103          103          banned       103          103         ok          ok          ok
react             ok           ok           banned       103          ok          ok          ok          ok
server API        stranger     removed      banned       silenced     member      moderator   owner       second
publish           103          103          103          103          ok          ok          ok          ok
subscribe         ok           ok           103          ok           ok          ok          ok          ok
remove_member     ok           ok           ok           ok           ok          ok          103         103
";

const PRIVATE: &str = "
HTTP              stranger     removed      banned       silenced     member      moderator   owner       second
see the room      no_such_room no_such_room no_such_room ok           ok          ok          ok          ok
list the members  no_such_room no_such_room no_such_room ok           ok          ok          ok          ok
read messages     no_such_room no_such_room no_such_room ok           ok          ok          ok          ok
join              no_such_room no_such_room no_such_room ok           ok          ok          ok          ok
leave             no_such_room no_such_room no_such_room ok           ok          ok          not_allowed ok
send a message    no_such_room no_such_room no_such_room silenced     ok          ok          ok          ok
edit own          no_such_room no_such_room no_such_room silenced     ok          ok          ok          ok
edit another's    no_such_room no_such_room no_such_room silenced     not_yours   not_yours   not_yours   not_yours
delete own        no_such_room no_such_room no_such_room ok           ok          ok          ok          ok
delete another's  no_such_room no_such_room no_such_room not_yours    not_yours   ok          ok          ok
react             no_such_room no_such_room no_such_room silenced     ok          ok          ok          ok
take back         no_such_room no_such_room no_such_room ok           ok          ok          ok          ok
add a member      no_such_room no_such_room no_such_room not_allowed  not_allowed ok          ok          ok
remove a member   no_such_room no_such_room no_such_room not_allowed  not_allowed ok          ok          ok
remove an owner   no_such_room no_such_room no_such_room not_allowed  not_allowed not_allowed not_allowed not_allowed
make a moderator  no_such_room no_such_room no_such_room not_allowed  not_allowed not_allowed ok          ok
demote an owner   no_such_room no_such_room no_such_room not_allowed  not_allowed not_allowed last_owner  ok
ban a member      no_such_room no_such_room no_such_room not_allowed  not_allowed ok          ok          ok
ban a stranger    no_such_room no_such_room no_such_room not_allowed  not_allowed ok          ok          ok
ban a moderator   no_such_room no_such_room no_such_room not_allowed  not_allowed not_allowed ok          ok
ban an owner      no_such_room no_such_room no_such_room not_allowed  not_allowed not_allowed not_allowed not_allowed
list bans         no_such_room no_such_room no_such_room not_allowed  not_allowed ok          ok          ok
lift a ban        no_such_room no_such_room no_such_room not_allowed  not_allowed ok          ok          ok
silence a member  no_such_room no_such_room no_such_room not_allowed  not_allowed ok          ok          ok
silence an owner  no_such_room no_such_room no_such_room not_allowed  not_allowed not_allowed not_allowed not_allowed
end a silence     no_such_room no_such_room no_such_room not_allowed  not_allowed ok          ok          ok
change settings   no_such_room no_such_room no_such_room not_allowed  not_allowed not_allowed ok          ok
pin               no_such_room no_such_room no_such_room not_allowed  not_allowed ok          ok          ok
unpin             no_such_room no_such_room no_such_room not_allowed  not_allowed ok          ok          ok
read the audit    no_such_room no_such_room no_such_room not_allowed  not_allowed ok          ok          ok
create a hook     no_such_room no_such_room no_such_room not_allowed  not_allowed ok          ok          ok
list hooks        no_such_room no_such_room no_such_room not_allowed  not_allowed ok          ok          ok
delete the room   no_such_room no_such_room no_such_room not_allowed  not_allowed not_allowed ok          ok
JSON, Protobuf    stranger     removed      banned       silenced     member      moderator   owner       second
subscribe         102          102          102          ok           ok          ok          ok          ok
subscribe live    102          102          102          ok           ok          ok          ok          ok
history           103          103          103          ok           ok          ok          ok          ok
presence          103          103          103          ok           ok          ok          ok          ok
mark as read      103          103          103          ok           ok          ok          ok          ok
send a message    103          103          103          103          ok          ok          ok          ok
edit own          103          103          103          103          ok          ok          ok          ok
edit another's    103          103          103          103          103         103         103         103
delete own        103          103          103          ok           ok          ok          ok          ok
delete another's  103          103          103          103          103         ok          ok          ok
react             103          103          103          103          ok          ok          ok          ok
plain             stranger     removed      banned       silenced     member      moderator   owner       second
join              no_such_room no_such_room no_such_room ok           ok          ok          ok          ok
send a message    no_such_room no_such_room no_such_room 103          ok          ok          ok          ok
edit own          no_such_room no_such_room no_such_room 103          ok          ok          ok          ok
edit another's    no_such_room no_such_room no_such_room 103          103         103         103         103
delete own        no_such_room no_such_room no_such_room ok           ok          ok          ok          ok
delete another's  no_such_room no_such_room no_such_room 103          103         ok          ok          ok
react             no_such_room no_such_room no_such_room 103          ok          ok          ok          ok
server API        stranger     removed      banned       silenced     member      moderator   owner       second
publish           103          103          103          103          ok          ok          ok          ok
subscribe         ok           ok           103          ok           ok          ok          ok          ok
remove_member     ok           ok           ok           ok           ok          ok          103         103
";
