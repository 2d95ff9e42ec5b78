//! Proves that Uproar works behind Caddy, nginx and HAProxy, each with its configuration in `deploy/`. Only ports,
//! names and paths are replaced.

use crate::client::{FIN, Http, PING, PONG, Raw, TEXT, User, Ws, frame, within};
use crate::databases::Kind;
use crate::otlp::{Collector, traced};
use crate::server::{Server, text, until, with_limits};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// The address that the clients have for the proxy.
const CLIENT: &str = "127.0.0.2";
const DOMAIN: &str = "chat.example.org";

/// How long a proxy keeps a silent connection in the tests, in seconds, instead of 90. The server pings more often.
const PROXY_TIMEOUT_S: u64 = 4;
const LIMITS: [&str; 4] =
    ["ping_interval_ms=1000", "pong_timeout_ms=60000", "outbound_limit_bytes=2000000", "publish_rate_per_second=0"];

#[tokio::test]
async fn caddy_passes_everything_on() {
    let (server, collector) = start_server().await;
    let proxy = Proxy::start(&server, "caddy", |folder, ports| {
        let options = format!(
            "{{\n\tadmin off\n\tlocal_certs\n\tskip_install_trust\n\thttp_port {}\n\thttps_port {}\n\
             \tstorage file_system {}\n}}\n",
            ports.http,
            ports.https,
            folder.display()
        );
        // It has no time limit for WebSockets.
        let text = options + &replaced("Caddyfile", &[(DOMAIN, "localhost"), ("127.0.0.1:8080", &ports.server())]);
        (&["run", "--adapter", "caddyfile", "--config"], folder_file(folder, "Caddyfile", &text))
    })
    .await;
    check(server, &collector, &proxy).await;
}

#[tokio::test]
async fn nginx_passes_everything_on() {
    let (server, collector) = start_server().await;
    let proxy = Proxy::start(&server, "nginx", |folder, ports| {
        let site = replaced(
            "nginx.conf",
            &[
                (DOMAIN, "localhost"),
                ("listen 80;", &format!("listen 127.0.0.1:{};", ports.http)),
                ("    listen [::]:80;\n", ""),
                ("listen 443 ssl;", &format!("listen 127.0.0.1:{} ssl;", ports.https)),
                ("    listen [::]:443 ssl;\n", ""),
                ("/etc/letsencrypt/live/localhost/fullchain.pem", &folder.join("cert.pem").display().to_string()),
                ("/etc/letsencrypt/live/localhost/privkey.pem", &folder.join("key.pem").display().to_string()),
                ("server 127.0.0.1:8080;", &format!("server {};", ports.server())),
                ("timeout 90s;", &format!("timeout {PROXY_TIMEOUT_S}s;")),
            ],
        );
        folder_file(folder, "uproar.conf", &site);
        let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let folders = folders.map(|name| format!("{name}_temp_path {}/{name};\n", folder.display())).concat();
        let main = format!(
            "daemon off;\nmaster_process off;\npid {path}/pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\naccess_log off;\n{folders}include {path}/uproar.conf;\n}}\n",
            path = folder.display()
        );
        (&["-e", "stderr", "-c"], folder_file(folder, "nginx.conf", &main))
    })
    .await;
    check(server, &collector, &proxy).await;
}

#[tokio::test]
async fn haproxy_passes_everything_on() {
    let (server, collector) = start_server().await;
    let proxy = Proxy::start(&server, "haproxy", |folder, ports| {
        let both = fs::read_to_string(folder.join("cert.pem"))
            .and_then(|certificate| fs::read_to_string(folder.join("key.pem")).map(|key| certificate + &key));
        let both = folder_file(folder, "both.pem", &both.expect("a certificate"));
        let text = replaced(
            "haproxy.cfg",
            &[
                ("/etc/haproxy/chat.example.org.pem", &both.display().to_string()),
                ("bind :80\n", &format!("bind 127.0.0.1:{}\n", ports.http)),
                ("bind :443 ", &format!("bind 127.0.0.1:{} ", ports.https)),
                ("server uproar 127.0.0.1:8080", &format!("server uproar {}", ports.server())),
                (" 90s\n", &format!(" {PROXY_TIMEOUT_S}s\n")),
            ],
        );
        (&["-db", "-f"], folder_file(folder, "haproxy.cfg", &text))
    })
    .await;
    check(server, &collector, &proxy).await;
}

/// A server that sends no spans but those of calls that a caller wants to have recorded.
async fn start_server() -> (Server, Collector) {
    let collector = Collector::start([]).await;
    let options = with_limits(&["--trusted-proxy", "127.0.0.1", "--otlp-sample", "0"], &LIMITS);
    (traced(Kind::Sqlite, &collector, &options).await, collector)
}

// ── what is checked ─────────────────────────────────────────────────────────────────────────────────────────────────

