//! Ctrl-C and SIGTERM: what runs is ended in order, so that it leaves nothing behind.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use anyhow::{Result, ensure};
use signal_hook::consts::{SIGINT, SIGTERM};

static CAUGHT: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on the signals are noted instead of ending this process; the second one ends it.
pub(crate) fn catch() -> Result<()> {
    let caught = CAUGHT.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset, and sets it.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(caught))?;
        signal_hook::flag::register(signal, Arc::clone(caught))?;
    }
    Ok(())
}

/// Whether one has come.
pub(crate) fn is_requested() -> bool {
    CAUGHT.get().is_some_and(|caught| caught.load(Relaxed))
}

/// An error once one has come.
pub(crate) fn check() -> Result<()> {
    ensure!(!is_requested(), "interrupted");
    Ok(())
}
