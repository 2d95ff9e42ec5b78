//! A history checker from outside: random faults under the load of clients that pipeline, for `UPROAR_CHAOS_SECONDS`.
//! `make chaos` runs it for longer than `make test` does.
//!
//! The load (see `load.rs`) compares each acknowledged id, offset and text, and what each client has seen, with the
//! history and with the database.

use crate::databases::{Backdoor, Kind};
use crate::failover::{End, Pair};
use crate::load::{Load, assert_in_order_of_each_sender};
use crate::server::{Server, Setup};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long each of the tests goes on.
const SECONDS_VARIABLE: &str = "UPROAR_CHAOS_SECONDS";
const SECONDS_DEFAULT: u64 = 6;
/// Decides which faults occur, and in which order.
pub const SEED_VARIABLE: &str = "UPROAR_CHAOS_SEED";
/// After each fault, so many messages are acknowledged before the next one.
const MESSAGES_BETWEEN: usize = 50;
/// How long it may take until a message is stored again after the new primary can be reached.
const FAILOVER_LIMIT: Duration = Duration::from_secs(5);
/// With its default limits the server would slow down a load like this one.
const OPTIONS: [&str; 2] = ["--limit", "publish_rate_per_second=0"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// `kill -9`
    KillServer,
    StopServer,
    /// Longer than a sender waits.
    HoldCommits,
    KillDatabase,
    TerminateSessions,
    ReadOnly,
    BreakConnections,
    SilentConnections,
    Blackout,
    FailOver(u8),
}

const ON_BOTH: [Fault; 3] = [Fault::KillServer, Fault::StopServer, Fault::HoldCommits];

const ON_POSTGRES: [Fault; 9] = [
    Fault::KillDatabase,
    Fault::TerminateSessions,
    Fault::ReadOnly,
    Fault::BreakConnections,
    Fault::SilentConnections,
    Fault::Blackout,
    Fault::FailOver(0),
    Fault::FailOver(1),
    Fault::FailOver(2),
];

#[tokio::test]
async fn nothing_is_lost_on_sqlite_whatever_happens() {
    let server = Server::start(Kind::Sqlite, &OPTIONS).await;
    Chaos::start(server, None, ON_BOTH.to_vec()).await.run().await;
}

#[tokio::test]
async fn nothing_is_lost_on_postgres_whatever_happens() {
    let Some(pair) = Pair::start().await else { return };
    let server = Setup::with_database(Some(pair.url()), &OPTIONS).start().await;
    Chaos::start(server, Some(pair), [&ON_BOTH[..], &ON_POSTGRES].concat()).await.run().await;
}

struct Chaos {
    server: Server,
    pair: Option<Pair>,
    load: Load,
    /// Each of them occurs before one occurs again.
    faults: Vec<Fault>,
    /// How often each fault occurred, and the longest time until a message was acknowledged after it.
    report: BTreeMap<Fault, (u32, Duration)>,
    seed: u64,
    random: Random,
}

impl Chaos {
    async fn start(server: Server, pair: Option<Pair>, faults: Vec<Fault>) -> Chaos {
        // A restart after a failover makes clients start over.
        let load = Load::start_over(std::slice::from_ref(&server), 4, 2, 2, pair.is_some()).await;
        let seed = variable(SEED_VARIABLE).unwrap_or_else(Random::seed);
        Chaos { server, pair, load, faults, report: BTreeMap::new(), seed, random: Random(seed) }
    }

