//! Hears of new rows in the outbox, which a trigger announces.

use super::failures::trouble;
use crate::error::one_line;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use std::time::Duration;
use tokio::time::timeout;

/// Each database has channels of its own.
const CHANNEL: &str = "uproar_outbox";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A session that listens. Something may be missed without a sign, so rows must be looked for from time to time.
pub struct OutboxListener(PgListener);

impl OutboxListener {
    pub(super) async fn connect(options: PgConnectOptions) -> Result<OutboxListener, String> {
        let connected = timeout(CONNECT_TIMEOUT, async {
            let pool = PgPoolOptions::new().max_connections(1).acquire_slow_threshold(CONNECT_TIMEOUT);
            let mut listener = PgListener::connect_with(&pool.connect_lazy_with(options)).await?;
            // The caller counts failures.
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok(OutboxListener(listener))
        })
        .await;
        connected.unwrap_or_else(|_| Err(trouble("PostgreSQL does not answer"))).map_err(|error| one_line(&error))
    }

    /// Returns when rows have been added. Cancel safe.
    ///
    /// # Errors
    /// If the session has ended, in one line.
    pub async fn heard(&mut self) -> Result<(), String> {
        match self.0.try_recv().await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err("the session that listens has ended".to_owned()),
            Err(error) => Err(one_line(&error)),
        }
    }
}
