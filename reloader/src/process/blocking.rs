//! Runs blocking work in a thread beside the daemon's loop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

/// How long the loop waits for a file system, or for a lock that another process holds, before it continues without the result.
/// It is longer than the limits of the called functions, because their messages name the file.
const BLOCKING_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs `work` in a thread of the runtime and waits for its end. The thread is in the network namespace in which the runtime was made.
///
/// Use it for work that the kernel always finishes, such as reading its tables. Work that a file system or another process can
/// delay needs a [`BlockingLane`].
///
/// # Panics
/// `work` panics.
pub async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Runs work that may hang, one piece at a time. Work that waits for its turn takes no thread. Clones share the lane.
#[derive(Debug, Clone, Default)]
pub struct BlockingLane(Arc<Mutex<()>>);

impl BlockingLane {
    /// Runs `work` in a thread of the runtime, and waits for at most `BLOCKING_TIMEOUT`. After that the thread continues, because
    /// nothing can end a thread that is blocked in the kernel.
    ///
    /// # Errors
    /// The error of `work`, or `TimedOut` with `what` in its text.
    pub async fn run<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.run_within(BLOCKING_TIMEOUT, what, work).await
    }

    /// Begins `work` in a thread of the runtime and does not wait for it. Nothing is begun while other work of the lane goes on.
    pub fn begin_if_free(&self, work: impl FnOnce() + Send + 'static) {
        if let Ok(alone) = self.0.clone().try_lock_owned() {
            tokio::task::spawn_blocking(move || {
                let _alone = alone;
                work();
            });
        }
    }

    async fn run_within<T: Send + 'static>(
        &self,
        timeout: Duration,
        what: &str,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let done = async {
            let alone = self.0.clone().lock_owned().await;
            run_blocking(move || {
                let _alone = alone;
                work()
            })
            .await
        };
        tokio::time::timeout(timeout, done).await.unwrap_or_else(|_| {
            let time = humantime::format_duration(timeout);
            let message = format!(
                "{what} was not done within {time}: its file system hangs, or another process keeps a lock on it"
            );
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn work_that_hangs_times_out_and_the_next_work_does_not_begin() {
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let lane = BlockingLane::default();
        let error =
            lane.run_within(SHORT, "writing x", move || hangs.recv().map_err(io::Error::other)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().starts_with("writing x was not done within 20ms"), "{error}");
        let behind = lane.run_within::<()>(SHORT, "writing y", || panic!("it began")).await.unwrap_err();
        assert_eq!(behind.kind(), io::ErrorKind::TimedOut);
        drop(release);
        assert_eq!(lane.run("writing z", || Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn nothing_is_begun_behind_work_that_hangs() {
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        let lane = BlockingLane::default();
        lane.begin_if_free(move || {
            let _ = hangs.recv();
        });
        lane.begin_if_free(|| panic!("it began"));
        drop(release);
        assert_eq!(lane.run("waiting", || Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn the_result_of_the_work_is_returned() {
        assert_eq!(run_blocking(|| 7).await, 7);
        let refused = BlockingLane::default().run("x", || Err::<(), _>(io::ErrorKind::StorageFull.into())).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
