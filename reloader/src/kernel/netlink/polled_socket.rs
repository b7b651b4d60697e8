//! Defines the netlink socket of connections that are driven by the thread that uses them.

use std::io;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use bytes::BufMut;
use rtnetlink::sys::{AsyncSocket, Socket, SocketAddr};
use rustix::io::Errno;

/// A netlink socket that never blocks and wakes no task: the thread that drives the connection waits in poll(2).
pub(super) struct PolledSocket {
    pub(super) socket: Socket,
    /// The first error. It is kept, because the connection only logs it.
    failure: OnceLock<Errno>,
}

impl PolledSocket {
    /// Pending where the call would block.
    fn polled<T>(&self, result: io::Result<T>) -> Poll<io::Result<T>> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => {
                let _ = self.failure.set(Errno::from_io_error(&error).unwrap_or(Errno::IO));
                Poll::Ready(Err(error))
            }
            done => Poll::Ready(done),
        }
    }

    /// The error that ended the connection.
    pub(super) fn failure(&self) -> io::Error {
        self.failure.get().copied().unwrap_or(Errno::CONNRESET).into()
    }
}

impl AsyncSocket for PolledSocket {
    fn socket_ref(&self) -> &Socket {
        &self.socket
    }

    fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    fn new(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket, failure: OnceLock::new() })
    }

    fn poll_send(&self, _: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.polled(self.socket.send(buffer, 0))
    }

    fn poll_send_to(&self, _: &mut Context<'_>, buffer: &[u8], to: &SocketAddr) -> Poll<io::Result<usize>> {
        self.polled(self.socket.send_to(buffer, to, 0))
    }

    fn poll_recv<B: BufMut>(&self, _: &mut Context<'_>, buffer: &mut B) -> Poll<io::Result<()>> {
        self.polled(self.socket.recv(buffer, 0).map(drop))
    }

    fn poll_recv_from<B: BufMut>(&self, _: &mut Context<'_>, buffer: &mut B) -> Poll<io::Result<SocketAddr>> {
        self.polled(self.socket.recv_from(buffer, 0).map(|(_, from)| from))
    }

    fn poll_recv_from_full(&self, _: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        self.polled(self.socket.recv_from_full())
    }
}
