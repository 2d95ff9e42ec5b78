//! The TLS certificate: loaded at the start, and again on SIGHUP or when its files change.

use super::notify;
use crate::config::Options;
use anyhow::{Context, Result};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use uproar_tls::{Certificate, Config};

/// How often the files are looked at. A change is acted on only when the files have stayed the same for this long, so
/// that a pair that is being replaced is not read halfway.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// What the server speaks TLS with.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) certificate: Arc<Certificate>,
    pub(super) config: Config,
}

/// Loads the certificate that the options name.
///
/// # Errors
/// If it can't be used.
pub(super) fn load(options: &Options) -> Result<Option<Tls>> {
    let Some((certificate, key)) = options.tls_files()? else { return Ok(None) };
    let certificate = Arc::new(Certificate::load(certificate, key)?);
    warn_if_expired(&certificate);
    let config = Config::new(Arc::clone(&certificate)).context("TLS can't be set up")?;
    Ok(Some(Tls { certificate, config }))
}

/// Loads the certificate again when that is asked for or its files have changed. Runs until it is dropped.
///
/// # Errors
/// If the signal can't be caught.
pub(super) async fn watch(certificate: Option<Arc<Certificate>>) -> Result<()> {
    let Some(certificate) = certificate else { return std::future::pending().await };
    let mut hangup = signal(SignalKind::hangup()).context("can't set up a signal handler")?;
    let mut tried = certificate.loaded_versions();
    let mut last = tried.clone();
    loop {
        let is_asked = tokio::select! {
            Some(()) = hangup.recv() => true,
            () = tokio::time::sleep(CHECK_INTERVAL) => false,
        };
        let versions = certificate.versions();
        let has_changed = versions != tried && versions == last;
        last.clone_from(&versions);
        if is_asked {
            // A service manager that asks for a reload waits until it is told that the reload is done.
            notify::reloading();
        }
        if is_asked || has_changed {
            tried = versions;
            reload(&certificate);
        }
        if is_asked {
            notify::reloaded();
        }
    }
}

fn reload(certificate: &Certificate) {
    match certificate.reload() {
        Ok(()) => {
            tracing::info!("the TLS certificate was loaded again; new connections use it");
            warn_if_expired(certificate);
        }
        Err(error) => tracing::error!(%error, "the TLS certificate stays the one that was loaded before"),
    }
}

fn warn_if_expired(certificate: &Certificate) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if certificate.expires_unix_s() <= now {
        tracing::warn!(
            expired_s_ago = now - certificate.expires_unix_s(),
            "the TLS certificate has expired, so clients will refuse it; renew it and replace the files of --tls-cert \
             and --tls-key"
        );
    }
}
