//! Removes the filters of dead owners.

use super::clsact::{filters_of, remove_filter, remove_unused_clsact};
use super::ownership::{Owner, clsact_is_ours, owner};
use super::site::{AttachError, unless_gone};
use crate::kernel::devices::Device;

/// Removes filters of ours from these devices of the calling thread's network namespace, and the `clsact` that was added for them unless it
/// is in use. `is_left_behind` gets a program's name and its owner, and tells whether the owner is dead. TCX leaves nothing. Returns how many
/// filters were removed, and what failed.
pub(crate) fn remove_left_behind(
    devices: &[Device],
    is_left_behind: impl Fn(&str, Owner) -> bool,
) -> (usize, Vec<AttachError>) {
    let mut errors = Vec::new();
    let removed = devices.iter().map(|device| remove_on(device, &is_left_behind, &mut errors)).sum();
    (removed, errors)
}

fn remove_on(device: &Device, is_left_behind: &impl Fn(&str, Owner) -> bool, errors: &mut Vec<AttachError>) -> usize {
    let mut filters = match filters_of(device).or_else(unless_gone::<Vec<_>>(device)) {
        Ok(filters) => filters,
        Err(error) => {
            errors.push(error);
            return 0;
        }
    };
    filters.retain(|(_, filter)| owner(filter).is_some_and(|(name, owner)| is_left_behind(name, owner)));
    let mut removed = 0;
    for (direction, filter) in &filters {
        match remove_filter(device, *direction, filter) {
            Ok(()) => removed += 1,
            Err(error) => errors.push(error),
        }
    }
    if filters.iter().any(|(_, filter)| clsact_is_ours(filter)) {
        errors.extend(remove_unused_clsact(device).err());
    }
    removed
}
