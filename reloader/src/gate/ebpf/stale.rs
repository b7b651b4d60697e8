//! Removes what the eBPF gates of dead holds have left.

use super::error::EbpfError;
use crate::gate::attachment::remove_left_behind;
use crate::gate::contract::Living;
use crate::gate::failures::Failures;
use crate::gate::programs::{BACK_PROGRAM, HOLD_PROGRAM};
use crate::kernel::devices;

/// Removes what dead holds have left on the devices of the calling thread's network namespace: filters, and the `clsact` that was
/// added for them. TCX leaves nothing. Returns the number of filters.
///
/// # Errors
/// Where the devices cannot be listed or something cannot be removed. Everything else is removed then.
pub fn remove_stale(living: &Living) -> Result<usize, EbpfError> {
    let devices = devices::list().map_err(|source| EbpfError::Devices { source })?;
    let is_left_behind = |program: &str, id| [HOLD_PROGRAM, BACK_PROGRAM].contains(&program) && !living.contains(&id);
    let (removed, errors) = remove_left_behind(&devices, is_left_behind);
    errors.into_iter().map(EbpfError::detach).collect::<Failures<_>>().into_result(removed)
}
