//! Sends one request and reads all its answers: acknowledgements, and lists (dumps) of many messages.

use std::fmt::Debug;
use std::io;
use std::time::{Duration, Instant};

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::{ANSWER_TIMEOUT, attributes};

/// How often a list that changed while it was read is read again.
const MAX_REPEATS: u32 = 3;
/// When this time has passed since the first request, the list is not read again, because a thread that holds SYNs must
/// renew its lease.
const REPEAT_WITHIN: Duration = Duration::from_millis(100);

/// The flags of a [`request`] that creates an object. It fails with EEXIST if the object exists.
pub(crate) const CREATE: u16 = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

/// Where `struct nlmsghdr` has the sequence number, in bytes.
const SEQUENCE: std::ops::Range<usize> = 8..12;

/// Sends one request in the network namespace of the calling thread. `protocol` is NETLINK_ROUTE or another of
/// netlink(7); `flags` are added to NLM_F_REQUEST and must ask for an answer: NLM_F_ACK or NLM_F_DUMP.
///
/// If a list has changed each time it was read, the last reading is returned and a warning is logged. A device that is missing from the list
/// causes a notice ([`Monitor`](crate::kernel::monitor::Monitor)).
///
/// # Errors
/// The kernel's error number, also of a list that fails half way; `TimedOut` where the kernel does not answer within
/// [`ANSWER_TIMEOUT`]; `InvalidData` where a message cannot be parsed even without its attributes.
pub(crate) fn request<M>(protocol: isize, message: M, flags: u16) -> io::Result<Vec<M>>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    exchange(&mut socket, encode(message, flags), REPEAT_WITHIN)
}

/// Sends a request and receives its answers. Tests implement it without a kernel.
trait Channel {
    fn send(&mut self, request: &[u8]) -> io::Result<()>;
    fn receive(&mut self) -> io::Result<Vec<u8>>;
}

impl Channel for Socket {
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        Socket::send(self, request, 0).map(drop)
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let received = self.recv_from_full().map(|(datagram, _)| datagram);
        received.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                let text = format!("the kernel did not answer a netlink request within {} s", ANSWER_TIMEOUT.as_secs());
                io::Error::new(io::ErrorKind::TimedOut, text)
            }
            _ => error,
        })
    }
}

/// A list that changed is read again until `repeat_within` is over, and [`MAX_REPEATS`] times at most.
fn exchange<M>(channel: &mut impl Channel, mut request: Vec<u8>, repeat_within: Duration) -> io::Result<Vec<M>>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    let start = Instant::now();
    // Notices have the sequence number 0, and answer no request.
    let mut sequence = 0_u32;
    loop {
        sequence += 1;
        request[SEQUENCE].copy_from_slice(&sequence.to_ne_bytes());
        channel.send(&request)?;
        let mut answers = Answers { sequence, messages: Vec::new(), consistent: true };
        while !answers.take(&channel.receive()?)? {}
        if answers.consistent {
            return Ok(answers.messages);
        }
        if sequence > MAX_REPEATS || start.elapsed() >= repeat_within {
            log::warn!("the kernel's list changed each time it was read ({sequence} times): something may be missing");
            return Ok(answers.messages);
        }
    }
}

/// The message in the kernel's format. The sequence number is 0.
pub(in crate::kernel) fn encode<M: NetlinkSerializable + Debug>(message: M, flags: u16) -> Vec<u8> {
    let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(message));
    packet.header.flags = NLM_F_REQUEST | flags;
    packet.finalize();
    let mut buffer = vec![0; packet.buffer_len()];
    packet.serialize(&mut buffer);
    buffer
}

struct Answers<M> {
    /// The sequence number of the request. A message with another number answers another request.
    sequence: u32,
    messages: Vec<M>,
    /// Whether the listed objects stayed the same while the kernel listed them (`nl_dump_check_consistent`). Otherwise
    /// a part of the list may be missing.
    consistent: bool,
}

impl<M: NetlinkSerializable + NetlinkDeserializable + Debug> Answers<M> {
    /// Takes the messages of one datagram. True when the last answer was among them.
    fn take(&mut self, mut datagram: &[u8]) -> io::Result<bool> {
        while let Some(length) = datagram.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
            let message = datagram.get(..length).unwrap_or(datagram);
            // Messages begin at multiples of four bytes (NLMSG_ALIGN).
            datagram = datagram.get(length.next_multiple_of(4).max(4)..).unwrap_or_default();
            if message.get(SEQUENCE) != Some(&self.sequence.to_ne_bytes()) {
                continue;
            }
            let packet = attributes::parse::<M>(message)?;
            self.consistent &= packet.header.flags & NLM_F_DUMP_INTR == 0;
            match packet.payload {
                NetlinkPayload::InnerMessage(message) => self.messages.push(message),
                // A dump that fails half way ends with the error in its last message (`netlink_dump_done`).
                NetlinkPayload::Done(done) if done.code < 0 => return Err(io::Error::from_raw_os_error(-done.code)),
                NetlinkPayload::Done(_) => return Ok(true),
                // An error of code 0 is the acknowledgement.
                NetlinkPayload::Error(error) => return error.code.map_or(Ok(true), |_| Err(error.to_io())),
                _ => {}
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
