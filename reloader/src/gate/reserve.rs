//! Keeps the new connections of an SO_REUSEPORT group with the sockets that are there: whoever joins later gets none.
//!
//! A group has its sockets in an array, and one that joins becomes the last (`__reuseport_add_sock` in net/core/sock_reuseport.c). A
//! classic BPF program that chooses among the first ones (Linux 4.5) takes no privilege. When a socket leaves, the last one takes
//! its place: with the old sockets gone the program chooses among the new ones, and an index that the group does not have leaves
//! the choice to the kernel (`reuseport_select_sock`). So one that is forgotten refuses nobody.

use std::io;
use std::os::fd::AsFd;

use aya::programs::SkReuseport;
use nix::libc::{self, sock_filter, sock_fprog};
use nix::sys::socket::{setsockopt, sockopt::AttachReusePortCbpf};

use crate::kernel::bpf::errno;

/// Reserves the group of `socket` for its first `count` sockets, which get the same share each.
///
/// # Errors
/// The kernel's: EINVAL for a socket that was bound without SO_REUSEPORT, ENOPROTOOPT before Linux 5.3, where a program cannot be taken off
/// again.
pub fn reserve(socket: impl AsFd, count: u32) -> io::Result<()> {
    match unreserve(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut program = among_first(count);
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    Ok(setsockopt(&socket, AttachReusePortCbpf, &program)?)
}

/// The kernel chooses again.
///
/// # Errors
/// The kernel's: ENOENT where nothing is reserved.
pub fn unreserve(socket: impl AsFd) -> io::Result<()> {
    SkReuseport::detach(socket).map_err(|error| errno(&error).map_or_else(|| io::Error::other(error), Into::into))
}

fn among_first(count: u32) -> Vec<sock_filter> {
    let step = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    if count <= 1 {
        return vec![step(libc::BPF_RET | libc::BPF_K, 0)];
    }
    let random = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    vec![
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, random),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, count),
        // BPF_A: what the accumulator holds.
        step(libc::BPF_RET | 0x10, 0),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};

    use socket2::{Domain, Socket, Type};

    use super::*;

    fn listener(address: SocketAddr) -> Socket {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(1024).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    fn accepted(listener: &Socket) -> usize {
        std::iter::from_fn(|| listener.accept().ok()).count()
    }

    #[test]
    fn who_joins_later_gets_nothing_until_the_group_is_free_again() {
        let first = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = first.local_addr().unwrap().as_socket().unwrap();
        let second = listener(address);
        reserve(&first, 2).unwrap();
        let late = listener(address);
        let connect = || (0..100).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>();
        let streams = connect();
        let shares = [&first, &second, &late].map(accepted);
        assert_eq!((shares[0] + shares[1], shares[2]), (100, 0), "{shares:?}");
        // By chance: 1 in 2^100 that one of them gets none.
        assert!(shares[0] > 0 && shares[1] > 0, "{shares:?}");
        drop(streams);
        unreserve(&second).unwrap();
        let _streams = connect();
        assert!(accepted(&late) > 0);
        assert_eq!(unreserve(&first).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn with_the_old_ones_gone_the_new_one_is_served() {
        let first = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = first.local_addr().unwrap().as_socket().unwrap();
        reserve(&first, 1).unwrap();
        let late = listener(address);
        drop(first);
        let _streams: Vec<_> = (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert_eq!(accepted(&late), 10);
    }
}
