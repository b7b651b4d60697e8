//! Removes what a daemon that was killed has left in the packet path.

use super::error::CounterError;
use crate::gate::attachment::remove_left_behind;
use crate::gate::failures::Failures;
use crate::gate::programs::SYN_PROGRAM;
use crate::kernel::devices;

/// Removes what a daemon that was killed has left on the devices of the calling thread's network namespace: filters, and the `clsact` that
/// it had added for them. TCX leaves nothing. Call this while no counter is attached. Returns the number of filters.
///
/// # Errors
/// Where the devices cannot be listed or something cannot be removed. Everything else is removed then.
pub fn remove_stale() -> Result<usize, CounterError> {
    let devices = devices::list().map_err(|source| CounterError::Stale { source })?;
    let (removed, errors) = remove_left_behind(&devices, |program, _| program == SYN_PROGRAM);
    errors.into_iter().map(CounterError::detach).collect::<Failures<_>>().into_result(removed)
}
