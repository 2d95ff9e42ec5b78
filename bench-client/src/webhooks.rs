//! What webhooks cost: acknowledged messages per second with a webhook for all rooms, compared with the same without.

use crate::matrix::metric::Metric;
use crate::matrix::runner::{Job, describe_faults};
use crate::matrix::workloads::{self, Driver, Subject};
use crate::output::note;
use crate::result::{Channel, Run, Scenario, Shape};
use crate::scenario;
use crate::server::Environment;
use anyhow::{Context, Result, ensure};
use memchr::memmem;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The share of the throughput without webhooks that remains at least.
pub const BAR: f64 = 0.95;
const WARM_UP: Duration = Duration::from_secs(1);

/// Measures in alternating order. Returns the ratio of each round.
pub fn measure(environment: &mut Environment, channel: Channel, rounds: u32, measured: Duration) -> Result<Vec<f64>> {
    let shape = Shape { channel, ..workloads::default_shape(Scenario::Durable) };
    let subject = Subject::Uproar { driver: Driver::Auto, shards: 1 };
    let (frame_bytes, signup) = (None, false);
    let job = Job { scenario: Scenario::Durable, subject, shape, frame_bytes, signup, warm_up: WARM_UP, measured };
    let receiver = Receiver::start()?;
    let folder = environment.data_folder()?;
    let config = write_config(folder.path(), receiver.port)?;
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        // The first may have an advantage, so each is first in turn.
        let (with, without) = if round % 2 == 1 {
            let with = run(environment, &job, Some((&config, &receiver)))?;
            (with, run(environment, &job, None)?)
        } else {
            let without = run(environment, &job, None)?;
            (run(environment, &job, Some((&config, &receiver)))?, without)
        };
        ratios.push(with / without);
    }
    Ok(ratios)
}

/// Acknowledged messages per second.
fn run(environment: &mut Environment, job: &Job, webhook: Option<(&Path, &Receiver)>) -> Result<f64> {
    let before = environment.options.clone();
    if let Some((config, receiver)) = webhook {
        let config = config.display().to_string();
        environment.options.extend(["--config", &config, "--outgoing-allow", "127.0.0.1"].map(str::to_owned));
        receiver.publications.store(0, Ordering::Relaxed);
    }
    let run = scenario::run(environment, job);
    environment.options = before;
    let run = run?;
    let first = run.first_fault.as_deref().unwrap_or_default();
    ensure!(!run.faults.any(), "the run is void: {}: {first}", describe_faults(&run.faults));
    let what = match webhook {
        None => "without".to_owned(),
        Some((_, receiver)) => {
            let (publications, posts) =
                (receiver.publications.load(Ordering::Relaxed), receiver.posts.swap(0, Ordering::Relaxed));
            ensure!(publications > 0, "the webhook's receiver got nothing");
            format!("with a webhook ({publications} publications in {posts} POSTs)")
        }
    };
    note(format_args!("{what}: {}", crate::progress::summary_line(&run).trim_start_matches("uproar").trim()));
    acknowledged(&run)
}

fn acknowledged(run: &Run) -> Result<f64> {
    Metric::AcknowledgedPerSecond.of(run).context("nothing was acknowledged")
}

fn write_config(folder: &Path, port: u16) -> Result<PathBuf> {
    let (secret, config) = (folder.join("secret"), folder.join("uproar.toml"));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&secret)?;
    file.write_all(b"whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n")?;
    let toml = format!(
        "[[webhook]]\nname = \"bench\"\nurl = \"http://127.0.0.1:{port}/\"\nsecret_file = \"{}\"\n",
        secret.display()
    );
    fs::write(&config, toml)?;
    Ok(config)
}

/// Accepts everything, and counts it.
struct Receiver {
    port: u16,
    posts: Arc<AtomicU64>,
    publications: Arc<AtomicU64>,
}

impl Receiver {
    fn start() -> Result<Receiver> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        let port = listener.local_addr()?.port();
        let receiver = Receiver { port, posts: Arc::default(), publications: Arc::default() };
        let (posts, publications) = (Arc::clone(&receiver.posts), Arc::clone(&receiver.publications));
        std::thread::Builder::new().name("receiver".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let (posts, publications) = (Arc::clone(&posts), Arc::clone(&publications));
                std::thread::spawn(move || {
                    // It fails when the server ends.
                    let _ = serve(&stream, &posts, &publications);
                });
            }
        })?;
        Ok(receiver)
    }
}

fn serve(mut stream: &TcpStream, posts: &AtomicU64, publications: &AtomicU64) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut body = Vec::new();
    loop {
        let (mut length, mut line) = (0, String::new());
        while reader.read_line(&mut line)? > 0 && line.trim_end() != "" {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
            line.clear();
        }
        ensure!(length > 0, "the connection has ended");
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        posts.fetch_add(1, Ordering::Relaxed);
        let count = memmem::find_iter(&body, TEXT).count();
        publications.fetch_add(count as u64, Ordering::Relaxed);
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
    }
}

/// Each publication begins with it.
const TEXT: &[u8] = b"{\"type\":\"message\"";

/// The median.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
    }
}
