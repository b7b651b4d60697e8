//! Removes what is left of dead holds: those whose holder and guard have both died.

use std::collections::BTreeSet;
use std::io;

use super::error::HoldError;
use super::registry::{HoldEntry, HoldRegistry, Locked};
use super::{factory, liveness_socket, persistent_qdiscs};
use crate::gate::contract::Living;
use crate::gate::failures::Failures;
use crate::kernel::{devices, tc};

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CleanUp {
    /// How many filters, qdiscs and devices of dead holds were removed.
    pub removed: usize,
    /// The ids of the dead holds.
    pub dead: Vec<u16>,
    /// The ids of dead holds in other network namespaces. What they left there is untouched.
    pub elsewhere: Vec<u16>,
}

/// Removes what dead holds left in the network namespace of the calling thread. Living holds are left alone.
///
/// # Errors
/// Where the registry cannot be read or something cannot be removed. Everything else is removed then. The entries stay where something
/// of a hold stays, so that the next cleanup tries again.
pub fn clean_up(registry: &HoldRegistry) -> Result<CleanUp, HoldError> {
    // A hold that begins meanwhile would look like a dead one. It waits for the lock.
    let lock = registry.lock()?;
    let entries = registry.list()?;
    let named = liveness_socket::bound();
    let living = registry.living()?;
    let mut failures = Failures::new();
    let of_gates = failures.note(remove_stale(&living));
    let persistent = failures.note(persistent_qdiscs::remove_stale(registry).map_err(HoldError::PersistentQdisc));
    let (Some(of_gates), Some(persistent)) = (of_gates, persistent) else {
        return failures.into_result(CleanUp::default());
    };
    let done = CleanUp { removed: of_gates + persistent, ..CleanUp::default() };
    forget_dead(registry, &lock, &entries, &named, done)
}

/// Removes the entries of the dead holds of this network namespace. `named` are the ids with a liveness socket.
fn forget_dead(
    registry: &HoldRegistry,
    lock: &Locked,
    entries: &[HoldEntry],
    named: &Living,
    mut done: CleanUp,
) -> Result<CleanUp, HoldError> {
    let mut failures = Failures::new();
    for dead in entries.iter().filter(|entry| !entry.lives) {
        if dead.record.as_ref().is_some_and(|record| !record.is_of_this_namespace()) {
            done.elsewhere.push(dead.id);
            continue;
        }
        // A hold of another registry lives that has the same id. What is left may be its own.
        if named.contains(&dead.id) {
            continue;
        }
        if failures.note(registry.forget(dead.id, lock)).is_some() {
            done.dead.push(dead.id);
        }
    }
    failures.into_result(done)
}

/// [`clean_up`] before a hold begins. What another hold has left does not make this one fail.
pub(super) fn clean_up_after_the_dead(registry: &HoldRegistry) {
    let any = registry.list().is_ok_and(|entries| entries.iter().any(|entry| !entry.lives));
    match any.then(|| clean_up(registry)) {
        Some(Ok(done)) if !done.dead.is_empty() => {
            log::info!("cleaned up after {} holds whose holder and guard had died", done.dead.len());
        }
        Some(Err(error)) => log::warn!("cleaning up after a hold whose holder and guard had died: {error}"),
        _ => {}
    }
}

/// Removes the traces of the calling guard's own hold, whose holder died before the gate was complete. `bare` are the devices without `ingress` and
/// `clsact` before the hold: there an empty one is removed too, because nothing tells whose it is.
pub(super) fn remove_traces_of(id: u16, bare: &BTreeSet<u32>, registry: &HoldRegistry) -> Result<(), HoldError> {
    registry.under_lock(|| {
        let mut others = registry.living()?;
        others.remove(&id);
        let mut failures = Failures::new();
        failures.note(remove_stale(&others));
        for &device in bare {
            failures.note(tc::remove_unused(device).map_err(|source| HoldError::UnusedQdisc { device, source }));
        }
        failures.into_result(())
    })
}

fn remove_stale(living: &Living) -> Result<usize, HoldError> {
    Ok(factory::remove_stale(living)?)
}

/// The devices that have neither `ingress` nor `clsact`, by index.
pub(super) fn bare_devices() -> io::Result<BTreeSet<u32>> {
    let qdiscs = tc::qdisc::list()?;
    let is_bare =
        |device: &u32| !qdiscs.iter().any(|qdisc| qdisc.device == *device && qdisc.handle == tc::qdisc::INGRESS_HANDLE);
    Ok(devices::list()?.iter().map(|device| device.index).filter(is_bare).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_that_cannot_be_removed_is_reported_and_the_others_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let registry = HoldRegistry::new(dir.path());
        let lock = registry.lock().unwrap();
        for id in 1..=3 {
            std::fs::write(registry.path_of(id), "").unwrap();
        }
        // Directories cannot be removed as files.
        for id in [1, 3] {
            std::fs::create_dir(registry.path_of(id).with_extension("deliver")).unwrap();
        }
        let entries = registry.list().unwrap();
        let error = forget_dead(&registry, &lock, &entries, &Living::new(), CleanUp::default()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("/1.deliver: ") && error.contains("/3.deliver: "), "{error}");
        assert!(registry.list().unwrap().is_empty());
    }
}
