//! The TLS certificate: from files, which are loaded again on SIGHUP or when they change, or by ACME.

use super::notify;
use crate::acme::Acme;
use crate::config::{Options, TlsSource};
use anyhow::{Context, Result};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{Signal, SignalKind, signal};
use uproar_tls::{Certificate, Config, Files, Pair, Versions};

/// How often the files are looked at. A change is acted on only when the files have stayed the same for this long, so
/// that a pair that is being replaced is not read halfway.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// What the server speaks TLS with.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) certificate: Arc<Certificate>,
    pub(super) config: Config,
    source: Source,
}

#[derive(Clone)]
enum Source {
    /// The versions are those that were loaded at the start.
    Files(Files, Versions),
    Acme(Arc<Acme>),
}

/// Loads the certificate from the files that the options name, or prepares for ACME.
///
/// # Errors
/// If it can't be used.
pub(super) fn load(options: &Options) -> Result<Option<Tls>> {
    let Some(source) = options.tls_source()? else { return Ok(None) };
    let (certificate, source) = match source {
        TlsSource::Files(files) => {
            // Before the files are read, so that a change in the meantime is noticed.
            let versions = files.versions();
            let pair = files.load()?;
            warn_if_expired(&pair);
            (Arc::new(Certificate::new(Some(pair))), Source::Files(files, versions))
        }
        TlsSource::Acme(settings) => {
            let certificate = Arc::new(Certificate::new(None));
            let acme = Acme::new(settings, &options.data, Arc::clone(&certificate))?;
            (certificate, Source::Acme(Arc::new(acme)))
        }
    };
    let config = Config::new(Arc::clone(&certificate)).context("TLS can't be set up")?;
    Ok(Some(Tls { certificate, config, source }))
}

impl Tls {
    /// Uses what an earlier server has stored. The data folder must be open.
    pub(super) fn use_stored(&self) {
        if let Source::Acme(acme) = &self.source {
            acme.use_stored();
        }
    }
}

/// Keeps the certificate up to date until it is dropped.
///
/// # Errors
/// If the signal can't be caught.
pub(super) async fn watch(tls: Option<Tls>) -> Result<()> {
    let Some(Tls { certificate, source, .. }) = tls else { return std::future::pending().await };
    let hangup = signal(SignalKind::hangup()).context("can't set up a signal handler")?;
    match source {
        Source::Files(files, versions) => watch_files(&certificate, &files, versions, hangup).await,
        Source::Acme(acme) => tokio::select! {
            () = acme.run() => {}
            () = ask_on_each(&acme, hangup) => {}
        },
    }
    Ok(())
}

/// Loads the files again when that is asked for or they have changed.
async fn watch_files(certificate: &Certificate, files: &Files, loaded: Versions, mut hangup: Signal) {
    let mut tried = loaded.clone();
    let mut last = loaded;
    loop {
        let is_asked = tokio::select! {
            Some(()) = hangup.recv() => true,
            () = tokio::time::sleep(CHECK_INTERVAL) => false,
        };
        let versions = files.versions();
        let has_changed = versions != tried && versions == last;
        last.clone_from(&versions);
        if is_asked {
            // A service manager that asks for a reload waits until it is told that the reload is done.
            notify::reloading();
        }
        if is_asked || has_changed {
            tried = versions;
            reload(certificate, files);
        }
        if is_asked {
            notify::reloaded();
        }
    }
}

async fn ask_on_each(acme: &Acme, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        notify::reloading();
        acme.ask();
        notify::reloaded();
    }
}

fn reload(certificate: &Certificate, files: &Files) {
    match files.load() {
        Ok(pair) => {
            tracing::info!("the TLS certificate was loaded again; new connections use it");
            warn_if_expired(&pair);
            certificate.replace(pair);
        }
        Err(error) => tracing::error!(%error, "the TLS certificate stays the one that was loaded before"),
    }
}

fn warn_if_expired(pair: &Pair) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if pair.expires_unix_s() <= now {
        tracing::warn!(
            expired_s_ago = now - pair.expires_unix_s(),
            "the TLS certificate has expired, so clients will refuse it; renew it and replace the files of --tls-cert \
             and --tls-key"
        );
    }
}
