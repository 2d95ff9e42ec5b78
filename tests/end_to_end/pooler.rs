//! Proves that the server refuses a pooler that shares sessions between clients, and works through one that does not.

use crate::client::within;
use crate::cluster::until_connected;
use crate::databases::{new_postgres_database, skip_without_own_postgres};
use crate::nodes::{Cluster, node_setup};
use crate::server::{Setup, assert_contains, run};
use crate::two_nodes::alone;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// PgBouncer in front of the tests' PostgreSQL server.
struct Pooler {
    /// The database's URL, with the pooler's port.
    url: String,
    _process: Child,
    _folder: TempDir,
}

/// PgBouncer's program, which Debian puts where only root looks.
fn program() -> Option<&'static str> {
    ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"]
        .into_iter()
        .find(|file| Path::new(file).exists())
}

impl Pooler {
    async fn start(program: &str, pool_mode: &str) -> Pooler {
        let direct = new_postgres_database().await;
        let port = direct.split(['@', '/']).nth(3).and_then(|host| host.split(':').nth(1)).expect("a port");
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let own_port = free.expect("a free port").port();
        let folder = TempDir::new().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        let (settings, users) = (folder.path().join("pgbouncer.ini"), folder.path().join("users"));
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {own_port}\nauth_type = trust\nauth_file = {}\npool_mode = {pool_mode}\n\
             default_pool_size = 100\n\
             ignore_startup_parameters = options,extra_float_digits\nunix_socket_dir =\n",
            users.display()
        );
        fs::write(&settings, text).and_then(|()| fs::write(&users, "\"postgres\" \"\"\n")).expect("its settings");
        let mut command = match rustix::process::geteuid().is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", program]);
                command
            }
            false => Command::new(program),
        };
        command.arg("--quiet").arg(&settings).stdin(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().expect("PgBouncer can't be started");
        let listens = async {
            while TcpStream::connect(("127.0.0.1", own_port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("PgBouncer listens", listens).await;
        let url = direct.replace(&format!(":{port}/"), &format!(":{own_port}/"));
        Pooler { url, _process: process, _folder: folder }
    }
}

#[tokio::test]
async fn nodes_need_a_pooler_that_shares_no_sessions() {
    if skip_without_own_postgres() {
        return;
    }
    let Some(program) = program() else { panic!("install the package pgbouncer (scripts/test-postgres does)") };
    let sharing = Pooler::start(program, "transaction").await;
    let (status, error) = node_setup(&sharing.url, "a", &[]).fail_to_start().await;
    assert_eq!(status, Some(1));
    assert_contains(&error, &["pooler", "directly", "pool_mode = session"]);

    let separate = Pooler::start(program, "session").await;
    let cluster = Cluster::start_on(&separate.url, 2, &[]).await;
    until_connected(&cluster).await;
    let ann = cluster.nodes[0].sign_up("Ann").await;
    cluster.nodes[0].create_room(&ann, "r").await;
    let mut clients = [cluster.nodes[0].join(&ann, "room=r").await, cluster.nodes[1].join(&ann, "room=r").await];
    for (index, text) in ["one", "two", "three", "four"].into_iter().enumerate() {
        clients[index % 2].send(text).await;
        for client in &mut clients {
            assert_eq!(client.message().await, (index as u64 + 1, text.to_owned()));
        }
    }
    for node in &cluster.nodes {
        assert!(node.metric("uproar_bus_received_total").await >= 2.0, "what was committed was not announced");
    }
}

#[tokio::test]
async fn only_a_pooler_that_shares_no_sessions_is_accepted() {
    alone!("one process is refused");
    if skip_without_own_postgres() {
        return;
    }
    let Some(program) = program() else { panic!("install the package pgbouncer (scripts/test-postgres does)") };
    let sharing = Pooler::start(program, "transaction").await;
    let data = TempDir::new().expect("a folder");
    let data = data.path().join("data").display().to_string();
    let arguments = ["--data", &data, "--database", &sharing.url, "--listen", "127.0.0.1:0", "--log", "error"];
    let output = run(&arguments).await;
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    assert_contains(&error, &["pooler", "directly", "pool_mode = session"]);

    let separate = Pooler::start(program, "session").await;
    let server = Setup::with_database(Some(separate.url.clone()), &[]).start().await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    assert_eq!(server.join(&ann, "room=r").await.round_trip("hello").await.0, 1);
}
