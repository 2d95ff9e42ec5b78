//! Methods about the server itself.

use super::caller::Caller;
use super::error::{Answered, MethodError};
use super::params::Params;
use serde_json::json;
use uproar_core::protocol::INTERNAL;

impl Caller {
    /// `{}`: `{nodes}`, of which this one answers.
    pub(super) async fn info(&self, params: &mut Params<'_>) -> Answered {
        params.finish()?;
        let app = &self.app;
        let counts = app.chat.counts().await.ok_or_else(|| {
            MethodError::new(INTERNAL, "the server could not count its connections in time; try again")
        })?;
        let node = json!({
            "uid": app.settings.node_name,
            "name": app.settings.node_name,
            "version": env!("CARGO_PKG_VERSION"),
            "num_clients": counts.connections,
            "num_users": counts.users,
            "num_subs": counts.subscriptions,
            "num_channels": counts.channels,
            "uptime": app.started.elapsed().as_secs(),
        });
        Ok(json!({"nodes": [node]}).to_string())
    }
}
