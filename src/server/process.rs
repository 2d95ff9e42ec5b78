//! The process: its signals, its limits, and the mode of its files.

use super::notify;
use crate::output;
use anyhow::{Context, Result};
use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit, setrlimit, umask};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that follows the first one within this time counts as the same one.
const SECOND_SIGNAL_AFTER: Duration = Duration::from_millis(200);

/// SIGTERM and SIGINT, which stop the server. Other signals that operators send do not.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on, no signal that is meant for a running program ends the process. To be called within a tokio
    /// runtime.
    ///
    /// `reloads`: SIGHUP reloads something, whose task deals with it.
    pub(super) fn catch(reloads: bool) -> Result<Signals> {
        // A reload, a closed terminal, or a script that rotates logs.
        let hangup = catch(SignalKind::hangup())?;
        if !reloads {
            tokio::spawn(reload_on_each(hangup));
        }
        // A script that expects another server.
        for (name, kind) in [("SIGUSR1", SignalKind::user_defined1()), ("SIGUSR2", SignalKind::user_defined2())] {
            tokio::spawn(log_each(name, catch(kind)?));
        }
        // A write beyond the limit for file sizes (`ulimit -f`) becomes an error, as on a full disk. The signal stays
        // caught after its stream is dropped.
        drop(catch(SignalKind::from_raw(libc::SIGXFSZ))?);
        Ok(Signals { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    /// Waits for a signal and returns its name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Ends the process at the next signal, even if the server has not finished stopping.
    pub(super) fn exit_on_second(mut self) {
        tokio::spawn(async move {
            // Some programs signal a process and then its group, which must not count as two signals.
            let first = Instant::now();
            loop {
                self.next().await;
                if first.elapsed() >= SECOND_SIGNAL_AFTER {
                    break;
                }
            }
            tracing::warn!("stopped immediately by a second signal");
            output::flush();
            std::process::exit(1);
        });
    }
}

/// A service manager that asks for a reload waits until it is told that the reload is done.
async fn reload_on_each(mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        notify::reloading();
        tracing::info!(signal = "SIGHUP", "nothing is reloaded: options are read when the server starts");
        notify::reloaded();
    }
}

async fn log_each(signal: &'static str, mut stream: Signal) {
    while stream.recv().await.is_some() {
        tracing::info!(signal, "this signal changes nothing");
    }
}

fn catch(kind: SignalKind) -> Result<Signal> {
    signal(kind).context("can't set up a signal handler")
}

/// Keeps other users from reading the files that the server creates: the key, the database, the lock.
pub(super) fn make_new_files_private() {
    umask(Mode::from_raw_mode(0o077));
}

/// Raises the limit of open files as far as allowed, because each connection needs one. Returns it.
pub(super) fn raise_file_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "can't raise the limit of open files");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
