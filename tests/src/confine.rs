//! Takes capabilities and system calls away from the calling process, and so from the program that it becomes.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use nix::libc;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Removes a capability from the bounding set: a program started by root gets only what that set leaves.
///
/// # Errors
/// If the calling process must not do it.
pub fn drop_capability(capability: CapabilitySet) -> Result<()> {
    match remove_capability_from_bounding_set(capability) {
        // An older kernel does not know newer capabilities, and grants none of them.
        Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
        Err(errno) => bail!("dropping {capability:?}: {errno}"),
    }
}

/// Makes these system calls fail with `errno`, whatever their arguments.
///
/// # Errors
/// If the filter cannot be built or installed.
pub fn deny_syscalls(calls: &[i64], errno: i32) -> Result<()> {
    if calls.is_empty() {
        return Ok(());
    }
    let rules: BTreeMap<libc::c_long, _> = calls.iter().map(|call| (*call, vec![])).collect();
    let answer = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, std::env::consts::ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}
