//! Proves that signals for a running program do not end the server.

use crate::databases::Kind;
use crate::server::{Server, until};

#[tokio::test]
async fn signals_that_ask_for_something_else_do_not_end_the_server() {
    let mut server = Server::start(Kind::Sqlite, &[]).await;
    let ann = server.user("ann").await;
    server.create_room(&ann, "r").await;
    let mut ws = server.join(&ann, "room=r").await;
    for name in ["HUP", "USR1", "USR2", "PIPE", "XFSZ"] {
        server.signal(name).await;
        ws.round_trip(name).await;
    }
    for name in ["SIGHUP", "SIGUSR1", "SIGUSR2"] {
        until("the signal is logged", async || server.setup.log().contains(name)).await;
    }
    server.stop().await;
}
