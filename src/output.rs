//! What the process writes to standard error and standard output. A reader that is slow, stuck or gone, or a full disk,
//! costs lines of the log and nothing else: no thread of the server waits for a write, and none panics.

use anyhow::{Context, Error, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::fmt::Arguments;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};
use tracing::Metadata;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written.
const WAITING_LIMIT_LINES: usize = 1024;
/// How many of these places are reserved for lines about security, so that others can't crowd them out.
const SECURITY_LINES: usize = 256;
/// The longest line; a longer one is cut.
const LINE_LIMIT_BYTES: usize = 8 * 1024;
/// How long the process waits for the last lines to be written when it exits.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// The pause between two attempts to put something into a full queue.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(5);
/// The least time between two lines that say how many were lost.
const LOSS_REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The queue to the thread that writes the log. Empty in the tools, which write by themselves.
static LOG: OnceLock<Queue> = OnceLock::new();
static LINES_DROPPED: AtomicU64 = AtomicU64::new(0);

enum Entry {
    Line(Vec<u8>),
    /// Answered when everything before it was written or dropped.
    Flush(SyncSender<()>),
}

/// Entries on their way to the thread that writes the log.
struct Queue {
    sender: SyncSender<Entry>,
    /// How many wait.
    waiting: Arc<AtomicUsize>,
}

impl Queue {
    /// A queue of at most so many entries, and its other end.
    fn new(limit: usize) -> (Queue, Entries) {
        let (sender, receiver) = sync_channel(limit);
        let waiting = Arc::new(AtomicUsize::new(0));
        (Queue { sender, waiting: Arc::clone(&waiting) }, Entries { receiver, waiting })
    }

    fn try_send(&self, entry: Entry) -> Result<(), TrySendError<Entry>> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.sender.try_send(entry).inspect_err(|_| _ = self.waiting.fetch_sub(1, Ordering::Relaxed))
    }
}

/// The entries of a [`Queue`].
struct Entries {
    receiver: Receiver<Entry>,
    waiting: Arc<AtomicUsize>,
}

impl Entries {
    fn try_recv(&self) -> Result<Entry, TryRecvError> {
        self.receiver.try_recv().inspect(|_| self.count_received())
    }

    fn recv(&self) -> Result<Entry, RecvError> {
        self.receiver.recv().inspect(|_| self.count_received())
    }

    fn count_received(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends the log, and the panics of all threads, to standard error.
///
/// # Errors
/// If the filter is invalid, or the thread that writes can't be started.
pub fn start_log(filter: &str) -> Result<()> {
    let filter = parse_filter(filter)?;
    let (queue, entries) = Queue::new(WAITING_LIMIT_LINES);
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_lines(&entries, io::stderr().as_fd()))
        .context("can't start the thread that writes the log")?;
    let log = LOG.get_or_init(|| queue);
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(LogLines(log))
        .with_target(false)
        // It would report a failed write with `eprintln!`, which panics if that fails too.
        .log_internal_errors(false)
        .init();
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic.payload_as_str().unwrap_or("no message");
        tracing::error!("internal error at {place}: {text}; please report this");
    }));
    Ok(())
}

/// Parses a list of levels and of `TARGET=LEVEL`. `EnvFilter` takes any other word for a target, so that a misspelt
/// level would switch off the log.
///
/// # Errors
/// If there is another word in it, or nothing.
pub fn parse_filter(text: &str) -> Result<EnvFilter> {
    let directives: Vec<&str> = text.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    for directive in &directives {
        let (target, level) = directive.rsplit_once('=').unwrap_or(("all", directive));
        if target.is_empty() || !is_level(level) {
            bail!(
                "--log: '{directive}' is neither a level (off, error, warn, info, debug or trace) nor a filter such as \
                 uproar_store=debug"
            );
        }
    }
    if directives.is_empty() {
        bail!("--log: there is no level; name one, such as info");
    }
    // What the client of NATS has to say, the bus says once. Who wants to know more names it.
    EnvFilter::builder()
        .parse(format!("async_nats=off,{}", directives.join(",")))
        .map_err(|error| anyhow::anyhow!("--log: '{text}' is not a log level or filter ({error})"))
}

/// How many lines of the log were dropped because they could not be written.
pub fn lines_dropped() -> u64 {
    LINES_DROPPED.load(Ordering::Relaxed)
}

