//! For tests: the bytes that `rtnetlink` sends.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::BufMut;
use rtnetlink::sys::{AsyncSocket, Socket, SocketAddr};
use rtnetlink::{Handle, new_connection_with_socket};

/// The bytes of the first message that a request sends, with the sequence number 0. They do not reach the kernel.
pub(in crate::kernel) fn bytes_sent<T, F>(request: impl FnOnce(Handle) -> F) -> Vec<u8>
where
    F: Future<Output = Result<T, rtnetlink::Error>>,
{
    let (mut connection, handle, _notices) = new_connection_with_socket::<RecordingSocket>().unwrap();
    let mut request = pin!(request(handle));
    let mut context = Context::from_waker(Waker::noop());
    assert!(request.as_mut().poll(&mut context).is_pending());
    assert!(Pin::new(&mut connection).poll(&mut context).is_pending());
    let mut bytes = connection.socket_mut().sent.take();
    bytes[8..12].fill(0);
    bytes
}

/// A socket that keeps the bytes that it is given to send.
struct RecordingSocket {
    socket: Socket,
    sent: RefCell<Vec<u8>>,
}

impl AsyncSocket for RecordingSocket {
    fn socket_ref(&self) -> &Socket {
        &self.socket
    }

    fn socket_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }

    fn new(protocol: isize) -> io::Result<Self> {
        Ok(Self { socket: Socket::new(protocol)?, sent: RefCell::default() })
    }

    fn poll_send(&self, _: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        *self.sent.borrow_mut() = buffer.to_vec();
        Poll::Ready(Ok(buffer.len()))
    }

    fn poll_send_to(&self, context: &mut Context<'_>, buffer: &[u8], _: &SocketAddr) -> Poll<io::Result<usize>> {
        self.poll_send(context, buffer)
    }

    fn poll_recv<B: BufMut>(&self, _: &mut Context<'_>, _: &mut B) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_recv_from<B: BufMut>(&self, _: &mut Context<'_>, _: &mut B) -> Poll<io::Result<SocketAddr>> {
        Poll::Pending
    }

    fn poll_recv_from_full(&self, _: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        Poll::Pending
    }
}
