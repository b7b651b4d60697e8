//! What a daemon that was killed left in the packet path.

use super::error::CounterError;
use crate::gate::attachment::remove_left_behind;
use crate::gate::programs::SYN_PROGRAM;
use crate::kernel::devices;

/// Removes what a daemon that was killed left on the devices of the calling thread's network namespace: filters, and the
/// `clsact` that it had made for them. TCX leaves nothing. To be called while no counter is attached.
///
/// # Errors
/// Where the devices cannot be listed or something of ours cannot be removed, after everything else was.
pub fn remove_stale() -> Result<usize, CounterError> {
    let devices = devices::list().map_err(|source| CounterError::Stale { source })?;
    remove_left_behind(&devices, |program, _| program == SYN_PROGRAM).map_err(CounterError::detach)
}
