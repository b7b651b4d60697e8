//! Gives memory back that a start or a reload needed, and an idle daemon does not.

use nix::libc;

/// Gives free memory back to the kernel. Takes a few milliseconds.
pub(crate) fn give_back_idle_memory() {
    // SAFETY: malloc_trim(3) may be called at any time, from any thread.
    unsafe { libc::malloc_trim(0) };
}
