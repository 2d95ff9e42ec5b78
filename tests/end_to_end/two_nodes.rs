//! Runs the tests on two nodes.
//!
//! With `UPROAR_TEST_NODES=2`, every server on PostgreSQL is two nodes. Each connection of a test leads to the other
//! node than the one before it, so its clients and requests are spread over both. What stops or kills a server does so
//! with both. A test that can only be about one process says why, with [`alone`], and is skipped then.

use crate::server::{metric, until};
use crate::tunnel::BUFFER_BYTES;
use socket2::SockRef;
use std::fs::{DirBuilder, File};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// `2` runs the tests on two nodes.
const NODES_VARIABLE: &str = "UPROAR_TEST_NODES";

/// Whether servers on PostgreSQL are two nodes.
pub fn are_two() -> bool {
    match std::env::var(NODES_VARIABLE).as_deref() {
        Ok("2") => true,
        Ok("1") | Err(_) => false,
        Ok(other) => panic!("{NODES_VARIABLE}={other} is neither 1 nor 2"),
    }
}

/// Skips the rest of a test on two nodes, and says why it is about one process.
macro_rules! alone {
    ($reason:literal) => {
        if crate::two_nodes::are_two() {
            eprintln!("skipped on two nodes: {}", $reason);
            return;
        }
    };
}
pub(crate) use alone;

fn create_key(data: &Path, key: &[u8]) {
    DirBuilder::new().mode(0o700).recursive(true).create(data).expect("a data folder");
    let path = data.join("signing.key");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path).expect("a key file");
    file.write_all(key).expect("a key");
}

/// Copies the first node's signing key to the second one. If the first one has none yet, it gets a new one.
pub fn share_key([a, b]: [PathBuf; 2]) {
    let key = std::fs::read(a.join("signing.key")).unwrap_or_else(|_| {
        let mut key = [0; 32];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut key)).expect("random bytes");
        create_key(&a, &key);
        key.to_vec()
    });
    create_key(&b, &key);
}

/// Waits until two nodes have heard each other, and what one commits is announced to the other.
pub async fn until_acquainted(ports: [u16; 2]) {
    for port in ports {
        until("the nodes hear each other", async || metric(port, "uproar_bus_peers").await == 1.0).await;
    }
}

/// Opens a port whose connections lead to these ports in turn, or to the one where a server listens. It exists as long
/// as the test. The buffers are small, so that a slow reader is slow for the server too.
pub async fn spread(ports: [u16; 2]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let mut turn = 0;
        while let Ok((client, _)) = listener.accept().await {
            turn += 1;
            tokio::spawn(carry(client, ports[turn % 2], ports[(turn + 1) % 2]));
        }
    });
    port
}

/// Carries a connection to the first of these ports, or else to the other one.
async fn carry(mut client: TcpStream, port: u16, other: u16) {
    let mut server = connect(port).await;
    if server.is_err() {
        server = connect(other).await;
    }
    // Without a server, the connection is closed.
    if let Ok(mut server) = server {
        let _ = client.set_nodelay(true);
        let _ = SockRef::from(&client).set_send_buffer_size(BUFFER_BYTES as usize);
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}

async fn connect(port: u16) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    let stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
