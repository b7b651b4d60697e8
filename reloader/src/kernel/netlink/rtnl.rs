//! Sends single requests of the crate `rtnetlink`, and subscribes to its notices, without an asynchronous runtime.
//!
//! The kernel handles a request of rtnetlink within send(2) (`rtnetlink_rcv` calls `netlink_rcv_skb` in net/core/rtnetlink.c): when send(2)
//! returns, the answer is in the socket. So one thread drives the connection itself, and waits in poll(2) where it must. A runtime would have to
//! be started in the guard process and in the threads of holds. A thread that already runs in a runtime cannot enter another one.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use futures_util::future::FutureExt;
use futures_util::stream::{BoxStream, StreamExt};
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::proto::Connection;
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, new_connection_with_socket, new_multicast_connection_with_socket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

use super::ANSWER_TIMEOUT;
use super::polled_socket::PolledSocket;
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
    // The first poll of the request hands its message to the connection.
    let mut answer = request.as_mut().poll(&mut context);
    loop {
        let ended = Pin::new(&mut connection).poll(&mut context).is_ready();
        if answer.is_pending() {
            answer = request.as_mut().poll(&mut context);
        }
        match answer {
            Poll::Ready(answer) => return answer.map_err(|error| into_io(what, error)),
            // Once the connection is dropped, rtnetlink treats a request without an answer as successful.
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

    /// Takes all notices that have arrived. A notice is dropped if it cannot be parsed, or if the kernel had no room for it (ENOBUFS). So the
    /// number of notices has no meaning.
    pub(crate) fn take(&mut self) {
        // The result is ignored. The connection is pending as long as its handle lives, and an error is returned again
        // by the next call.
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

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::NLM_F_ECHO;
    use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
    use rustix::io::Errno;

    use super::*;

    /// LOOPBACK_IFINDEX
    const LO: u32 = 1;

    /// No device has this number, in any namespace.
    const NO_DEVICE: u32 = u32::MAX >> 1;

    #[test]
    fn kernel_error_keeps_its_number() {
        let error = execute(&"deleting", |handle| handle.link().del(NO_DEVICE).execute()).unwrap_err();
        assert!(matches!(Errno::from_io_error(&error), Some(Errno::NODEV | Errno::PERM)), "{error}");
    }

    #[test]
    fn answer_is_returned() {
        let request = |handle: Handle| async move {
            let mut links = std::pin::pin!(handle.link().get().match_index(LO).execute());
            links.next().await.unwrap_or(Err(rtnetlink::Error::RequestFailed))
        };
        let link = execute(&"reading lo", request).unwrap();
        assert_eq!(link.header.index, LO);
    }

    #[test]
    fn request_without_an_answer_is_an_error() {
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

    #[test]
    fn connection_that_ends_before_the_answer_is_an_error() {
        // Longer than the socket's send buffer: EMSGSIZE ends the connection.
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfAlias("x".repeat(40_000)); 30];
        let error = execute(&"sending too much", |handle| handle.link().add(link).execute()).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::MSGSIZE), "{error}");
    }
}
