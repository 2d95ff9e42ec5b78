//! A process that was started to be measured.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(12);
/// What is kept of what it says, for the error when it ends.
const LAST_WORDS_BYTES: usize = 2048;

/// Dropped, it is stopped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts a program and waits until `find` has found what it looks for in a line of its output.
    pub fn start<T>(name: &str, command: &mut Command, find: impl Fn(&str) -> Option<T>) -> Result<(Process, T)> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't start {name} ({})", command.get_program().display()))?;
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let (lines, said) = mpsc::channel();
        // Both are read to their ends: a full pipe would stop the server.
        std::thread::spawn(move || {
            let Some(output) = output else { return };
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let (tell, last_words) = mpsc::channel();
        std::thread::spawn(move || {
            let Some(mut errors) = errors else { return };
            let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(length @ 1..) = errors.read(&mut buffer) {
                kept.extend_from_slice(&buffer[..length]);
                kept.drain(..kept.len().saturating_sub(LAST_WORDS_BYTES));
            }
            let _ = tell.send(String::from_utf8_lossy(&kept).trim().to_owned());
        });
        // From here on it is ended when something fails.
        let process = Process { name: name.to_owned(), child };
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(found) = find(&line) {
                        return Ok((process, found));
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bail!("{name} did not say within {START_TIMEOUT:?} that it listens")
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let words = last_words.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
                    bail!("{name} ended at its start: {words}")
                }
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and waits until it has.
    ///
    /// Fails where it had ended before, or does not end in time (it is killed then).
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} had ended by itself with {status}", self.name);
        }
        let id = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(id, Signal::SIGTERM).with_context(|| format!("can't end {}", self.name))?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                bail!("{} did not end within {STOP_TIMEOUT:?} and was killed", self.name);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.end();
        }
    }
}
