//! A task that runs as long as the store.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Aborted when dropped.
pub(crate) struct Task {
    handle: Mutex<Option<JoinHandle<()>>>,
    /// Closed when the task ends, in whichever way.
    running: watch::Receiver<()>,
}

impl Task {
    pub fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Task {
        let (runs, running) = watch::channel(());
        let handle = tokio::spawn(async move {
            let _runs = runs;
            work.await;
        });
        Task { handle: Mutex::new(Some(handle)), running }
    }

    /// Returns once the task has ended, by itself or by a panic.
    pub async fn ended(&self) {
        let mut running = self.running.clone();
        while running.changed().await.is_ok() {}
    }

    /// Waits for the end of a task that was told to stop. If it has panicked, it has ended as well.
    pub async fn join(&self) {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle {
            let _ = handle.await;
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner) {
            handle.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_task_has_ended_after_its_last_step_a_panic_or_an_abort() {
        for task in [Task::spawn(ready(())), Task::spawn(async { panic!("as the test wants") })] {
            timeout(Duration::from_secs(60), task.ended()).await.unwrap();
            task.join().await;
        }
        let task = Task::spawn(pending());
        let mut ended = std::pin::pin!(task.ended());
        assert!(timeout(Duration::from_millis(1), &mut ended).await.is_err());
        task.handle.lock().unwrap().as_ref().unwrap().abort();
        timeout(Duration::from_secs(60), ended).await.unwrap();
    }
}
