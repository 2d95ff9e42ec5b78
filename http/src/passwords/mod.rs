//! Password hashing: argon2id (RFC 9106) on dedicated threads, because one check takes tens of milliseconds and 19 MiB.
//!
//! The checks that wait are queued by client address and served in turn, so that no client can keep the others from
//! signing in.

mod hasher;

pub use hasher::{Argon2id, HashError, Hasher, PasswordCost, hash_new};

use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use uproar_model::fairness::{FairQueue, Prefix, QueueFull};

/// Who asks for a password to be hashed or checked. Each class has a queue of its own, and the queues are served in
/// turn, so that none of them can shut out the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A sign-in from a browser that has signed in to the account before, or a user who changes the password.
    Known,
    SignIn,
    /// A sign-in from an address that has sent a wrong password lately.
    Suspicious,
    SignUp,
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

/// The threads and their queues. The threads stop when this is dropped.
pub struct PasswordPool {
    shared: Arc<Shared>,
    stand_in: Arc<str>,
}

struct Shared {
    queues: Mutex<Queues>,
    /// Signalled once per queued job, and when the pool stops.
    changed: Condvar,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    hashed: AtomicU64,
    verified: AtomicU64,
    verified_stand_in: AtomicU64,
    refused: AtomicU64,
}

struct Queues {
    /// By [`Class`].
    classes: [FairQueue<Prefix, Job>; 4],
    /// The class that is served next.
    turn: usize,
    is_stopping: bool,
}

enum Work {
    Hash { reply: oneshot::Sender<Result<String, PoolError>> },
    Verify { hash: Arc<str>, reply: oneshot::Sender<Result<bool, PoolError>> },
}

struct Job {
    password: String,
    work: Work,
}

impl Job {
    /// False: the caller has gone, so the work would be wasted.
    fn is_wanted(&self) -> bool {
        match &self.work {
            Work::Hash { reply } => !reply.is_closed(),
            Work::Verify { reply, .. } => !reply.is_closed(),
        }
    }

