//! Proves that commands reach a running server through the socket in its data folder, and that nothing that is sent
//! there harms the server.

use crate::client::{Received, within};
use crate::databases::Kind;
use crate::server::{Server, Setup, assert_contains, until, uproar};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

on_each_database! {
    a_password_is_set_beside_a_running_server
}

fn socket(setup: &Setup) -> PathBuf {
    setup.data().join("uproar.sock")
}

/// Runs a command with this data folder, and gives it a line on standard input.
async fn command(data: &Path, arguments: &[&str], line: &str) -> Output {
    let mut command = uproar(&[arguments, &["--data", data.to_str().unwrap()]].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that rejects its arguments does not read.
    let _ = stdin.write_all(format!("{line}\n").as_bytes()).await;
    drop(stdin);
    within("the command exits", child.wait_with_output()).await.unwrap()
}

/// The only line on standard error of a command that has failed.
#[track_caller]
fn failure(output: &Output) -> String {
    let line = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{line}");
    line
}

async fn a_password_is_set_beside_a_running_server(kind: Kind) {
    let mut server = Server::start(kind, &[]).await;
    let data = server.setup.data();
    let ann = server.sign_up("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    let set = async |user, password| command(&data, &["password", "--user", user], password).await;
    assert_contains(&failure(&set("ann", "short").await), &["the password", "at least"]);
    assert_contains(&failure(&set("nobody", "long enough").await), &["there is no user 'nobody'"]);
    server.get("/me", &ann.token).await.expect(200);

    let done = set("ann", "long enough").await;
    assert!(done.status.success(), "{done:?}");
    assert_eq!(server.get("/me", &ann.token).await.status, 401, "an old token is still valid");
    let ended = within("the connection is closed", async {
        loop {
            match ws.next().await {
                Received::Text(_) => {}
                other => return other,
            }
        }
    });
    assert!(!matches!(ended.await, Received::Text(_)));
    let body = json!({"username": "ann", "password": "long enough"});
    server.post("/user/signin", "", body).await.expect(200);
    let line = "an operator has set a user's password";
    until("the change is logged", async || server.setup.log().contains(line)).await;
    assert!(!server.setup.log().contains("long enough"), "a password is in the log");
    server.stop().await;
    assert!(!socket(&server.setup).exists(), "the socket is left");
}

#[tokio::test]
async fn a_running_server_mints_tokens_with_its_own_key() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    fs::write(&key, [7; 32]).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let mut server = Server::start(Kind::Sqlite, &["--key-file", key.to_str().unwrap()]).await;
    let data = server.setup.data();
    let minted = command(&data, &["token", "--user", "ann"], "").await;
    assert!(minted.status.success(), "{minted:?}");
    let token = String::from_utf8(minted.stdout).unwrap();
    server.get("/me", token.trim()).await.expect(200);
    server.stop().await;
    // Without a server, the command does not know the key.
    let missing = command(&data, &["token", "--user", "ann"], "").await;
    assert_contains(&failure(&missing), &["signing.key"]);
}

#[tokio::test]
async fn a_socket_that_a_killed_server_has_left_is_replaced() {
    let mut server = Server::start(Kind::Sqlite, &[]).await;
    server.sign_up("ann").await;
    let (data, socket) = (server.setup.data(), socket(&server.setup));
    server.kill().await;
    assert!(socket.exists());
    // A command does not take it for a running server.
    let set = async |password| command(&data, &["password", "--user", "ann"], password).await;
    let done = set("without a server").await;
    assert!(done.status.success(), "{done:?}");
    let server = server.restart().await;
    let metadata = fs::symlink_metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert!(set("beside a server").await.status.success());
    let body = json!({"username": "ann", "password": "beside a server"});
    server.post("/user/signin", "", body).await.expect(200);
}

#[tokio::test]
async fn a_server_works_without_the_socket() {
    let mut server = Server::start(Kind::Sqlite, &[]).await;
    server.stop().await;
    let socket = socket(&server.setup);
    fs::write(&socket, "precious").unwrap();
    let mut server = server.restart().await;
    let words = ["uproar.sock is not a socket", "can't reach this server"];
    until("the reason is logged", async || words.iter().all(|word| server.setup.log().contains(word))).await;
    let data = server.setup.data();
    let refused = command(&data, &["password", "--user", "ann"], "long enough").await;
    assert_contains(&failure(&refused), &["another uproar", &server.id().to_string()]);
    server.stop().await;
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
}

/// The address of a socket has room for 107 bytes.
#[tokio::test]
async fn the_path_of_the_socket_may_be_long() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("long".repeat(20)).join("folder".repeat(20)).join("data");
    assert!(data.join("uproar.sock").as_os_str().len() > 200);
    fs::create_dir_all(&data).unwrap();
    let setup = Setup::new(Kind::Sqlite, &[]).await;
    std::os::unix::fs::symlink(&data, setup.data()).unwrap();
    let server = setup.start().await;
    server.sign_up("ann").await;
    let done = command(&data, &["password", "--user", "ann"], "long enough").await;
    assert!(done.status.success(), "{done:?}");
    let body = json!({"username": "ann", "password": "long enough"});
    server.post("/user/signin", "", body).await.expect(200);
}

/// Sends bytes to the socket, and returns what the server answers.
async fn send(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    // The server may stop reading early.
    let _ = within("written", stream.write_all(bytes)).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = within("an answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn nothing_that_is_sent_to_the_socket_harms_the_server() {
    let server = Server::start(Kind::Sqlite, &[]).await;
    let (data, socket) = (server.setup.data(), socket(&server.setup));
    let ann = server.sign_up("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    let huge = vec![b'x'; 1 << 20];
    let long_name = format!(r#"{{"command":"token","user":"{}","lifetime_s":1}}"#, "x".repeat(9_000));
    let inputs: [&[u8]; 12] = [
        b"",
        b"\n",
        b"\0\0\0\n",
        b"\xff\xfe\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"null\n",
        br#"{"command":"stop"}"#,
        br#"{"command":"token","user":"ann"}"#,
        br#"{"command":"token","user":"ann","lifetime_s":-1}"#,
        br#"{"command":"password","user":"ann","password":"correct horse","more":1}"#,
        long_name.as_bytes(),
        &huge,
    ];
    for input in inputs {
        let answer = send(&socket, input).await;
        assert!(answer.starts_with(r#"{"failed":"#) && answer.ends_with("}\n"), "{answer}");
        assert!(!answer.contains("correct horse"), "{answer}");
    }
    // Half a request, many idle connections, and one that leaves without reading.
    let mut idle = Vec::new();
    for _ in 0..100 {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(br#"{"command":"tok"#).await.unwrap();
        idle.push(stream);
    }
    ws.round_trip("still there").await;
    drop(idle);
    until("commands are served again", async || command(&data, &["token", "--user", "ann"], "").await.status.success())
        .await;
    ws.round_trip("still there").await;
    server.get("/me", &ann.token).await.expect(200);
}
