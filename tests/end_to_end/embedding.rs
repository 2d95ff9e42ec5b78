//! Proves that "Embed rooms into your application" in docs/backends.md works: everything in it runs as it stands there.

use crate::api::{api_key, printed};
use crate::client::{Http, Response, User, Ws, within};
use crate::databases::Kind;
use crate::issuers::program;
use crate::sdk_client::installed;
use crate::server::{Server, Setup, text, until};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const DOCUMENT: &str = include_str!("../../docs/backends.md");

/// What a browser has and this version of Node.js may not: sockets, and pages with an address and cookies.
const BROWSER: &str = "
import { WebSocket } from 'ws';
const { SHOP } = process.env;
const original = fetch;
globalThis.WebSocket ??= WebSocket;
globalThis.fetch = (path) => original(new URL(path, SHOP), { headers: { Cookie: 'session=s1' } });
";

/// A program that runs until it is dropped, and what it has printed.
struct Program {
    name: &'static str,
    printed: Arc<Mutex<String>>,
    _child: Child,
}

impl Program {
    fn start(name: &'static str, command: &mut Command) -> Program {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} can't be started: {error}"));
        let printed = Arc::new(Mutex::new(String::new()));
        keep(child.stdout.take().unwrap(), &printed);
        keep(child.stderr.take().unwrap(), &printed);
        Program { name, printed, _child: child }
    }

    fn has_printed(&self, text: &str) -> bool {
        self.printed.lock().unwrap().contains(text)
    }

    async fn prints(&self, text: &str) {
        until(&format!("{} prints '{text}'", self.name), async || self.has_printed(text)).await;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} has printed:\n{}", self.name, self.printed.lock().unwrap());
        }
    }
}

fn keep(output: impl AsyncRead + Unpin + Send + 'static, printed: &Arc<Mutex<String>>) {
    let printed = Arc::clone(printed);
    tokio::spawn(async move {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            *printed.lock().unwrap() += &format!("{line}\n");
        }
    });
}

/// The first block in this language in the walk.
fn block(language: &str) -> String {
    let (_, walk) = DOCUMENT.split_once("\n## Embed rooms into your application\n").expect("the walk");
    let (_, block) = walk.split_once(&format!("\n```{language}\n")).expect("a block");
    block.split_once("\n```\n").expect("the end of the block").0.to_owned()
}

/// The options that the walk gives to `uproar api-key`.
fn key_options() -> Vec<String> {
    let line = DOCUMENT.lines().find(|line| line.starts_with("uproar api-key add shop --user Shop "));
    let (command, file) = line.expect("the command").split_once(" > ").expect("a file");
    assert_eq!(file, "chat.key");
    command.split(' ').skip(2).map(ToOwned::to_owned).collect()
}

/// A port of ours; nothing else uses it meanwhile, as far as that can be had.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

struct Shop {
    server: Server,
    port: u16,
    folder: PathBuf,
    backend: Program,
}

