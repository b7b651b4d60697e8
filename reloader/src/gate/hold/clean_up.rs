//! What is left of holds whose holder and guard have both died, and the emergency exit for those that live.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::registry::{GuardId, HoldEntry, HoldRegistry};
use super::{HoldError, Living, liveness_socket, persistent_qdiscs};
use crate::gate::{ebpf, qdisc};
use crate::kernel::{devices, tc};
use crate::process;

/// How long a living guard may take to release: for half a second it leaves that to the holder, then it may wait for its turn.
const LIFT_TIMEOUT: Duration = Duration::from_secs(10);

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CleanUp {
    /// Filters, qdiscs and devices of dead holds that were removed.
    pub removed: usize,
    /// Holds that had lost holder and guard.
    pub dead: Vec<u16>,
    /// Holds of other network namespaces whose traces, if any, are there still.
    pub elsewhere: Vec<u16>,
}

/// Removes what dead holds left in the network namespace of the calling thread. Living ones are left alone.
///
/// # Errors
/// Where the records cannot be read or something cannot be removed, after everything else was.
pub fn clean_up(records: &HoldRegistry) -> Result<CleanUp, HoldError> {
    // A hold that begins meanwhile would be taken for a dead one: it waits.
    let lock = records.lock()?;
    let all = records.list()?;
    let named = liveness_socket::bound();
    let living = records.living()?;
    let removed = remove_traces(&living)? + persistent_qdiscs::remove_stale(records)?;
    let mut done = CleanUp { removed, ..CleanUp::default() };
    for dead in all.iter().filter(|found| !found.lives) {
        if dead.record.as_ref().is_some_and(|record| !record.is_of_this_namespace()) {
            done.elsewhere.push(dead.id);
            continue;
        }
        // Somebody lives who has the same id and other records: what is there may be his.
        if named.contains(&dead.id) {
            continue;
        }
        records.forget(dead.id, &lock)?;
        done.dead.push(dead.id);
    }
    Ok(done)
}

/// The same before a hold begins, which fails for no trace of another.
pub(super) fn clean_up_after_the_dead(records: &HoldRegistry) {
    let any = records.list().is_ok_and(|all| all.iter().any(|found| !found.lives));
    match any.then(|| clean_up(records)) {
        Some(Ok(done)) if !done.dead.is_empty() => {
            log::info!("cleaned up after {} holds that had lost holder and guard", done.dead.len());
        }
        Some(Err(error)) => log::warn!("cleaning up after a hold that had lost holder and guard: {error}"),
        _ => {}
    }
}

/// Asks the guards of all living holds to release, and waits until they have. Returns the holds that were lifted, and those that
/// were not: their guards are dead, or do not answer, or could not.
///
/// # Errors
/// Where the records cannot be read.
#[expect(clippy::disallowed_methods, reason = "only `reloader release` waits here")]
pub fn lift_all(records: &HoldRegistry) -> Result<(Vec<HoldEntry>, Vec<HoldEntry>), HoldError> {
    let mut waiting: Vec<HoldEntry> = records.list()?.into_iter().filter(HoldEntry::holds).collect();
    let (mut lifted, mut asked) = (Vec::new(), Vec::new());
    let end = Instant::now() + LIFT_TIMEOUT;
    loop {
        let now = records.list()?;
        let is_over = |was: &mut HoldEntry| {
            now.iter().find(|found| found.is_of_the_same_hold(was)).is_none_or(|found| !found.holds())
        };
        lifted.extend(waiting.extract_if(.., is_over));
        // Another one may have taken a dead guard's place.
        let waits = |found: &&HoldEntry| waiting.iter().any(|waiting| found.is_of_the_same_hold(waiting));
        for guard in now.iter().filter(waits).filter_map(|found| found.record.as_ref()?.guard) {
            if !asked.contains(&guard) {
                ask(guard);
                asked.push(guard);
            }
        }
        if waiting.is_empty() || Instant::now() >= end {
            return Ok((lifted, waiting));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ask(guard: GuardId) {
    // One that was stopped hears of it when it goes on.
    for signal in [Signal::TERM, Signal::CONT] {
        process::kill_if_same(guard.pid, guard.start_time, signal);
    }
}

/// Removes the traces of one hold, whose process calls this, and from the devices that were `bare` before what it was to make a
/// filter in, and died first: nothing tells whose an empty one is.
pub(super) fn remove_traces_of(id: u16, bare: &BTreeSet<u32>, records: &HoldRegistry) -> Result<(), HoldError> {
    records.alone(|| {
        let mut others = records.living()?;
        others.remove(&id);
        let traces = remove_traces(&others).map(drop);
        let empty = bare.iter().map(|device| remove_unused(*device));
        empty.fold(traces, Result::and)
    })
}

fn remove_unused(device: u32) -> Result<(), HoldError> {
    let removed = tc::remove_unused(device).map(drop);
    let named = |error: io::Error| format!("removing the empty qdisc of device {device}: {error}");
    removed.map_err(|error| io::Error::new(error.kind(), named(error)).into())
}

/// The devices that have neither `ingress` nor `clsact`.
pub(super) fn bare_devices() -> io::Result<BTreeSet<u32>> {
    let qdiscs = tc::qdisc::list()?;
    let is_bare =
        |device: &u32| !qdiscs.iter().any(|qdisc| qdisc.device == *device && qdisc.handle == tc::qdisc::INGRESS_HANDLE);
    Ok(devices::list()?.iter().map(|device| device.index).filter(is_bare).collect())
}

fn remove_traces(living: &Living) -> Result<usize, HoldError> {
    let of_qdisc = qdisc::remove_stale(living);
    let of_ebpf = ebpf::remove_stale(living);
    Ok(of_qdisc? + of_ebpf?)
}
