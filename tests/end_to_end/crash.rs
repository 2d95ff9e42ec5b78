//! `kill -9` in the middle of a stream, again and again: whatever was acknowledged is there, once, where it was told.

use crate::databases::Kind;
use crate::load::{Load, assert_in_order_of_each_sender};
use crate::server::Server;

const KILLS: usize = 20;
/// Acknowledged before each kill; different, so that it does not always come at the same point of a batch.
const BEFORE_EACH: [usize; 4] = [40, 173, 90, 311];

on_each_database_and_shards! { what_was_acknowledged_survives_kill_9 }

async fn what_was_acknowledged_survives_kill_9(kind: Kind, shards: &str) {
    let mut server = Server::start(kind, &["--shards", shards, "--limit", "publish_rate_per_second=0"]).await;
    let mut load = Load::start(&server, 4, 2, 2).await;
    for messages in BEFORE_EACH.into_iter().cycle().take(KILLS) {
        load.more(messages).await;
        server.kill().await;
        server = server.restart().await;
        load.moved_to(&server);
    }
    load.more(100).await;
    let views = load.finish(&server).await;
    assert_in_order_of_each_sender(&views);
    for view in &views {
        assert!(view.ends.len() >= KILLS, "{} did not notice each kill", view.name);
    }
}
