//! Waits for the kernel.

use std::thread::sleep;
use std::time::Instant;

use super::timing::{KERNEL_POLL_INTERVAL, KERNEL_TIMEOUT};

/// Tries until there is a result, for at most [`KERNEL_TIMEOUT`]. `None` where there was none.
#[expect(
    clippy::disallowed_methods,
    reason = "only the thread of a hold, its guard and cleanups wait here, for KERNEL_TIMEOUT at most"
)]
pub(super) fn retry<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + KERNEL_TIMEOUT;
    loop {
        match attempt() {
            None if Instant::now() < end => sleep(KERNEL_POLL_INTERVAL),
            result => return result,
        }
    }
}
