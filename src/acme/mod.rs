//! Certificates by ACME (RFC 8555): ordered from a certificate authority, proven on the port that speaks TLS
//! (tls-alpn-01, RFC 8737), kept in the data folder, and renewed while the server runs.
//!
//! `settings` is what the options say, `files` what is kept, `client` the HTTPS client, `order` one order, and
//! `schedule` when to order.

mod client;
mod files;
mod order;
mod schedule;
mod settings;

pub use files::Files;
pub use settings::{DEFAULT_DIRECTORY, Settings};

use anyhow::Result;
use client::Client;
use order::Failure;
use std::collections::VecDeque;
use std::mem::{Discriminant, discriminant};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use uproar_tls::{Certificate, Pair};

/// The longest sleep. The clock may be set, and a machine may be suspended.
const LONGEST_SLEEP: Duration = Duration::from_secs(15 * 60);
/// How many attempts an operator can ask for by SIGHUP within `FORCED_WITHIN`. Let's Encrypt allows five failures per
/// hour and domain.
const FORCED_ATTEMPTS: usize = 4;
const FORCED_WITHIN: Duration = Duration::from_secs(3600);
/// How long a new certificate is left alone, even if the clock says that it must be renewed.
const SUCCESS_PAUSE: Duration = Duration::from_secs(3600);

/// Keeps a certificate valid.
pub struct Acme {
    settings: Settings,
    files: Files,
    certificate: Arc<Certificate>,
    /// Somebody has asked for an attempt.
    asked: Notify,
}

impl Acme {
    /// `data`: the data folder.
    ///
    /// # Errors
    /// If the file of `--tls-acme-ca` can't be used.
    pub fn new(settings: Settings, data: &Path, certificate: Arc<Certificate>) -> Result<Acme> {
        check_ca(&settings)?;
        let files = Files::new(data, &settings);
        Ok(Acme { settings, files, certificate, asked: Notify::new() })
    }

    /// Uses the stored certificate if there is one. To be called before TLS connections are accepted.
    pub fn use_stored(&self) {
        match self.files.certificate() {
            Ok(Some(pair)) => self.certificate.replace(pair),
            Ok(None) => {}
            Err(error) => tracing::error!("{}; a new one is ordered", crate::output::one_line(&error)),
        }
        if !self.certificate.pair().is_some_and(|pair| covers(&pair, &self.settings)) {
            tracing::warn!(
                "there is no certificate yet for {}; it is ordered from {}, and until it comes, TLS connections are \
                 refused",
                self.settings.domains.join(", "),
                self.settings.directory
            );
        }
    }

    /// After a failure, tries again now instead of later.
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    /// Orders and renews until it is dropped.
    pub async fn run(&self) {
        let mut attempts = Attempts::default();
        loop {
            let wait = self.until_renewal().max(attempts.pause_left());
            if !wait.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(wait.min(LONGEST_SLEEP)) => continue,
                    () = self.asked.notified() => {}
                }
                if !attempts.may_be_forced(wait) {
                    continue;
                }
            }
            attempts.begin();
            match order::obtain(&self.settings, &self.files, &self.certificate).await {
                Ok(pair) => {
                    tracing::info!(
                        days = pair.expires_unix_s().saturating_sub(now_unix_s()) / 86_400,
                        "there is a new TLS certificate for {}; new connections use it",
                        self.settings.domains.join(", ")
                    );
                    self.certificate.replace(pair);
                    attempts.succeeded();
                }
                Err(failure) => {
                    let pause = attempts.failed(&failure);
                    tracing::error!(
                        "no certificate for {}: {failure}; the next attempt is in {} minutes, or on SIGHUP",
                        self.settings.domains.join(", "),
                        pause.as_millis().div_ceil(60_000)
                    );
                }
            }
        }
    }

    /// How long until the certificate must be renewed; zero if there is none, or one for other domains.
    fn until_renewal(&self) -> Duration {
        let pair = self.certificate.pair().filter(|pair| covers(pair, &self.settings));
        let renewal_unix_s = pair.as_ref().map_or(0, schedule::renewal_unix_s);
        Duration::from_secs(renewal_unix_s.saturating_sub(now_unix_s()))
    }
}

/// What is remembered of attempts, so that a certificate authority is not asked too often.
#[derive(Default)]
struct Attempts {
    /// The times of the last attempts, at most `FORCED_ATTEMPTS`.
    last: VecDeque<Instant>,
    /// How many have failed in a row for this kind of reason.
    failures: u32,
    reason: Option<Discriminant<Failure>>,
    next: Option<Instant>,
}

impl Attempts {
    fn begin(&mut self) {
        self.last.push_back(Instant::now());
        if self.last.len() > FORCED_ATTEMPTS {
            self.last.pop_front();
        }
    }

    fn succeeded(&mut self) {
        self.failures = 0;
        self.pause(SUCCESS_PAUSE);
    }

    /// Returns how long to wait.
    fn failed(&mut self, failure: &Failure) -> Duration {
        if self.reason.replace(discriminant(failure)) != Some(discriminant(failure)) {
            self.failures = 0;
        }
        self.failures += 1;
        let pause = schedule::pause(failure, self.failures, random());
        self.pause(pause);
        pause
    }

    fn pause(&mut self, pause: Duration) {
        self.next = Some(Instant::now() + pause);
    }

    fn pause_left(&self) -> Duration {
        self.next.map(|next| next.saturating_duration_since(Instant::now())).unwrap_or_default()
    }

    /// Whether SIGHUP leads to an attempt now.
    fn may_be_forced(&self, wait: Duration) -> bool {
        if self.failures == 0 {
            tracing::info!("the TLS certificate need not be renewed yet");
            return false;
        }
        let has_tried_much = self.last.len() == FORCED_ATTEMPTS
            && self.last.front().is_some_and(|first| first.elapsed() < FORCED_WITHIN);
        if has_tried_much {
            tracing::warn!(
                "no certificate is ordered now, because there were {FORCED_ATTEMPTS} attempts within an hour, and \
                 certificate authorities limit them; the next one is in {} minutes",
                wait.as_secs().div_ceil(60)
            );
        }
        !has_tried_much
    }
}

/// Whether the certificate is for exactly the domains of the options.
pub fn covers(pair: &Pair, settings: &Settings) -> bool {
    let domains = pair.domains();
    domains.len() == settings.domains.len() && settings.domains.iter().all(|domain| domains.contains(domain))
}

/// # Errors
/// If the file of `--tls-acme-ca` can't be used.
pub fn check_ca(settings: &Settings) -> Result<()> {
    if settings.ca.is_some() {
        Client::new(settings)?;
    }
    Ok(())
}

/// Asks the authority for its directory.
///
/// # Errors
/// If it can't be had.
pub async fn find_authority(settings: &Settings) -> Result<()> {
    Client::new(settings)?.get_directory(settings).await
}

fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// From 0 to 1.
fn random() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}
