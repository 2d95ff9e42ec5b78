//! Proves that acknowledged messages survive `kill -9`: each is stored once, at the offset that was acknowledged.

use crate::databases::Kind;
use crate::load::{Load, assert_in_order_of_each_sender};
use crate::server::Server;

const KILLS: usize = 20;
/// The messages acknowledged before each kill. They vary, so that kills hit batches at different points.
const BEFORE_EACH: [usize; 4] = [40, 173, 90, 311];

on_each_database_and_shards! { acknowledged_messages_survive_kill_9 }

async fn acknowledged_messages_survive_kill_9(kind: Kind, shards: &str) {
    let mut server = Server::start(kind, &["--shards", shards, "--limit", "publish_rate_per_second=0"]).await;
    let mut load = Load::start(&server, 4, 2, 2).await;
    for messages in BEFORE_EACH.into_iter().cycle().take(KILLS) {
        load.wait_for_acks(messages).await;
        server.kill().await;
        server = server.restart().await;
        load.moved_to(&server);
    }
    load.wait_for_acks(100).await;
    let views = load.finish(&server).await;
    assert_in_order_of_each_sender(&views);
    for view in &views {
        assert!(view.ends.len() >= KILLS, "{} did not lose its connection at each kill", view.name);
    }
}
