//! Starts and stops the processes that are measured.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(12);
/// How much of a process's standard error is kept for the error message if it exits.
const STDERR_TAIL_BYTES: usize = 2048;

/// A process, which is stopped on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts a program and waits until `find` returns something for a line of its output.
    pub fn start<T>(name: &str, command: &mut Command, find: impl Fn(&str) -> Option<T>) -> Result<(Process, T)> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("can't start {name} ({})", command.get_program().display()))?;
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let (lines, output_lines) = mpsc::channel();
        // Both streams are read to their ends, because a full pipe would block the process.
        std::thread::spawn(move || {
            let Some(output) = output else { return };
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let (send_tail, stderr_tail) = mpsc::channel();
        std::thread::spawn(move || {
            let Some(mut errors) = errors else { return };
            let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(length @ 1..) = errors.read(&mut buffer) {
                kept.extend_from_slice(&buffer[..length]);
                kept.drain(..kept.len().saturating_sub(STDERR_TAIL_BYTES));
            }
            let _ = send_tail.send(String::from_utf8_lossy(&kept).trim().to_owned());
        });
        // From here on, the process is stopped when something fails.
        let process = Process { name: name.to_owned(), child };
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match output_lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(found) = find(&line) {
                        return Ok((process, found));
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bail!("{name} did not start to listen within {START_TIMEOUT:?}")
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let words = stderr_tail.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
                    bail!("{name} exited during its start: {words}")
                }
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it at once. It must not be stopped afterwards.
    pub fn kill(&self) -> Result<()> {
        let id = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(id, Signal::SIGKILL).with_context(|| format!("can't kill {}", self.name))
    }

    /// Sends SIGTERM and waits for the process to exit.
    ///
    /// Fails if it had already exited, or if it does not exit in time and has to be killed.
    pub fn stop(mut self) -> Result<()> {
        self.terminate()
    }

    fn terminate(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} had already exited: {status}", self.name);
        }
        let id = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(id, Signal::SIGTERM).with_context(|| format!("can't stop {}", self.name))?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                bail!("{} did not exit within {STOP_TIMEOUT:?} and was killed", self.name);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.terminate();
        }
    }
}