impl Shop {
    /// Follows the walk up to the start of the backend, with other ports.
    async fn open(kind: Kind, name: &'static str, interpreter: &Path) -> Shop {
        let mut setup = Setup::new(kind, &[]).await;
        let (port, folder) = (free_port(), setup.folder().to_owned());
        let secret = folder.join("webhook.secret");
        // That of `openssl rand -base64 32`.
        fs::write(&secret, "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        let config = block("toml").replace("127.0.0.1:3000", &format!("127.0.0.1:{port}"));
        assert!(config.contains("\"webhook.secret\""));
        let config = config.replace("\"webhook.secret\"", &format!("'{}'", secret.display()));
        fs::write(folder.join("uproar.toml"), config).unwrap();
        setup.add_options(&["--config", folder.join("uproar.toml").to_str().unwrap()]);
        let server = setup.start().await;
        let options = key_options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        fs::write(folder.join("chat.key"), printed(&api_key(&server, &options).await)).unwrap();

        symlink(installed("node_modules"), folder.join("node_modules")).unwrap();
        fs::write(folder.join(name), program(name)).unwrap();
        let mut command = Command::new(interpreter);
        command.arg(name).current_dir(&folder).env("PORT", port.to_string());
        command.env("CHAT", format!("http://127.0.0.1:{}", server.port));
        let backend = Program::start(name, &mut command);
        until("the backend listens", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        Shop { server, port, folder, backend }
    }

    async fn call(&self, method: &str, path: &str, session: &str) -> Response {
        let mut http = Http::connect(self.port).await.expect("no connection");
        let cookie = format!("session={session}");
        within("an answer", http.request(method, path, &[("Cookie", &cookie)], None)).await.expect("an answer")
    }

    /// Runs the page, as Ann.
    fn open_page(&self) -> Program {
        fs::write(self.folder.join("order.mjs"), program("order.mjs")).unwrap();
        fs::write(self.folder.join("browser.mjs"), BROWSER).unwrap();
        let mut command = Command::new("node");
        command.args(["--import", "./browser.mjs", "order.mjs"]).current_dir(&self.folder);
        command.env("SHOP", format!("http://127.0.0.1:{}", self.port));
        Program::start("order.mjs", &mut command)
    }
}

async fn the_walk_works(kind: Kind, name: &'static str, interpreter: &Path) {
    let shop = Shop::open(kind, name, interpreter).await;
    let server = &shop.server;
    // A webhook starts at the end of each room that it finds, so wait until it sends.
    let owner = server.user("owner").await;
    server.create_room(&owner, "order-0").await;
    until("the webhook sends", async || {
        let sent = server.post("/rooms/order-0/messages", &owner.token, json!({"text": "are you there?"})).await;
        sent.status == 201 && shop.backend.has_printed("order-0: owner: are you there?")
    })
    .await;

    for (method, path, session, status) in [
        ("GET", "/orders/7/chat", "s3", 403),
        ("GET", "/orders/7/chat", "unknown", 403),
        ("GET", "/orders/8/chat", "s1", 403),
        ("POST", "/orders/7/chat", "s1", 405),
        ("GET", "/orders/7/ship", "s1", 405),
        ("POST", "/chat-events", "s1", 401),
    ] {
        assert_eq!(shop.call(method, path, session).await.status, status, "{method} {path} {session}");
    }

    let details = shop.call("GET", "/orders/7/chat", "s2").await.expect(200);
    assert_eq!(details["url"], format!("ws://127.0.0.1:{}/connection/websocket", server.port));
    assert_eq!(details["channel"], "room:order-7");
    let ben = User { name: "ben".into(), token: text(&details["token"]) };
    let mut at_ben = Ws::join(server.port, &ben.token, "room=order-7").await.expect("Ben is a member");
    let page = shop.open_page();
    let asked = message(&mut at_ben).await;
    assert_eq!((&asked["text"], &asked["user"]["username"]), (&json!("When does it come?"), &json!("ann")));
    page.prints("ann: When does it come?").await;

    for _ in 0..2 {
        shop.call("POST", "/orders/7/ship", "s2").await.expect(200);
    }
    let shipped = message(&mut at_ben).await;
    assert_eq!((&shipped["text"], &shipped["user"]["username"]), (&json!("Order 7 has shipped."), &json!("Shop")));
    assert_eq!(shipped["meta"], json!({"order": 7, "status": "shipped"}));
    page.prints("Shop: Order 7 has shipped. { order: 7, status: 'shipped' }").await;
    assert_eq!(at_ben.round_trip("Thank you").await.1, "Thank you", "the second call has published nothing");

    // The webhook, verified.
    for line in ["ann: When does it come?", "Shop: Order 7 has shipped.", "ben: Thank you"] {
        shop.backend.prints(&format!("order-7: {line}\n")).await;
    }
    assert_eq!(shop.backend.printed.lock().unwrap().matches("has shipped").count(), 1);
}

/// The next message, whatever comes before it.
async fn message(ws: &mut Ws) -> Value {
    loop {
        let event = ws.event().await;
        if event["type"] == "message" {
            return event;
        }
    }
}

#[tokio::test]
async fn the_backend_in_node_works() {
    the_walk_works(Kind::any(), "backend.mjs", Path::new("node")).await;
}

#[tokio::test]
async fn the_backend_in_python_works() {
    the_walk_works(Kind::Postgres, "backend.py", &installed("python/bin/python")).await;
}