    fn refuse(self, error: PoolError) {
        match self.work {
            Work::Hash { reply } => drop(reply.send(Err(error))),
            Work::Verify { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

impl PasswordPool {
    /// Starts `threads` threads. At most `queue_limit` jobs of each class may wait for a thread, and at most
    /// `per_address_limit` of those may be one client's.
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

        let queue = || FairQueue::new(queue_limit, per_address_limit.max(1));
        let queues = Queues { classes: [(); 4].map(|()| queue()), turn: 0, is_stopping: false };
        let shared = Shared { queues: Mutex::new(queues), changed: Condvar::new(), counters: Counters::default() };
        // Dropped on an error below, which stops the threads that have started.
        let pool = PasswordPool { shared: Arc::new(shared), stand_in };
        for number in 0..threads.max(1) {
            let (shared, hasher) = (Arc::clone(&pool.shared), Arc::clone(&hasher));
            std::thread::Builder::new()
                .name(format!("passwords-{number}"))
                .spawn(move || shared.run_thread(&*hasher))?;
        }
        Ok(pool)
    }

    /// Hashes a new password.
    pub async fn hash(&self, client: IpAddr, class: Class, password: String) -> Result<String, PoolError> {
        let (reply, receiver) = oneshot::channel();
        self.submit(client, class, Job { password, work: Work::Hash { reply } })?;
        receiver.await.map_err(|_| PoolError::Stopped)?
    }

    /// Whether the hash is that of this password. Without a hash, the answer is no after the same work.
    pub async fn verify(
        &self,
        client: IpAddr,
        class: Class,
        password: String,
        hash: Option<String>,
    ) -> Result<bool, PoolError> {
        let is_known = hash.is_some();
        let hash = hash.map_or_else(|| Arc::clone(&self.stand_in), Arc::from);
        let (reply, receiver) = oneshot::channel();
        self.submit(client, class, Job { password, work: Work::Verify { hash, reply } })?;
        let is_equal = receiver.await.map_err(|_| PoolError::Stopped)??;
        if !is_known {
            self.shared.counters.verified_stand_in.fetch_add(1, Ordering::Relaxed);
        }
        Ok(is_equal && is_known)
    }

    pub fn metrics(&self) -> Metrics {
        let Counters { hashed, verified, verified_stand_in, refused } = &self.shared.counters;
        Metrics {
            hashed: hashed.load(Ordering::Relaxed),
            verified: verified.load(Ordering::Relaxed),
            verified_stand_in: verified_stand_in.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
        }
    }

    fn submit(&self, client: IpAddr, class: Class, job: Job) -> Result<(), PoolError> {
        let client = Prefix::of(client);
        let mut queues = self.shared.lock();
        let queue = &mut queues.classes[class as usize];
        // Callers that have gone must not keep others out.
        queue.retain(|_, job| job.is_wanted());
        let refused = match queue.push(client, job) {
            Ok(None) => None,
            Ok(Some((_, displaced))) => Some((displaced, PoolError::Full)),
            Err(QueueFull::OfKey(job)) => Some((job, PoolError::AddressFull)),
            Err(QueueFull::OfAll(job)) => Some((job, PoolError::Full)),
        };
        drop(queues);
        self.shared.changed.notify_one();
        if let Some((job, error)) = refused {
            self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            job.refuse(error);
        }
        Ok(())
    }
}

impl Drop for PasswordPool {
    fn drop(&mut self) {
        self.shared.lock().is_stopping = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the jobs that wait, until the pool stops.
    fn run_thread(&self, hasher: &dyn Hasher) {
        while let Some(job) = self.next_job() {
            // A panic, which the panic hook logs, ends the job and not the thread: without threads, jobs would wait
            // for ever.
            let _ = catch_unwind(AssertUnwindSafe(|| self.run(hasher, job)));
        }
    }

    fn run(&self, hasher: &dyn Hasher, Job { password, work }: Job) {
        match work {
            Work::Hash { reply } => {
                let hash = hasher.hash(&password);
                self.counters.hashed.fetch_add(1, Ordering::Relaxed);
                let _ = reply.send(hash.map_err(PoolError::from));
            }
            Work::Verify { hash, reply } => {
                let is_equal = hasher.verify(&password, &hash);
                self.counters.verified.fetch_add(1, Ordering::Relaxed);
                let _ = reply.send(is_equal.map_err(PoolError::from));
            }
        }
    }

    /// Waits for a job whose caller still waits for it. `None`: the pool stops.
    fn next_job(&self) -> Option<Job> {
        let mut queues = self.lock();
        loop {
            if queues.is_stopping {
                return None;
            }
            match queues.pop() {
                Some(job) if job.is_wanted() => return Some(job),
                Some(_) => {}
                None => queues = self.changed.wait(queues).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl Queues {
    /// The next job, of the classes in turn.
    fn pop(&mut self) -> Option<Job> {
        for _ in 0..self.classes.len() {
            let class = self.turn;
            self.turn = (self.turn + 1) % self.classes.len();
            if let Some((_, job)) = self.classes[class].pop() {
                return Some(job);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use tokio::task::JoinHandle;

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
    async fn a_panic_ends_a_job_and_not_its_thread() {
        struct Panics;
        impl Hasher for Panics {
            fn hash(&self, password: &str) -> Result<String, HashError> {
                assert_ne!(password, "panic", "as the test wants");
                Ok(String::new())
            }

            fn verify(&self, _: &str, _: &str) -> Result<bool, HashError> {
                Ok(true)
            }
        }
        let pool = PasswordPool::start(Arc::new(Panics), 1, 4, 4).unwrap();
        assert_eq!(soon(pool.hash(HERE, Class::SignUp, "panic".into())).await, Err(PoolError::Stopped));
        assert_eq!(soon(pool.hash(HERE, Class::SignUp, "horse".into())).await, Ok(String::new()));
    }

    #[tokio::test]
    async fn hashes_are_salted_argon2id() {
        let pool = PasswordPool::start(argon2(), 1, 4, 4).unwrap();
        let hash = pool.hash(HERE, Class::SignUp, "correct horse".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{hash}");
        assert_ne!(hash, pool.hash(HERE, Class::SignUp, "correct horse".into()).await.unwrap());
        assert_eq!(pool.verify(HERE, Class::SignIn, "correct horse".into(), Some(hash.clone())).await, Ok(true));
        assert_eq!(pool.verify(HERE, Class::SignIn, "wrong horse".into(), Some(hash)).await, Ok(false));
    }

    #[tokio::test]
    async fn without_a_hash_verify_does_the_same_work_and_says_no() {
        let pool = PasswordPool::start(argon2(), 1, 4, 4).unwrap();
        assert_eq!(pool.verify(HERE, Class::SignIn, "x".into(), None).await, Ok(false));
        let metrics = pool.metrics();
        assert_eq!((metrics.verified, metrics.verified_stand_in), (1, 1));
        // The stand-in costs the same as any other hash.
        assert!(pool.stand_in.starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
    }

    #[tokio::test]
    async fn no_password_matches_an_unreadable_hash() {
        let pool = PasswordPool::start(argon2(), 1, 4, 4).unwrap();
        for hash in ["", "plain", "$argon2id$v=19$m=8,t=1,p=1$"] {
            let answer = pool.verify(HERE, Class::SignIn, "plain".into(), Some(hash.into())).await;
            assert!(!matches!(answer, Ok(true)), "{hash}");
        }
        assert!(pool.verify(HERE, Class::SignIn, "x".into(), None).await.is_ok(), "the thread must survive");
    }

    #[tokio::test]
    async fn a_full_queue_refuses_a_job() {
        let (hasher, starts, end) = gate();
        let pool = Arc::new(PasswordPool::start(hasher, 1, 1, 10).unwrap());
        let check = || {
            let pool = Arc::clone(&pool);
            async move { pool.verify(HERE, Class::SignIn, String::new(), Some(String::new())).await }
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
            async move { pool.verify(HERE, Class::SignIn, String::new(), Some(String::new())).await }
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

    /// One thread that is busy with a check from `HERE`, and a queue of two jobs.
    async fn busy_pool()
    -> (Arc<PasswordPool>, JoinHandle<Result<bool, PoolError>>, mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (hasher, starts, end) = gate();
        let pool = Arc::new(PasswordPool::start(hasher, 1, 2, 2).unwrap());
        let running = check(&pool, HERE, Class::SignIn);
        let starts = started(starts).await;
        (pool, running, starts, end)
    }

    /// Submits a check before it returns, so that the order of the jobs is known.
    fn check(pool: &Arc<PasswordPool>, client: IpAddr, class: Class) -> JoinHandle<Result<bool, PoolError>> {
        let (reply, receiver) = oneshot::channel();
        let work = Work::Verify { hash: Arc::from(""), reply };
        pool.submit(client, class, Job { password: String::new(), work }).unwrap();
        tokio::spawn(async move { receiver.await.map_err(|_| PoolError::Stopped)? })
    }

    #[tokio::test]
    async fn a_newcomer_takes_the_place_of_the_address_that_has_the_most_jobs_waiting() {
        let (pool, running, _starts, end) = busy_pool().await;
        let first = check(&pool, HERE, Class::SignIn);
        let second = check(&pool, HERE, Class::SignIn);
        assert_eq!(soon(check(&pool, HERE, Class::SignIn)).await.unwrap(), Err(PoolError::AddressFull));
        let other = check(&pool, THERE, Class::SignIn);
        assert_eq!(soon(second).await.unwrap(), Err(PoolError::Full));
        (0..3).for_each(|_| end.send(()).unwrap());
        for job in [running, first, other] {
            assert_eq!(soon(job).await.unwrap(), Ok(true));
        }
        assert_eq!(pool.metrics().refused, 2);
    }

    #[tokio::test]
    async fn each_class_of_jobs_has_a_queue_of_its_own() {
        let (pool, running, _starts, end) = busy_pool().await;
        let sign_ins = [check(&pool, HERE, Class::SignIn), check(&pool, HERE, Class::SignIn)];
        let others = [Class::Suspicious, Class::SignUp, Class::Known].map(|class| check(&pool, HERE, class));
        // The one that is running, and one of each class.
        (0..5).for_each(|_| end.send(()).unwrap());
        assert_eq!(soon(running).await.unwrap(), Ok(true));
        for job in others {
            assert_eq!(soon(job).await.unwrap(), Ok(true));
        }
        end.send(()).unwrap();
        for job in sign_ins {
            assert_eq!(soon(job).await.unwrap(), Ok(true));
        }
    }

    #[tokio::test]
    async fn a_job_whose_caller_has_gone_is_not_done_and_takes_no_place() {
        let (pool, running, starts, end) = busy_pool().await;
        for _ in 0..2 {
            let gone = check(&pool, HERE, Class::SignIn);
            gone.abort();
            assert!(gone.await.unwrap_err().is_cancelled());
        }
        let wanted = [check(&pool, HERE, Class::SignIn), check(&pool, HERE, Class::SignIn)];
        (0..3).for_each(|_| end.send(()).unwrap());
        for job in [running].into_iter().chain(wanted) {
            assert_eq!(soon(job).await.unwrap(), Ok(true));
        }
        assert_eq!((starts.try_iter().count(), pool.metrics().verified), (2, 3));
    }

    #[tokio::test]
    async fn the_threads_stop_with_the_pool() {
        let pool = PasswordPool::start(argon2(), 2, 4, 4).unwrap();
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        soon(async {
            while shared.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