    async fn run(mut self) {
        println!("chaos: {SEED_VARIABLE}={}", self.seed);
        let length = Duration::from_secs(variable(SECONDS_VARIABLE).unwrap_or(SECONDS_DEFAULT));
        let started = Instant::now();
        let mut waiting = Vec::new();
        while started.elapsed() < length {
            if waiting.is_empty() {
                waiting.clone_from(&self.faults);
            }
            let index = self.random.below(waiting.len());
            let fault = waiting.swap_remove(index);
            self.load.wait_for_acks(MESSAGES_BETWEEN).await;
            let ended = self.cause(fault).await;
            self.load.wait_for_acks(1).await;
            let (count, longest) = self.report.entry(fault).or_default();
            *count += 1;
            *longest = (*longest).max(ended.elapsed());
            if let (Fault::FailOver(_), Some(pair)) = (fault, &mut self.pair) {
                self.load.wait_for_acks(MESSAGES_BETWEEN).await;
                pair.rejoin().await;
            }
        }
        self.load.wait_for_acks(MESSAGES_BETWEEN).await;
        let (acknowledged, unknown) = (self.load.ledger.count(), self.load.ledger.errors("100"));
        let views = self.load.finish(&self.server).await;
        assert_in_order_of_each_sender(&views);
        println!(
            "chaos: {acknowledged} messages acknowledged, {unknown} unknown outcomes; {} views, the history and the \
             database agree",
            views.len()
        );
        let mut failover_longest = Duration::ZERO;
        for (fault, (count, longest)) in self.report {
            println!("chaos: {count} × {fault:?}; acknowledged again after {} ms at most", longest.as_millis());
            if matches!(fault, Fault::FailOver(_)) {
                failover_longest = failover_longest.max(longest);
            }
        }
        // Measured only in longer runs, which have the machine to themselves.
        assert!(
            std::env::var_os(SECONDS_VARIABLE).is_none() || failover_longest <= FAILOVER_LIMIT,
            "after a failover, nothing was stored for {failover_longest:?}"
        );
    }

    /// Causes a fault. Returns when it was over.
    async fn cause(&mut self, fault: Fault) -> Instant {
        match (fault, &mut self.pair) {
            (Fault::KillServer, _) => {
                self.server.kill().await;
                return self.restart_server().await;
            }
            (Fault::StopServer, _) => {
                self.server.stop().await;
                return self.restart_server().await;
            }
            (Fault::HoldCommits, pair) => {
                let mut backdoor = match pair {
                    Some(pair) => Backdoor::Postgres(pair.shell().await),
                    None => self.server.setup.backdoor().await,
                };
                backdoor.hold_commits().await;
                self.pause(6_000).await;
                backdoor.release_commits().await;
            }
            (Fault::KillDatabase, Some(pair)) => pair.crash().await,
            (Fault::TerminateSessions, Some(pair)) => pair.run(TERMINATE).await,
            (Fault::ReadOnly, Some(pair)) => {
                let name = pair.database().to_owned();
                pair.run(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
                pair.run(TERMINATE).await;
                self.pause(3_000).await;
                if let Some(pair) = &self.pair {
                    pair.run(&format!(
                        "SET default_transaction_read_only = off;
                         ALTER DATABASE {name} RESET default_transaction_read_only"
                    ))
                    .await;
                }
            }
            (Fault::BreakConnections, Some(pair)) => pair.proxy.break_off(),
            (Fault::SilentConnections, Some(pair)) => pair.proxy.silence(),
            (Fault::Blackout, Some(pair)) => {
                pair.proxy.black_out();
                self.pause(6_000).await;
                if let Some(pair) = &self.pair {
                    pair.proxy.light_up();
                }
            }
            (Fault::FailOver(end), Some(pair)) => {
                pair.fail_over([End::Crash, End::Shutdown, End::Silence][usize::from(end)]).await;
            }
            (fault, None) => unreachable!("{fault:?} needs PostgreSQL"),
        }
        Instant::now()
    }

    async fn restart_server(&mut self) -> Instant {
        let again = Instant::now();
        self.server.start_again().await;
        self.load.moved_to(&self.server);
        again
    }

    /// Lets the fault last for a random time.
    async fn pause(&mut self, limit_ms: usize) {
        let pause_ms = self.random.below(limit_ms) as u64;
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }
}

/// Random numbers (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// A seed from the clock.
    pub fn seed() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_nanos() as u64
    }

    /// A random number below the limit.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

const TERMINATE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

/// The whole number in an environment variable.
pub fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a whole number")))
}
