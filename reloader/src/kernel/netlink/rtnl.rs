//! Sends single requests of the crate `rtnetlink`, and subscribes to its notices, without an asynchronous runtime.
//!
//! The kernel handles a request of rtnetlink within send(2) (`rtnetlink_rcv` calls `netlink_rcv_skb` in net/core/rtnetlink.c): when
//! send(2) returns, the answer is in the socket. So one thread drives the connection itself, and waits in poll(2) where it
//! must. A runtime would have to be started in the guard process and in the threads of holds, and cannot be entered from a
//! thread that is in one already.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::BufMut;
use futures_util::future::FutureExt;
use futures_util::stream::{BoxStream, StreamExt};
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::proto::Connection;
use rtnetlink::sys::{AsyncSocket, Socket, SocketAddr};
use rtnetlink::{Handle, MulticastGroup, new_connection_with_socket, new_multicast_connection_with_socket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};

use super::ANSWER_TIMEOUT;
use crate::kernel::clock::timespec;

/// Sends one request in the network namespace of the calling thread, and returns what the kernel answers. `what` names the request
/// and its device in errors that are not the kernel's.
///
/// # Errors
/// The kernel's error number; `TimedOut` where it does not answer within [`ANSWER_TIMEOUT`].
pub(crate) fn execute<T, F>(what: &dyn Display, request: impl FnOnce(Handle) -> F) -> io::Result<T>
where
    F: Future<Output = Result<T, rtnetlink::Error>>,
{
    let (mut connection, handle, _notices) = new_connection_with_socket::<PolledSocket>()?;
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let mut request = pin!(request(handle));
    let mut context = Context::from_waker(Waker::noop());
    // The request gives its message to the connection.
    let mut answer = request.as_mut().poll(&mut context);
    loop {
        let ended = Pin::new(&mut connection).poll(&mut context).is_ready();
        if answer.is_pending() {
            answer = request.as_mut().poll(&mut context);
        }
        match answer {
            Poll::Ready(answer) => return answer.map_err(|error| into_io(what, error)),
            // Once the connection is dropped, rtnetlink takes a request without an answer for one that succeeded.
            Poll::Pending if ended => return Err(connection.socket_mut().failure()),
            Poll::Pending => wait(connection.socket_mut(), what, deadline)?,
        }
    }
}

fn into_io(what: &dyn Display, error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(error) => error.to_io(),
        error => io::Error::other(format!("{what}: {error}")),
    }
}

fn wait(socket: &PolledSocket, what: &dyn Display, deadline: Instant) -> io::Result<()> {
    let time = deadline.saturating_duration_since(Instant::now());
    let mut answered = [PollFd::new(&socket.socket, PollFlags::IN)];
    match retry_on_intr(|| poll(&mut answered, Some(&timespec(time))))? {
        0 => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{what}: the kernel did not answer within {} s", ANSWER_TIMEOUT.as_secs()),
        )),
        _ => Ok(()),
    }
}

/// A subscription to notices of the kernel.
pub(crate) struct Notices {
    connection: Connection<RouteNetlinkMessage, PolledSocket>,
    received: BoxStream<'static, (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// The connection ends when its last handle is dropped.
    _handle: Handle,
    /// A duplicate of the connection's socket.
    readable: OwnedFd,
}

impl Notices {
    /// Subscribes to `groups` in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Where the kernel gives no socket.
    pub(crate) fn subscribe(groups: &[MulticastGroup]) -> io::Result<Notices> {
        let (mut connection, handle, received) = new_multicast_connection_with_socket::<PolledSocket>(groups)?;
        let readable = connection.socket_mut().socket.as_fd().try_clone_to_owned()?;
        Ok(Notices { connection, received: received.boxed(), _handle: handle, readable })
    }

    /// Takes all notices that have come. A notice that cannot be parsed is dropped, as is one that the kernel had no room for
    /// (ENOBUFS): the number of notices says nothing.
    pub(crate) fn take(&mut self) {
        // Pending: the connection goes on as long as its handle lives. An error shows again at the next call.
        let _ = Pin::new(&mut self.connection).poll(&mut Context::from_waker(Waker::noop()));
        while let Some(Some(_)) = self.received.next().now_or_never() {}
    }
}

/// Readable when notices have come.
impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

/// A netlink socket that never blocks and wakes no task: who drives the connection waits in poll(2).
struct PolledSocket {
    socket: Socket,
    /// The first error: the connection only logs it.
    failure: OnceLock<Errno>,
}

impl PolledSocket {
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

    fn failure(&self) -> io::Error {
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

/// The bytes of the first message that a request sends, with the sequence number 0. They do not reach the kernel.
#[cfg(test)]
pub(in crate::kernel) fn bytes_sent<T, F>(request: impl FnOnce(Handle) -> F) -> Vec<u8>
where
    F: Future<Output = Result<T, rtnetlink::Error>>,
{
    let (mut connection, handle, _notices) = new_connection_with_socket::<tests::RecordingSocket>().unwrap();
    let mut request = pin!(request(handle));
    let mut context = Context::from_waker(Waker::noop());
    assert!(request.as_mut().poll(&mut context).is_pending());
    assert!(Pin::new(&mut connection).poll(&mut context).is_pending());
    let mut bytes = connection.socket_mut().sent.take();
    bytes[8..12].fill(0);
    bytes
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use rtnetlink::packet_core::NLM_F_ECHO;
    use rtnetlink::packet_route::link::LinkMessage;

    use super::*;

    /// LOOPBACK_IFINDEX
    const LO: u32 = 1;

    /// No device has this number, in any namespace.
    const NO_DEVICE: u32 = u32::MAX >> 1;

    /// A socket that keeps what it is given to send.
    pub(super) struct RecordingSocket {
        socket: Socket,
        pub(super) sent: RefCell<Vec<u8>>,
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

    #[test]
    fn an_error_of_the_kernel_keeps_its_number() {
        let error = execute(&"deleting", |handle| handle.link().del(NO_DEVICE).execute()).unwrap_err();
        assert!(matches!(Errno::from_io_error(&error), Some(Errno::NODEV | Errno::PERM)), "{error}");
    }

    #[test]
    fn an_answer_comes_back() {
        let request = |handle: Handle| async move {
            let mut links = std::pin::pin!(handle.link().get().match_index(LO).execute());
            links.next().await.unwrap_or(Err(rtnetlink::Error::RequestFailed))
        };
        let link = execute(&"reading lo", request).unwrap();
        assert_eq!(link.header.index, LO);
    }

    #[test]
    fn a_request_without_an_answer_is_an_error() {
        let request = |mut handle: Handle| async move {
            // Without NLM_F_REQUEST the kernel does nothing, and without NLM_F_ACK it does not say so (`netlink_rcv_skb`).
            let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
            message.header.flags = NLM_F_ECHO;
            handle.request(message)?.next().await.ok_or(rtnetlink::Error::RequestFailed)
        };
        let error = execute(&"asking nothing", request).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(error.to_string().starts_with("asking nothing: "), "{error}");
    }
}
