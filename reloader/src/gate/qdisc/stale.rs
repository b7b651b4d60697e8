//! Ends the holds of dead processes.

use super::discovery::find;
use super::dismantle::dismantle;
use super::error::QdiscError;
use super::filters::tolerate_gone;
use super::lo_prio::remove_unused_prio;
use crate::gate::contract::Living;
use crate::gate::failures::Failures;

/// Ends the holds in the calling thread's network namespace whose holder and guard were killed: parked SYNs are delivered, and nothing is
/// left. Returns the number of holds.
///
/// # Errors
/// Where the kernel does not list what there is, or something could not be removed. Everything else is removed then.
pub fn remove_stale(living: &Living) -> Result<usize, QdiscError> {
    let mut failures = Failures::new();
    let mut removed = 0;
    for id in find()?.into_keys().filter(|id| !living.contains(id)) {
        removed += usize::from(failures.note(dismantle(id)).is_some());
    }
    failures.note(tolerate_gone(remove_unused_prio()).map_err(QdiscError::prio_stays));
    failures.into_result(removed)
}
