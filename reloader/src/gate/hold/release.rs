//! Releases all living holds from outside: `reloader release`.

use std::time::Instant;

use rustix::process::Signal;

use super::error::HoldError;
use super::registry::{GuardId, HoldEntry, HoldRegistry};
use super::timing::{RELEASE_POLL_INTERVAL, RELEASE_TIMEOUT};
use crate::process;

/// Asks the guards of all living holds to release, and waits until they have. Returns the holds that were released, and those that
/// were not, because their guards are dead, do not answer or failed.
///
/// # Errors
/// Where the registry cannot be read.
#[expect(clippy::disallowed_methods, reason = "only `reloader release` waits here")]
pub fn release_all(registry: &HoldRegistry) -> Result<(Vec<HoldEntry>, Vec<HoldEntry>), HoldError> {
    let mut waiting: Vec<HoldEntry> = registry.list()?.into_iter().filter(HoldEntry::holds).collect();
    let (mut released, mut asked) = (Vec::new(), Vec::new());
    let end = Instant::now() + RELEASE_TIMEOUT;
    loop {
        let now = registry.list()?;
        let is_over = |was: &mut HoldEntry| {
            now.iter().find(|entry| entry.is_of_the_same_hold(was)).is_none_or(|entry| !entry.holds())
        };
        released.extend(waiting.extract_if(.., is_over));
        // A hold whose guard has died may have another one by now.
        let waits = |entry: &&HoldEntry| waiting.iter().any(|waiting| entry.is_of_the_same_hold(waiting));
        for guard in now.iter().filter(waits).filter_map(|entry| entry.record.as_ref()?.guard) {
            if !asked.contains(&guard) {
                ask(guard);
                asked.push(guard);
            }
        }
        if waiting.is_empty() || Instant::now() >= end {
            return Ok((released, waiting));
        }
        std::thread::sleep(RELEASE_POLL_INTERVAL);
    }
}

fn ask(guard: GuardId) {
    // A guard that was stopped gets the first signal once the second one lets it run.
    for signal in [Signal::TERM, Signal::CONT] {
        process::kill_if_same(guard.pid, guard.start_time, signal);
    }
}
