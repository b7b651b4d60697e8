//! Attaches TCX programs by two commands of bpf(2), BPF_LINK_CREATE and BPF_LINK_DETACH. aya's links are not used,
//! because they cannot be passed to another process.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::libc;

/// Where a TCX program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TcxHook {
    /// BPF_TCX_INGRESS.
    Ingress = 46,
    /// BPF_TCX_EGRESS.
    Egress = 47,
}

/// The part of `union bpf_attr` that BPF_LINK_CREATE uses for TCX.
#[repr(C)]
struct LinkCreate {
    program: u32,
    device: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    expected_revision: u64,
}

/// Attaches a tc program to the device with this index, before all other programs. The program stays attached while any
/// process has the link open.
///
/// # Errors
/// EINVAL on a kernel before 6.6, ENODEV if there is no such device, EPERM without the privilege.
pub(crate) fn attach_tcx(program: BorrowedFd<'_>, device: u32, hook: TcxHook) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_long = 28;
    const BPF_F_BEFORE: u32 = 8;
    let attributes = LinkCreate {
        program: program.as_raw_fd() as u32,
        device,
        attach_type: hook as u32,
        flags: BPF_F_BEFORE,
        relative: 0,
        padding: 0,
        expected_revision: 0,
    };
    // SAFETY: the kernel reads as many bytes as the size argument says. All of these bytes are initialised, and the
    // kernel keeps no pointer to them.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attributes, size_of::<LinkCreate>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened this descriptor (close-on-exec) for us, and no other code has it.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

/// Detaches a link's program now, even if other processes have the link open.
///
/// # Errors
/// EINVAL if the descriptor is not a link.
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_LINK_DETACH: libc::c_long = 34;
    let attributes = link.as_raw_fd() as u32;
    // SAFETY: the kernel reads as many bytes as the size argument says. All of these bytes are initialised, and the
    // kernel keeps no pointer to them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const attributes, size_of::<u32>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
