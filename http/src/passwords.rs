//! Password hashing: argon2id (RFC 9106) on dedicated threads, because one check takes tens of milliseconds and 19 MiB.
//!
//! Two bounds hold for the checks that wait: one for all of them, and one per client address, so that no client can
//! keep the others from signing in.

use crate::addresses::client_key;
use crate::validation;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;
use uproar_core::limits::Limits;

/// The cost of one check. The default is the OWASP recommendation for argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordCost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Default for PasswordCost {
    fn default() -> PasswordCost {
        PasswordCost { memory_kib: 19 * 1024, passes: 2, lanes: 1 }
    }
}

impl PasswordCost {
    /// The lowest cost that argon2 allows. For tests.
    pub const CHEAPEST: PasswordCost = PasswordCost { memory_kib: 8, passes: 1, lanes: 1 };
}

/// Hashes and verifies passwords. Its methods block.
pub trait Hasher: Send + Sync + 'static {
    /// Hashes a password with a new random salt. Returns the hash in PHC form.
    fn hash(&self, password: &str) -> Result<String, HashError>;

    /// Whether the hash is that of this password.
    fn verify(&self, password: &str, hash: &str) -> Result<bool, HashError>;
}

/// Hashes a new password at the default cost. The error says in words what is wrong with the password.
pub fn hash_new(password: &str) -> Result<String, String> {
    validation::new_password(password, &Limits::default()).map_err(|error| format!("the password {error}"))?;
    let hash = Argon2id::new(PasswordCost::default()).and_then(|hasher| hasher.hash(password));
    hash.map_err(|error| error.to_string())
}

/// Why a hash could not be made or read. Never contains a password or a hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("password hash: {0}")]
pub struct HashError(pub String);

/// The hasher of the server.
pub struct Argon2id(Argon2<'static>);

impl Argon2id {
    pub fn new(cost: PasswordCost) -> Result<Argon2id, HashError> {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None).map_err(hash_error)?;
        Ok(Argon2id(Argon2::new(Algorithm::Argon2id, Version::V0x13, params)))
    }
}

impl Hasher for Argon2id {
    fn hash(&self, password: &str) -> Result<String, HashError> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(hash_error)?;
        Ok(self.0.hash_password_with_salt(password.as_bytes(), &salt).map_err(hash_error)?.to_string())
    }

    fn verify(&self, password: &str, hash: &str) -> Result<bool, HashError> {
        let hash = PasswordHash::new(hash).map_err(hash_error)?;
        match self.0.verify_password(password.as_bytes(), &hash) {
            Ok(()) => Ok(true),
            Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
            Err(error) => Err(hash_error(error)),
        }
    }
}

fn hash_error(error: impl std::fmt::Display) -> HashError {
    HashError(error.to_string())
}

/// Why a password was not hashed or checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("too many sign-ins are waiting; try again")]
    Full,
    #[error("too many sign-ins from your address are waiting; try again")]
    AddressFull,
    #[error(transparent)]
    Failed(#[from] HashError),
    #[error("the password threads have stopped")]
    Stopped,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    pub hashed: u64,
    pub verified: u64,
    /// How many of those used the stand-in hash, because the user does not exist or has no password.
    pub verified_stand_in: u64,
    pub refused: u64,
}

/// The threads and their queue. The threads stop when this is dropped.
pub struct PasswordPool {
    jobs: SyncSender<Job>,
    permits: Arc<Permits>,
    counters: Arc<Counters>,
    stand_in: Arc<str>,
}

#[derive(Default)]
struct Counters {
    hashed: AtomicU64,
    verified: AtomicU64,
    verified_stand_in: AtomicU64,
    refused: AtomicU64,
}

enum Work {
    Hash { reply: oneshot::Sender<Result<String, HashError>> },
    Verify { hash: Arc<str>, reply: oneshot::Sender<Result<bool, HashError>> },
}

struct Job {
    password: String,
    work: Work,
    /// Held until the work is done, even if nobody is waiting for it any more.
    permit: Permit,
}

impl PasswordPool {
    /// Starts `threads` threads. At most `queue_limit` jobs may wait for a thread, and at most `per_address_limit` jobs
    /// of one client may wait or run.
    pub fn start(
        hasher: Arc<dyn Hasher>,
        threads: usize,
        queue_limit: usize,
        per_address_limit: usize,
    ) -> io::Result<PasswordPool> {
        // The stand-in is the hash of a random password. It is made like any other, so that a check costs the same.
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::from)?;
        let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let stand_in = Arc::from(hasher.hash(&password).map_err(io::Error::other)?);

