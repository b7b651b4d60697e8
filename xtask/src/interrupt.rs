//! Handles Ctrl-C and SIGTERM: running tests are ended in order, so that they leave nothing behind.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use anyhow::{Result, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};

static CAUGHT: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From this call on the first signal is only noted. The second one ends this process.
pub(crate) fn catch() -> Result<()> {
    let caught = CAUGHT.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the first signal finds the flag unset, and sets it.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(caught))?;
        signal_hook::flag::register(signal, Arc::clone(caught))?;
    }
    Ok(())
}

/// Whether a signal has arrived.
pub(crate) fn is_requested() -> bool {
    CAUGHT.get().is_some_and(|caught| caught.load(Relaxed))
}

/// Checks for an interruption.
///
/// # Errors
/// If a signal has arrived.
pub(crate) fn check() -> Result<()> {
    ensure!(!is_requested(), "interrupted");
    Ok(())
}