/// Rows under a heading, in columns.
pub fn table<const N: usize>(heading: [String; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(heading).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut table = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        table.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        table.push('\n');
    }
    table
}

/// Writes a line to standard error, after the log. If that is impossible, nobody is there to be told.
pub fn note(line: Arguments<'_>) {
    let line = format!("{line}\n");
    match LOG.get() {
        Some(log) => send_within(log, Entry::Line(line.into_bytes()), Instant::now() + FLUSH_TIMEOUT),
        None => drop(write_all(io::stderr().as_fd(), line.as_bytes())),
    }
}

/// An error with its causes, in one line. Some errors repeat the text of their cause, which is then left out.
pub fn one_line(error: &Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Waits until the log is written, but not for long: its reader may be stuck.
pub fn flush() {
    let Some(log) = LOG.get() else { return };
    let deadline = Instant::now() + FLUSH_TIMEOUT;
    let (done, is_done) = sync_channel(1);
    send_within(log, Entry::Flush(done), deadline);
    let _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
}

/// Writes the output of a tool to standard output. It is not an error if the reader stops early.
pub fn print(bytes: &[u8]) -> Result<()> {
    match write_all(io::stdout().as_fd(), bytes) {
        Ok(()) | Err(Errno::PIPE) => Ok(()),
        Err(error) => Err(io::Error::from(error)).context("can't write to standard output"),
    }
}

/// Writes to standard output what a running server has to say. A thread of its own waits for the reader.
pub fn announce(text: String) {
    let write = move || {
        if let Err(error) = write_all(io::stdout().as_fd(), text.as_bytes()) {
            tracing::warn!(error = %io::Error::from(error), "can't write to standard output: {}", text.trim_end());
        }
    };
    if let Err(error) = thread::Builder::new().name("stdout".to_owned()).spawn(write) {
        tracing::warn!(%error, "can't start the thread that writes to standard output");
    }
}

/// Makes the place where the subscriber writes a line.
struct LogLines(&'static Queue);

impl MakeWriter<'_> for LogLines {
    type Writer = LogLine<'static>;

    fn make_writer(&self) -> LogLine<'static> {
        LogLine { queue: self.0, limit: WAITING_LIMIT_LINES - SECURITY_LINES }
    }

    fn make_writer_for(&self, line: &Metadata<'_>) -> LogLine<'static> {
        match uproar_http::is_about_security(line.target()) {
            true => LogLine { queue: self.0, limit: WAITING_LIMIT_LINES },
            false => self.make_writer(),
        }
    }
}

/// Where the subscriber writes one line. It never fails.
struct LogLine<'a> {
    queue: &'a Queue,
    /// How many entries may wait after this one was added.
    limit: usize,
}

