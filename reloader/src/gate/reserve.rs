//! Reserves an SO_REUSEPORT group for the sockets that it has: a socket that joins later gets no new connection.
//!
//! A group has its sockets in an array, and a socket that joins becomes the last one (`__reuseport_add_sock` in
//! net/core/sock_reuseport.c). A classic BPF program that chooses among the first sockets (Linux 4.5) takes no privilege. When a socket
//! leaves, the last one takes its place. So with the old sockets gone, the program chooses among the new ones. An index that the group
//! does not have leaves the choice to the kernel (`reuseport_select_sock`). So a reservation that is never undone refuses no connection.

use std::io;
use std::os::fd::AsFd;

use aya::programs::SkReuseport;
use nix::libc::{self, sock_filter, sock_fprog};
use nix::sys::socket::{setsockopt, sockopt::AttachReusePortCbpf};

use crate::kernel::bpf::errno;

/// Reserves the group of `socket` for its first `count` sockets, which get the same share each.
///
/// # Errors
/// EINVAL for a socket that was bound without SO_REUSEPORT. ENOPROTOOPT before Linux 5.3, where a program cannot be detached again.
pub fn reserve(socket: impl AsFd, count: u32) -> io::Result<()> {
    match unreserve(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut program = among_first(count);
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    Ok(setsockopt(&socket, AttachReusePortCbpf, &program)?)
}

/// Undoes [`reserve`]: the kernel chooses among all sockets again.
///
/// # Errors
/// ENOENT where nothing is reserved.
pub fn unreserve(socket: impl AsFd) -> io::Result<()> {
    SkReuseport::detach(socket).map_err(|error| errno(&error).map_or_else(|| io::Error::other(error), Into::into))
}

/// A program that chooses one of the first `count` sockets at random.
fn among_first(count: u32) -> Vec<sock_filter> {
    let step = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    if count <= 1 {
        return vec![step(libc::BPF_RET | libc::BPF_K, 0)];
    }
    let random = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
    vec![
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, random),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, count),
        // BPF_A: the value of the accumulator.
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
    fn a_socket_that_joins_later_gets_no_connection_until_the_reservation_is_undone() {
        let first = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = first.local_addr().unwrap().as_socket().unwrap();
        let second = listener(address);
        reserve(&first, 2).unwrap();
        let late = listener(address);
        let connect = || (0..100).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>();
        let streams = connect();
        let shares = [&first, &second, &late].map(accepted);
        assert_eq!((shares[0] + shares[1], shares[2]), (100, 0), "{shares:?}");
        // The chance that one of them gets none is 1 in 2^99.
        assert!(shares[0] > 0 && shares[1] > 0, "{shares:?}");
        drop(streams);
        unreserve(&second).unwrap();
        let _streams = connect();
        assert!(accepted(&late) > 0);
        assert_eq!(unreserve(&first).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn once_the_old_sockets_are_gone_the_new_one_gets_the_connections() {
        let first = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = first.local_addr().unwrap().as_socket().unwrap();
        reserve(&first, 1).unwrap();
        let late = listener(address);
        drop(first);
        let _streams: Vec<_> = (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert_eq!(accepted(&late), 10);
    }
}