        let (jobs, queue) = sync_channel(queue_limit);
        let queue = Arc::new(Mutex::new(queue));
        let counters = Arc::new(Counters::default());
        for number in 0..threads.max(1) {
            let (queue, hasher, counters) = (Arc::clone(&queue), Arc::clone(&hasher), Arc::clone(&counters));
            std::thread::Builder::new()
                .name(format!("passwords-{number}"))
                .spawn(move || run_thread(&queue, &*hasher, &counters))?;
        }
        let permits = Arc::new(Permits { limit: per_address_limit.max(1), in_use: Mutex::default() });
        Ok(PasswordPool { jobs, permits, counters, stand_in })
    }

    /// Hashes a new password.
    pub async fn hash(&self, client: IpAddr, password: String) -> Result<String, PoolError> {
        let (reply, receiver) = oneshot::channel();
        self.submit(client, password, Work::Hash { reply })?;
        Ok(receiver.await.map_err(|_| PoolError::Stopped)??)
    }

    /// Whether the hash is that of this password. Without a hash, the answer is no after the same work.
    pub async fn verify(&self, client: IpAddr, password: String, hash: Option<String>) -> Result<bool, PoolError> {
        let is_known = hash.is_some();
        let hash = hash.map_or_else(|| Arc::clone(&self.stand_in), Arc::from);
        let (reply, receiver) = oneshot::channel();
        self.submit(client, password, Work::Verify { hash, reply })?;
        let is_equal = receiver.await.map_err(|_| PoolError::Stopped)??;
        if !is_known {
            self.counters.verified_stand_in.fetch_add(1, Ordering::Relaxed);
        }
        Ok(is_equal && is_known)
    }

    pub fn metrics(&self) -> Metrics {
        let Counters { hashed, verified, verified_stand_in, refused } = &*self.counters;
        Metrics {
            hashed: hashed.load(Ordering::Relaxed),
            verified: verified.load(Ordering::Relaxed),
            verified_stand_in: verified_stand_in.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
        }
    }

    fn submit(&self, client: IpAddr, password: String, work: Work) -> Result<(), PoolError> {
        let refuse = |error| {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            error
        };
        let permit =
            Permits::acquire(&self.permits, client_key(client)).ok_or_else(|| refuse(PoolError::AddressFull))?;
        self.jobs.try_send(Job { password, work, permit }).map_err(|error| match error {
            TrySendError::Full(_) => refuse(PoolError::Full),
            TrySendError::Disconnected(_) => PoolError::Stopped,
        })
    }
}

/// Takes jobs from the queue until it is closed.
fn run_thread(queue: &Mutex<Receiver<Job>>, hasher: &dyn Hasher, counters: &Counters) {
    loop {
        // One thread waits for the queue while holding the lock; the others wait for the lock.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { password, work, permit }) = job else { return };
        // If the caller has given up, the work would be wasted. The permit is released before the reply, so that the
        // caller can submit its next job as soon as it has the reply.
        match work {
            Work::Hash { reply } if !reply.is_closed() => {
                let hash = hasher.hash(&password);
                counters.hashed.fetch_add(1, Ordering::Relaxed);
                drop(permit);
                let _ = reply.send(hash);
            }
            Work::Verify { hash, reply } if !reply.is_closed() => {
                let is_equal = hasher.verify(&password, &hash);
                counters.verified.fetch_add(1, Ordering::Relaxed);
                drop(permit);
                let _ = reply.send(is_equal);
            }
            _ => {}
        }
    }
}

/// How many jobs each client has waiting or running. Clients without any have no entry.
struct Permits {
    limit: usize,
    in_use: Mutex<HashMap<IpAddr, usize>>,
}

/// The right of one job to wait or run. Returned when dropped.
struct Permit {
    permits: Arc<Permits>,
    client: IpAddr,
}

