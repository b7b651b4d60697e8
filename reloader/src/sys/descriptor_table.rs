//! Compares the descriptor tables of two threads.

use std::io;

use nix::libc;

/// `KCMP_FILES` of linux/kcmp.h.
const KCMP_FILES: libc::c_int = 2;

/// Whether two threads have the same descriptor table (kcmp(2)). `None` where the kernel does not tell: it has no CONFIG_KCMP, a thread has
/// ended, or this process may not look at it.
pub(crate) fn share_descriptors(one: u32, other: u32) -> Option<bool> {
    // SAFETY: the call takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, one as libc::pid_t, other as libc::pid_t, KCMP_FILES, 0, 0) };
    match result {
        0 => Some(true),
        1..=3 => Some(false),
        _ => {
            log::trace!("kcmp: {}", io::Error::last_os_error());
            None
        }
    }
}
