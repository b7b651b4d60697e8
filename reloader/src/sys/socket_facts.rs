//! Asks the kernel what a socket is bound to.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use rustix::net::{AddressFamily, SocketType};

/// `SIOCGSKNS` of linux/sockios.h.
const GET_NETWORK_NAMESPACE: libc::c_ulong = 0x894C;

/// The network namespace that a socket belongs to, as a descriptor of that namespace (Linux 4.9, CAP_NET_ADMIN).
///
/// # Errors
/// The error of ioctl(2).
pub(crate) fn network_namespace_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open for as long as it is borrowed. The call takes no argument.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), GET_NETWORK_NAMESPACE as _) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has opened this descriptor for the caller (`open_related_ns`), close-on-exec. Nothing else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The cookie of the calling thread's network namespace (`SO_NETNS_COOKIE`, Linux 5.14). BPF programs see the same number.
///
/// # Errors
/// The error of socket(2) or getsockopt(2).
pub(crate) fn network_namespace_cookie() -> io::Result<u64> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    option_at(socket.as_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE)
}

/// The number of the device that a socket is bound to, 0 for none (`SO_BINDTOIFINDEX`, Linux 5.0). The number stays when the device has gone.
///
/// # Errors
/// The error of getsockopt(2).
pub(crate) fn bound_device(socket: BorrowedFd<'_>) -> io::Result<u32> {
    socket_option(socket, libc::SO_BINDTOIFINDEX).map(i32::cast_unsigned)
}

/// The protocol of a socket (`SO_PROTOCOL`): one of the IPPROTO_ numbers.
///
/// # Errors
/// The error of getsockopt(2).
pub(crate) fn protocol(socket: BorrowedFd<'_>) -> io::Result<i32> {
    socket_option(socket, libc::SO_PROTOCOL)
}

/// How long a listener's handshakes wait for the client's first data (TCP_DEFER_ACCEPT of tcp(7)), in whole seconds. Zero for other sockets.
pub(crate) fn accept_deferral(socket: BorrowedFd<'_>) -> Duration {
    let seconds = option_at(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT).unwrap_or(0_i32);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Whether a socket may be bound to an address that this host does not have (`transparent` and freebind: IP_TRANSPARENT and IP_FREEBIND of ip(7)).
pub(crate) fn binds_absent_addresses(socket: BorrowedFd<'_>) -> bool {
    let options = [
        (libc::IPPROTO_IP, libc::IP_FREEBIND),
        (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
        (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
        (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
    ];
    options.into_iter().any(|(level, option)| option_at(socket, level, option).is_ok_and(|value: i32| value != 0))
}

fn socket_option(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<i32> {
    option_at(socket, libc::SOL_SOCKET, option)
}

/// An integer of which every bit pattern is a value.
trait OptionValue: Default {}
impl OptionValue for i32 {}
impl OptionValue for u64 {}

fn option_at<T: OptionValue>(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed. The kernel writes at most `length` bytes to `value`, whose size is `length`, and
    // any bytes are a value.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut length) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