impl Permits {
    fn acquire(permits: &Arc<Permits>, client: IpAddr) -> Option<Permit> {
        let mut in_use = permits.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let count = in_use.entry(client).or_insert(0);
        if *count >= permits.limit {
            return None;
        }
        *count += 1;
        Some(Permit { permits: Arc::clone(permits), client })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut in_use = self.permits.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = in_use.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                in_use.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn argon2() -> Arc<dyn Hasher> {
        Arc::new(Argon2id::new(PasswordCost::CHEAPEST).unwrap())
    }

    /// Reports the start of each check and holds it until the test lets it end.
    struct Gate {
        started: mpsc::Sender<()>,
        end: Mutex<mpsc::Receiver<()>>,
    }

    fn gate() -> (Arc<Gate>, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (started, starts) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        (Arc::new(Gate { started, end: Mutex::new(ended) }), starts, end)
    }

    impl Hasher for Gate {
        fn hash(&self, _: &str) -> Result<String, HashError> {
            Ok(String::new())
        }

        fn verify(&self, _: &str, _: &str) -> Result<bool, HashError> {
            self.started.send(()).unwrap();
            self.end.lock().unwrap().recv().unwrap();
            Ok(true)
        }
    }

    /// Waits for an event that must happen. Only a failing test waits for the whole timeout.
    async fn soon<F: Future>(event: F) -> F::Output {
        tokio::time::timeout(std::time::Duration::from_secs(60), event).await.expect("the event did not happen")
    }

    /// Waits for the next check to start.
    async fn started(starts: mpsc::Receiver<()>) -> mpsc::Receiver<()> {
        tokio::task::spawn_blocking(move || {
            starts.recv().unwrap();
            starts
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn hashes_are_salted_argon2id() {
        let pool = PasswordPool::start(argon2(), 1, 4, 4).unwrap();
        let hash = pool.hash(HERE, "correct horse".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{hash}");
        assert_ne!(hash, pool.hash(HERE, "correct horse".into()).await.unwrap());
        assert_eq!(pool.verify(HERE, "correct horse".into(), Some(hash.clone())).await, Ok(true));
        assert_eq!(pool.verify(HERE, "wrong horse".into(), Some(hash)).await, Ok(false));
    }

    #[test]
    fn the_default_cost_is_the_recommended_one() {
        let hasher = Argon2id::new(PasswordCost::default()).unwrap();
        assert!(hasher.hash("x").unwrap().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(Argon2id::new(PasswordCost { memory_kib: 1, passes: 1, lanes: 1 }).is_err());
    }

    #[tokio::test]
    async fn without_a_hash_verify_does_the_same_work_and_says_no() {
        let pool = PasswordPool::start(argon2(), 1, 4, 4).unwrap();
        assert_eq!(pool.verify(HERE, "x".into(), None).await, Ok(false));
        let metrics = pool.metrics();
        assert_eq!((metrics.verified, metrics.verified_stand_in), (1, 1));
        // The stand-in costs the same as any other hash.
        assert!(pool.stand_in.starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
    }

    #[tokio::test]
    async fn no_password_matches_an_unreadable_hash() {
        let pool = PasswordPool::start(argon2(), 1, 4, 4).unwrap();
        for hash in ["", "plain", "$argon2id$v=19$m=8,t=1,p=1$"] {
            let answer = pool.verify(HERE, "plain".into(), Some(hash.into())).await;
            assert!(!matches!(answer, Ok(true)), "{hash}");
        }
        assert!(pool.verify(HERE, "x".into(), None).await.is_ok(), "the thread must survive");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_a_job() {
        let (hasher, starts, end) = gate();
        let pool = Arc::new(PasswordPool::start(hasher, 1, 1, 10).unwrap());
        let check = || {
            let pool = Arc::clone(&pool);
            async move { pool.verify(HERE, String::new(), Some(String::new())).await }
        };
        let running = tokio::spawn(check());
        let starts = started(starts).await;
        // One of these waits and the other finds the queue full; which one is up to the scheduler.
        let (mut first, mut second) = (tokio::spawn(check()), tokio::spawn(check()));
        let (refused, waiting) = tokio::select! {
            refused = &mut first => (refused.unwrap(), second),
            refused = &mut second => (refused.unwrap(), first),
        };
        assert_eq!(refused, Err(PoolError::Full));
        end.send(()).unwrap();
        end.send(()).unwrap();
        assert_eq!(running.await.unwrap(), Ok(true));
        assert_eq!(waiting.await.unwrap(), Ok(true));
        assert_eq!(pool.metrics().refused, 1);
        drop(starts);
    }

    #[tokio::test]
    async fn no_more_jobs_run_than_there_are_threads() {
        let (hasher, starts, end) = gate();
        let pool = Arc::new(PasswordPool::start(hasher, 2, 10, 10).unwrap());
        let check = || {
            let pool = Arc::clone(&pool);
            async move { pool.verify(HERE, String::new(), Some(String::new())).await }
        };
        let checks: Vec<_> = (0..5).map(|_| tokio::spawn(check())).collect();
        let starts = started(started(starts).await).await;
        assert!(starts.try_recv().is_err(), "both threads are busy");
        for _ in 0..5 {
            end.send(()).unwrap();
        }
        for check in checks {
            assert_eq!(check.await.unwrap(), Ok(true));
        }
    }

    #[tokio::test]
    async fn one_client_cannot_use_all_permits() {
        let (hasher, starts, end) = gate();
        let pool = Arc::new(PasswordPool::start(hasher, 1, 10, 1).unwrap());
        let check = |client| {
            let pool = Arc::clone(&pool);
            async move { pool.verify(client, String::new(), Some(String::new())).await }
        };
        let running = tokio::spawn(check(HERE));
        let _starts = started(starts).await;
        assert_eq!(soon(check(HERE)).await, Err(PoolError::AddressFull));
        let other = tokio::spawn(check(THERE));
        end.send(()).unwrap();
        end.send(()).unwrap();
        assert_eq!((running.await.unwrap(), other.await.unwrap()), (Ok(true), Ok(true)));
        // The permit is released by the time the caller has the reply.
        end.send(()).unwrap();
        assert_eq!(check(HERE).await, Ok(true));
        assert!(pool.permits.in_use.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_keeps_its_permit_until_the_work_is_done() {
        let (hasher, starts, end) = gate();
        let pool = Arc::new(PasswordPool::start(hasher, 1, 10, 1).unwrap());
        let check = || {
            let pool = Arc::clone(&pool);
            async move { pool.verify(HERE, String::new(), Some(String::new())).await }
        };
        let caller = tokio::spawn(check());
        let _starts = started(starts).await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        assert_eq!(soon(check()).await, Err(PoolError::AddressFull));
        end.send(()).unwrap();
    }
}
