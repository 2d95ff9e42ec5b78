//! Methods about the server itself.

use super::caller::Caller;
use super::error::{Answered, MethodError};
use super::params::Params;
use crate::chat::ChatCounts;
use serde_json::{Value, json};
use uproar_core::protocol::INTERNAL;
use uproar_store::{NodeLoad, OtherNode};

impl Caller {
    /// `{}`: `{nodes}`: this one as it is now, and the others as they last told.
    pub(super) async fn info(&self, params: &mut Params<'_>) -> Answered {
        params.finish()?;
        let app = &self.app;
        let counts = app.chat.counts().await.ok_or_else(|| {
            MethodError::new(INTERNAL, "the server could not count its connections in time; try again")
        })?;
        let ChatCounts { connections, users, subscriptions, channels } = counts;
        let own_name = &app.settings.node_name;
        let own = OtherNode {
            name: own_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(app.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            load: Some(NodeLoad { connections, users, subscriptions, channels }),
        };
        let others = app.store.other_nodes(own_name).await?;
        let nodes: Vec<Value> = std::iter::once(&own).chain(&others).map(object_of).collect();
        Ok(json!({"nodes": nodes}).to_string())
    }
}

fn object_of(node: &OtherNode) -> Value {
    let OtherNode { name, version, uptime_ms, load } = node;
    let mut object = json!({"uid": name, "name": name, "version": version, "uptime": uptime_ms / 1000});
    if let Some(NodeLoad { connections, users, subscriptions, channels }) = load {
        object["num_clients"] = (*connections).into();
        object["num_users"] = (*users).into();
        object["num_subs"] = (*subscriptions).into();
        object["num_channels"] = (*channels).into();
    }
    object
}
