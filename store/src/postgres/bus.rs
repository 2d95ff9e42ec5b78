//! PostgreSQL's NOTIFY as a bus: short texts that every node of a cluster receives. A transaction that only notifies
//! writes nothing to disk. Nothing that is sent is kept: a session that does not listen has missed it.

use super::failures::trouble;
use crate::error::one_line;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgNotification, PgPoolOptions};
use std::time::Duration;
use tokio::time::timeout;

/// Each database has channels of its own.
const CHANNEL: &str = "uproar";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a session that should hear itself may hear nothing before it sends something to itself.
const SILENCE_LIMIT: Duration = Duration::from_secs(1);

/// The bus of the nodes that share a PostgreSQL database. It has no state: senders and receivers have sessions of their
/// own.
#[derive(Clone, Debug)]
pub struct PostgresBus {
    options: PgConnectOptions,
    cluster: String,
}

/// Sends to all nodes, in order.
pub struct BusSender {
    connection: PgConnection,
}

/// Receives what all nodes send, this one included.
pub struct BusReceiver {
    listener: PgListener,
    /// The channel on which it sends to itself, once it has done so.
    own_channel: Option<String>,
}

impl PostgresBus {
    /// The longest message, in bytes. PostgreSQL's limit is 7,999.
    pub const MESSAGE_LIMIT_BYTES: usize = 7_900;
    /// The longest text of a `live:` message, as a JSON string: it fits into a message.
    pub const LIVE_LIMIT_BYTES: usize = 7_000;

    pub(super) fn new(options: PgConnectOptions, cluster: String) -> PostgresBus {
        PostgresBus { options, cluster }
    }

    /// The id of the cluster, which its first node has drawn.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// # Errors
    /// If PostgreSQL can't be reached, in one line.
    pub async fn sender(&self) -> Result<BusSender, String> {
        let connection = within(CONNECT_TIMEOUT, self.options.connect()).await?;
        Ok(BusSender { connection })
    }

    /// Receives everything that is sent after this has returned.
    ///
    /// # Errors
    /// If PostgreSQL can't be reached, in one line.
    pub async fn receiver(&self) -> Result<BusReceiver, String> {
        let listener = within(CONNECT_TIMEOUT, async {
            // A slow connection is reported as a bus that does not work.
            let pool = PgPoolOptions::new().max_connections(1).acquire_slow_threshold(CONNECT_TIMEOUT);
            let pool = pool.connect_lazy_with(self.options.clone());
            let mut listener = PgListener::connect_with(&pool).await?;
            // A session that ends has missed something, which the caller must know.
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok(listener)
        })
        .await?;
        Ok(BusReceiver { listener, own_channel: None })
    }
}

impl BusSender {
    /// Sends texts of at most [`PostgresBus::MESSAGE_LIMIT_BYTES`], without U+0000, in one round trip.
    ///
    /// # Errors
    /// If it is unknown whether they were sent, in one line. The sender can't be used any more.
    pub async fn send(&mut self, messages: &[String]) -> Result<(), String> {
        within(SEND_TIMEOUT, async {
            let sql = "SELECT count(pg_notify($1, message)) FROM unnest($2) AS message";
            sqlx::query(sql).bind(CHANNEL).bind(messages).execute(&mut self.connection).await?;
            Ok(())
        })
        .await
    }
}

impl BusReceiver {
    /// The next message. Cancel safe.
    ///
    /// # Errors
    /// If the session has ended, in one line. The receiver can't be used any more.
    pub async fn next(&mut self) -> Result<String, String> {
        loop {
            let notification = self.notification().await?;
            if notification.channel() == CHANNEL {
                return Ok(notification.payload().to_owned());
            }
        }
    }

    /// The next message, or `None` if the session has heard itself, which it tries while nothing else comes. A pooler can
    /// keep a session open and pass on nothing. Not cancel safe.
    ///
    /// # Errors
    /// If the session has ended or hears nothing, in one line. The receiver can't be used any more.
    pub async fn next_checked(&mut self) -> Result<Option<String>, String> {
        if let Ok(notification) = timeout(SILENCE_LIMIT, self.notification()).await {
            return notification.map(|it| (it.channel() == CHANNEL).then(|| it.payload().to_owned()));
        }
        within(SEND_TIMEOUT, self.send_to_itself()).await?;
        match timeout(SEND_TIMEOUT, self.notification()).await {
            Ok(notification) => notification.map(|it| (it.channel() == CHANNEL).then(|| it.payload().to_owned())),
            Err(_) => Err("what the session sends to itself does not come back; connect without a pooler".to_owned()),
        }
    }

    async fn send_to_itself(&mut self) -> Result<(), sqlx::Error> {
        let channel = match &self.own_channel {
            Some(channel) => channel,
            None => {
                let name = format!("{CHANNEL}_{:016x}", getrandom::u64().unwrap_or_default());
                self.listener.listen(&name).await?;
                self.own_channel.insert(name)
            }
        };
        sqlx::query("SELECT pg_notify($1, '')").bind(channel).execute(&mut self.listener).await?;
        Ok(())
    }

    async fn notification(&mut self) -> Result<PgNotification, String> {
        match self.listener.try_recv().await {
            Ok(Some(notification)) => Ok(notification),
            Ok(None) => Err("the session that listens has ended".to_owned()),
            Err(error) => Err(one_line(&error)),
        }
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, String> {
    let done = timeout(limit, work).await.unwrap_or_else(|_| Err(trouble("PostgreSQL does not answer")));
    done.map_err(|error| one_line(&error))
}
