//! What would keep the main loop from answering, in a thread of its own.

/// Runs `work` in a thread of the runtime, which is in the network namespace in which the runtime was made.
pub(super) async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
