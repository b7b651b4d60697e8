//! The version of the running kernel.

use std::fs;

/// The kernel's release, as `uname -r` prints it; `None` where /proc cannot be read.
pub fn kernel_release() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.trim().to_owned())
}
