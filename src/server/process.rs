//! The process: its signals, its limits, and the mode of its files.

use anyhow::{Context, Result};
use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit, setrlimit, umask};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that follows the first one within this time counts as the same one.
const SECOND_SIGNAL_AFTER: Duration = Duration::from_millis(200);

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on, these signals no longer end the process.
    pub(super) fn catch() -> Result<Signals> {
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
            std::process::exit(1);
        });
    }
}

/// Turns a write beyond the limit for file sizes (`ulimit -f`) into an error, as on a full disk, instead of a signal
/// that ends the process. To be called within a tokio runtime; the signal stays caught after its stream is dropped.
pub(super) fn survive_file_size_limit() -> Result<()> {
    catch(SignalKind::from_raw(libc::SIGXFSZ)).map(drop)
}

fn catch(kind: SignalKind) -> Result<Signal> {
    signal(kind).context("can't set up a signal handler")
}

/// Keeps other users from reading the files that the server creates: the key, the database, the lock.
pub(super) fn make_new_files_private() {
    umask(Mode::from_raw_mode(0o077));
}

/// Raises the limit of open files as far as allowed, because each connection needs one.
pub(super) fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "can't raise the limit of open files");
    }
}