async fn check(mut server: Server, collector: &Collector, proxy: &Proxy) {
    let ann = browse_and_sign_up(&server, proxy).await;
    is_led_to_https(proxy).await;
    server.create_room(&ann, "r").await;
    let ben = server.user("ben").await;
    chat(proxy, &ann, &ben).await;
    send_large_bodies(&server, proxy, &ann).await;
    tokio::join!(stay_idle(proxy, &ann), read_slowly(&server, proxy, &ann));
    // It sends the spans that wait.
    server.stop().await;
    assert_eq!(collector.spans().len(), 0, "a client has decided that its call is recorded");
}

/// The page, a sign-up with its cookie, and the client's address.
async fn browse_and_sign_up(server: &Server, proxy: &Proxy) -> User {
    let mut http = proxy.connect().await;
    // Without this, Caddy asks for a compressed page, and decompresses it into a body of unknown length.
    let identity = [("Accept-Encoding", "identity")];
    let page = http.request("GET", "/", &identity, None).await.expect("the page");
    assert_eq!((page.status, page.header("Content-Type")), (200, Some("text/html; charset=utf-8")));
    let body = json!({"username": "ann", "email": "ann@example.org", "password": "correct horse"});
    // What a client says about itself is not believed.
    let headers = [
        ("Origin", "https://localhost"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let answer = http.request("POST", "/user/signup", &headers, Some(&body)).await.expect("an answer");
    let cookie = answer.header("Set-Cookie").expect("a cookie").to_owned();
    assert!(cookie.split("; ").any(|attribute| attribute == "Secure"), "{cookie}");
    let ann = User { name: "ann".to_owned(), token: text(&answer.expect(201)["token"]) };
    // The server compares the origin of a page with the host that the proxy passes on.
    let headers = [("Origin", "https://localhost"), ("Cookie", cookie.split(';').next().expect("its value"))];
    http.request("POST", "/token/refresh", &headers, None).await.expect("an answer").expect(200);
    until("the sign-up is logged with the client's address", async || {
        let log = server.setup.log();
        let address = format!("address={CLIENT}");
        log.lines().any(|line| line.contains("a user signed up") && line.contains(&address))
    })
    .await;
    assert!(!server.setup.log().contains("203.0.113.9"), "a forged address is in the log");
    assert!(!server.setup.log().contains("trusted-proxy"), "the server takes the proxy for an unknown one");
    ann
}

async fn is_led_to_https(proxy: &Proxy) {
    let mut http = Http::connect(proxy.ports.http).await.expect("no connection");
    let answer = http.request("GET", "/some/path", &[], None).await.expect("an answer");
    assert_eq!((answer.status, answer.header("Location")), (308, Some("https://localhost/some/path")));
}

/// Both directions, on both protocols, on fresh and on reused connections.
async fn chat(proxy: &Proxy, ann: &User, ben: &User) {
    let mut at_ann = proxy.join(ann).await;
    let mut at_ben = proxy.join(ben).await;
    at_ann.send("hello").await;
    assert_eq!(at_ann.message().await.1, "hello");
    assert_eq!(at_ben.message().await.1, "hello");
    at_ben.send("good morning").await;
    assert_eq!(at_ann.message().await.1, "good morning");
    let mut http = proxy.connect().await;
    http.request("GET", "/healthz", &[], None).await.expect("an answer").expect(200);
    let origin = [("Origin", "https://localhost")];
    let Ok((mut raw, _)) = http.upgrade("/connection/websocket", &origin).await else { panic!("it is refused") };
    let connect = json!({"id": 1, "connect": {"token": ben.token}}).to_string();
    raw.send(&frame(FIN | TEXT, connect.as_bytes())).await;
    let reply: Value = serde_json::from_slice(&raw.frame().await.payload).expect("JSON");
    assert_eq!(reply["id"], 1, "{reply}");
    assert!(reply["connect"]["client"].is_string(), "{reply}");
}

/// The longest message, and more than the server takes.
async fn send_large_bodies(server: &Server, proxy: &Proxy, ann: &User) {
    let bearer = format!("Bearer {}", ann.token);
    let mut http = proxy.connect().await;
    let longest = json!({"text": "x".repeat(16 * 1024), "id": "longest"});
    let headers = [("Authorization", bearer.as_str())];
    http.request("POST", "/rooms/r/messages", &headers, Some(&longest)).await.expect("an answer").expect(201);
    let messages = server.history(ann, "r").await;
    assert_eq!(messages.last().map(|message| &message["text"]), Some(&longest["text"]));
    let too_long = json!({"text": "x".repeat(500_000)});
    // nginx itself refuses it.
    let answer = proxy.connect().await.request("POST", "/rooms/r/messages", &headers, Some(&too_long)).await;
    assert_eq!(answer.expect("an answer").status, 413);
}

/// The server's pings keep a silent connection open for longer than the proxy keeps one without them.
async fn stay_idle(proxy: &Proxy, ann: &User) {
    let mut raw = Raw::join(proxy.port, &ann.token, "room=r&since=0").await;
    let mut pings = 0;
    while pings <= PROXY_TIMEOUT_S + 2 {
        let received = raw.frame().await;
        if received.first == FIN | PING {
            raw.send(&frame(FIN | PONG, &received.payload)).await;
            pings += 1;
        }
    }
}

/// A client that does not read is disconnected, and the others receive everything.
async fn read_slowly(server: &Server, proxy: &Proxy, ann: &User) {
    let _slow = Raw::join(proxy.port, &ann.token, "room=r").await;
    let mut ws = proxy.join(ann).await;
    let message = "x".repeat(16 * 1024);
    // The proxy and the kernel hold some megabytes for it.
    for _ in 0..200 {
        for _ in 0..50 {
            ws.send(message.clone()).await;
        }
        for _ in 0..50 {
            assert_eq!(ws.message().await.1, message);
        }
        if server.metric("uproar_ended_total{code=\"3008\"}").await > 0.0 {
            return;
        }
    }
    panic!("a client that does not read stays connected");
}

// ── a running proxy ─────────────────────────────────────────────────────────────────────────────────────────────────

/// The ports of the proxy, and the server's.
struct Ports {
    http: u16,
    https: u16,
    server: u16,
}

impl Ports {
    fn server(&self) -> String {
        format!("127.0.0.1:{}", self.server)
    }
}

/// A proxy and the program that speaks TLS to it. Both end when it is dropped.
struct Proxy {
    ports: Ports,
    /// A client that connects here reaches the proxy over TLS.
    port: u16,
    _children: [Child; 2],
    _folder: TempDir,
}

/// The arguments of the proxy, the last of which is its configuration.
type Arguments = (&'static [&'static str], PathBuf);

impl Proxy {
    /// Writes the configuration and starts the program with it.
    async fn start(server: &Server, name: &str, configure: impl FnOnce(&Path, &Ports) -> Arguments) -> Proxy {
        let folder = TempDir::new().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        make_certificate(folder.path()).await;
        let [http, https] = free_ports();
        let ports = Ports { http, https, server: server.port };
        let (arguments, file) = configure(folder.path(), &ports);
        let mut command = Command::new(program(name));
        command.args(arguments).arg(file).env("HOME", folder.path()).env("XDG_CONFIG_HOME", folder.path());
        let mut child = command.stdin(Stdio::null()).kill_on_drop(true).spawn().expect("the proxy can't be started");
        let listens = async {
            while TcpStream::connect(("127.0.0.1", https)).await.is_err() {
                assert!(child.try_wait().is_ok_and(|status| status.is_none()), "{name} has ended");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("the proxy listens", listens).await;
        let (tls, port) = start_tls_client(https).await;
        let proxy = Proxy { ports, port, _children: [child, tls], _folder: folder };
        // Caddy listens before it has its certificate.
        until("the proxy speaks TLS", async || {
            proxy.connect().await.request("GET", "/healthz", &[], None).await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
        proxy
    }

    async fn connect(&self) -> Http {
        Http::connect(self.port).await.expect("no connection")
    }

    async fn join(&self, user: &User) -> Ws {
        Ws::join(self.port, &user.token, "room=r").await.unwrap_or_else(|error| panic!("{}: {error}", user.name))
    }
}

/// The program of a Debian package, which may be where only root looks.
pub fn program(name: &str) -> PathBuf {
    let folders = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let found = folders.split(':').map(|folder| Path::new(folder).join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("install the package {name} (`scripts/test-deploy install` does)"))
}

/// A file in `deploy/`, with these parts replaced, each of which must occur.
fn replaced(name: &str, replacements: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    let mut text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for (part, replacement) in replacements {
        assert!(text.contains(part), "{name} lacks '{part}'");
        text = text.replace(part, replacement);
    }
    text
}

fn folder_file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).expect("written");
    path
}

/// Two ports that were free a moment ago.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("its address").port())
}

/// Writes `cert.pem` and `key.pem` for localhost.
async fn make_certificate(folder: &Path) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2"]);
    command.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout"]);
    command.arg(folder.join("key.pem")).arg("-out").arg(folder.join("cert.pem"));
    let output = within("openssl ends", command.output()).await.expect("openssl can't be started");
    assert!(output.status.success(), "{output:?}");
}

/// Starts the program that speaks TLS for the clients. Returns it with its port.
async fn start_tls_client(https: u16) -> (Child, u16) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/tls_client.mjs");
    let mut command = Command::new("node");
    command.arg(script).arg(https.to_string()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("node can't be started");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let line = within("it prints its port", lines.next_line()).await.expect("a line").expect("a line");
    (child, line.parse().expect("a port"))
}
