//! Reads TCP_INFO of a socket (tcp(7)).

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

/// The fields of TCP_INFO that this crate uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// The socket's state, as in the kernel's `net/tcp_states.h`.
    pub(crate) state: u8,
    /// How many segments were sent again since the socket was made, SYNs included.
    pub(crate) total_retrans: u32,
}

/// Reads TCP_INFO of a TCP socket.
///
/// # Errors
/// The error of getsockopt(2): the socket is not a TCP socket.
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed. The kernel writes at most `length` bytes to `info`,
    // whose size is `length`. It writes the new length to `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `info` is a struct of integers, and it was zeroed before the kernel wrote to it.
    let info = unsafe { info.assume_init() };
    Ok(TcpInfo { state: info.tcpi_state, total_retrans: info.tcpi_total_retrans })
}