impl io::Write for LogLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_full = self.queue.waiting.load(Ordering::Relaxed) >= self.limit;
        if is_full || self.queue.try_send(Entry::Line(cut(line))).is_err() {
            LINES_DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of at most `LINE_LIMIT_BYTES`, which ends with a newline.
fn cut(line: &[u8]) -> Vec<u8> {
    if line.len() <= LINE_LIMIT_BYTES {
        return line.to_vec();
    }
    let mut end = LINE_LIMIT_BYTES - "…\n".len();
    // Not within a character.
    while line[end] & 0b1100_0000 == 0b1000_0000 {
        end -= 1;
    }
    [&line[..end], "…\n".as_bytes()].concat()
}

/// Queues an entry, even if the queue is full at first.
fn send_within(log: &Queue, mut entry: Entry, deadline: Instant) {
    while let Err(TrySendError::Full(rejected)) = log.try_send(entry) {
        if Instant::now() >= deadline {
            LINES_DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        entry = rejected;
        thread::sleep(FULL_QUEUE_PAUSE);
    }
}

/// The thread that writes the log. It may wait for its reader for ever; meanwhile the queue fills up, and further lines
/// are dropped.
fn write_lines(entries: &Entries, file: BorrowedFd<'_>) {
    let (mut reported, mut reported_at) = (0, None::<Instant>);
    // The last write failed, perhaps in the middle of a line.
    let mut is_broken = false;
    loop {
        let next = entries.try_recv().or_else(|error| {
            if error == TryRecvError::Disconnected {
                return Err(RecvError);
            }
            // There is room in the queue for the report.
            let lines = lines_dropped();
            let is_due = reported_at.is_none_or(|at| at.elapsed() >= LOSS_REPORT_INTERVAL);
            if !is_broken && lines > reported && is_due {
                let lost = lines - reported;
                tracing::warn!(lines = lost, "lines of the log were lost because they could not be written");
                (reported, reported_at) = (lines, Some(Instant::now()));
            }
            entries.recv()
        });
        let Ok(entry) = next else { return };
        match entry {
            Entry::Line(mut line) => {
                if is_broken {
                    line.insert(0, b'\n');
                }
                is_broken = write_all(file, &line).is_err();
                if is_broken {
                    LINES_DROPPED.fetch_add(1, Ordering::Relaxed);
                }
            }
            Entry::Flush(done) => drop(done.send(())),
        }
    }
}

/// Writes all bytes. Waits until the file accepts them, also if it is in non-blocking mode (a mode that another process
/// can set for all that share the file).
fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&file, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;
    use std::fs::File;
    use std::io::{Read, Write};

    #[test]
    fn an_error_is_one_line_that_says_each_cause_once() {
        let error = anyhow!("permission\ndenied").context("can't open x: permission\ndenied").context("can't start");
        assert_eq!(one_line(&error), "can't start: can't open x: permission denied");
    }

    #[test]
    fn a_log_filter_has_levels_and_targets_with_levels_only() {
        for filter in ["info", "WARN", "off", " info , uproar_store=debug,", "sqlx::query=trace"] {
            assert!(parse_filter(filter).is_ok(), "{filter}");
        }
        for filter in ["infos", "info,uproar_store", "uproar_store=debugs", "uproar_store=", "=info", "", ","] {
            assert!(parse_filter(filter).unwrap_err().to_string().starts_with("--log: "), "{filter}");
        }
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(cut(b"short\n"), b"short\n");
        let line = cut(format!("{}\n", "ä".repeat(LINE_LIMIT_BYTES)).as_bytes());
        assert!((LINE_LIMIT_BYTES - 1..=LINE_LIMIT_BYTES).contains(&line.len()), "{}", line.len());
        assert!(std::str::from_utf8(&line).unwrap().ends_with("ä…\n"));
    }

    #[test]
    fn a_full_queue_drops_lines_and_counts_them() {
        let (queue, entries) = Queue::new(1);
        let before = lines_dropped();
        LogLine { queue: &queue, limit: 1 }.write_all(b"first\n").unwrap();
        LogLine { queue: &queue, limit: 1 }.write_all(b"second\n").unwrap();
        assert!(lines_dropped() > before);
        assert!(matches!(entries.recv().unwrap(), Entry::Line(line) if line == b"first\n"));
    }

    #[test]
    fn lines_about_security_find_room_when_others_do_not() {
        let (queue, entries) = Queue::new(3);
        let write = |limit, line: &[u8]| LogLine { queue: &queue, limit }.write_all(line).unwrap();
        for _ in 0..9 {
            write(2, b"a request failed\n");
        }
        write(3, b"a sign-in failed\n");
        drop(queue);
        let lines: Vec<_> = std::iter::from_fn(|| entries.recv().ok()).collect();
        assert_eq!(lines.len(), 3);
        assert!(matches!(lines.last(), Some(Entry::Line(line)) if line == b"a sign-in failed\n"));
        // Room that is free again is found.
        assert_eq!(entries.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_line_that_can_not_be_written_is_counted_and_the_next_one_is_written() {
        let (queue, entries) = Queue::new(8);
        let full = File::options().write(true).open("/dev/full").unwrap();
        let before = lines_dropped();
        LogLine { queue: &queue, limit: 8 }.write_all(b"lost\n").unwrap();
        drop(queue);
        write_lines(&entries, full.as_fd());
        assert!(lines_dropped() > before);
    }

    #[test]
    fn a_pipe_that_does_not_block_gets_all_bytes_in_the_end() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let sent = vec![b'x'; 300_000];
        let length = sent.len();
        let write = thread::spawn(move || write_all(writer.as_fd(), &sent));
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        assert_eq!((write.join().unwrap(), received.len()), (Ok(()), length));
    }

    #[test]
    fn a_pipe_whose_reader_is_gone_returns_an_error() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        assert_eq!(write_all(writer.as_fd(), b"x"), Err(Errno::PIPE));
    }
}
