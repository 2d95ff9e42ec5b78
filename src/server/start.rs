//! Starting although something is not there yet: the server waits for a database that is away, and for a while for
//! what another process has, because that process may be about to end.

use super::{holder, notify};
use crate::driver::listen::ListenError;
use anyhow::{Error, Result, anyhow};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use uproar_store::OpenError;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often the log repeats what the server waits for.
const REMINDER_INTERVAL: Duration = Duration::from_secs(60);

/// Why an attempt failed, in one line; the variant says whether to try again.
#[derive(Debug)]
pub(super) enum Obstacle {
    /// Waiting can't change it.
    Lasting(Error),
    /// It may be over later, so there is no limit to the wait.
    Away(String),
    /// Another process has it.
    Taken(String),
}

/// Makes attempts until one succeeds, or until another process has kept what is needed for `taken_timeout`.
pub(super) async fn overcome<T>(
    taken_timeout: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, Obstacle>,
) -> Result<T> {
    let mut taken_since = None;
    let mut logged: Option<(String, Instant)> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let waits_for = match attempt().await {
            Ok(value) => return Ok(value),
            Err(Obstacle::Lasting(error)) => return Err(error),
            Err(Obstacle::Away(text)) => {
                taken_since = None;
                format!("the start waits: {text}")
            }
            Err(Obstacle::Taken(text)) => {
                if taken_since.get_or_insert_with(Instant::now).elapsed() >= taken_timeout {
                    return Err(anyhow!(text));
                }
                format!("the start waits for at most {} ms (start_timeout_ms): {text}", taken_timeout.as_millis())
            }
        };
        if !logged.as_ref().is_some_and(|(text, at)| *text == waits_for && at.elapsed() < REMINDER_INTERVAL) {
            tracing::warn!("{waits_for}");
            notify::waiting(&waits_for);
            logged = Some((waits_for, Instant::now()));
        }
        sleep(pause).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

impl From<OpenError> for Obstacle {
    fn from(error: OpenError) -> Obstacle {
        match error {
            OpenError::Lasting(_) => Obstacle::Lasting(error.into()),
            OpenError::Away(text) => Obstacle::Away(text),
            OpenError::Taken(text) => Obstacle::Taken(text),
        }
    }
}

impl From<ListenError> for Obstacle {
    fn from(error: ListenError) -> Obstacle {
        match error {
            ListenError::InUse { address, option } => Obstacle::Taken(match holder::of_port(address.port()) {
                Some(holder) => format!(
                    "can't listen on {address}: the port is in use by {holder}; stop it, or choose another with \
                     {option}"
                ),
                None => error.to_string(),
            }),
            ListenError::Other { .. } => Obstacle::Lasting(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails<T>(obstacle: Obstacle) -> Result<T, Obstacle> {
        Err(obstacle)
    }

    #[tokio::test]
    async fn attempts_go_on_until_nothing_is_in_the_way() {
        let mut attempts = 0;
        let reached = overcome(Duration::MAX, async || {
            attempts += 1;
            match attempts {
                1 => fails(Obstacle::Away("gone".to_owned())),
                2 => fails(Obstacle::Taken("locked".to_owned())),
                _ => Ok(attempts),
            }
        });
        assert_eq!(reached.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn an_absence_is_waited_for_beyond_the_time_limit_of_a_lock() {
        let mut attempts = 0;
        let reached = overcome(Duration::ZERO, async || {
            attempts += 1;
            if attempts < 3 { fails(Obstacle::Away("gone".to_owned())) } else { Ok(()) }
        });
        assert!(reached.await.is_ok());
        let taken = overcome(Duration::ZERO, async || fails::<()>(Obstacle::Taken("locked".to_owned())));
        assert_eq!(taken.await.unwrap_err().to_string(), "locked");
    }

    #[tokio::test]
    async fn what_waiting_can_not_change_ends_the_start() {
        let refused = overcome(Duration::MAX, async || fails::<()>(Obstacle::Lasting(anyhow!("wrong password"))));
        assert_eq!(refused.await.unwrap_err().to_string(), "wrong password");
    }
}
