//! Tells the other nodes what this one serves, for the method `info` of the server API.

use crate::chat::Chat;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use uproar_http::{Chat as _, ChatCounts};
use uproar_store::{NodeLoad, SharedStore};

/// All shards are asked each time, and each of them names its users.
const INTERVAL: Duration = Duration::from_secs(10);
/// As long as this node has told nothing.
const FIRST_INTERVAL: Duration = Duration::from_millis(250);

/// Runs until it is dropped. `node`: the name of this one; without one, there are no others.
pub(super) async fn report(node: Option<String>, chat: Arc<Chat>, store: SharedStore) {
    let Some(node) = node else { return std::future::pending().await };
    let mut interval = FIRST_INTERVAL;
    loop {
        if let Some(ChatCounts { connections, users, subscriptions, channels }) = chat.counts().await {
            let load = NodeLoad { connections, users, subscriptions, channels };
            match store.report_load(&node, load).await {
                Ok(true) => interval = INTERVAL,
                Ok(false) => {}
                Err(error) => {
                    error.log("the other nodes can't be told what this one serves; will retry");
                    interval = INTERVAL;
                }
            }
        }
        sleep(interval).await;
    }
}
