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
/// No list is read again after this time: the thread that holds SYNs has a lease to renew.
const REPEAT_WITHIN: Duration = Duration::from_millis(100);

/// Flags of [`request`] to create an object, and to fail with EEXIST where it exists.
pub(crate) const CREATE: u16 = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

/// Where `struct nlmsghdr` has the sequence number, in bytes.
const SEQUENCE: std::ops::Range<usize> = 8..12;

/// Sends one request in the network namespace of the calling thread. `protocol` is NETLINK_ROUTE or another of
/// netlink(7); `flags` are added to NLM_F_REQUEST and must ask for an answer: NLM_F_ACK or NLM_F_DUMP.
///
/// A list that has changed each time is returned as it was read last, with a warning: of a device that it lacks there is a
/// notice ([`Monitor`](crate::kernel::monitor::Monitor)).
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

/// What a request is sent by.
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
    // 0 is the number of notices, which answer nothing.
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
    /// Messages with another number answer another request.
    sequence: u32,
    messages: Vec<M>,
    /// What was listed has not changed meanwhile (`nl_dump_check_consistent`). Otherwise a part may be missing.
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
mod tests {
    use rtnetlink::packet_core::NLM_F_DUMP;
    use rtnetlink::packet_route::RouteNetlinkMessage;
    use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

    use super::*;

    /// A kernel that gives these datagrams for each request, one after the other, with the request's sequence number in every
    /// message that has the number 0.
    struct Planted {
        answers: Vec<Vec<Vec<u8>>>,
        requests: usize,
        waiting: Vec<Vec<u8>>,
    }

    impl Channel for Planted {
        fn send(&mut self, request: &[u8]) -> io::Result<()> {
            self.waiting = self.answers.get(self.requests).cloned().unwrap_or_default();
            self.waiting.iter_mut().for_each(|datagram| number(datagram, &request[SEQUENCE]));
            self.waiting.reverse();
            self.requests += 1;
            Ok(())
        }

        fn receive(&mut self) -> io::Result<Vec<u8>> {
            self.waiting.pop().ok_or_else(|| io::ErrorKind::TimedOut.into())
        }
    }

    fn number(mut datagram: &mut [u8], sequence: &[u8]) {
        while let Some(length) = datagram.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
            let (message, rest) = datagram.split_at_mut(length);
            if message[SEQUENCE] == [0; 4] {
                message[SEQUENCE].copy_from_slice(sequence);
            }
            datagram = rest;
        }
    }

    fn link(index: u32, flags: u16) -> Vec<u8> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        encode(RouteNetlinkMessage::NewLink(link), flags)
    }

    /// NLMSG_DONE, with the code of the dump behind its header.
    fn done(flags: u16) -> Vec<u8> {
        let mut message = [20_u32.to_ne_bytes(), [0; 4], [0; 4], [0; 4], [0; 4]].concat();
        message[4] = 3;
        message[6..8].copy_from_slice(&flags.to_ne_bytes());
        message
    }

    /// The devices' numbers that are listed, and how often the list was asked for.
    fn listed(answers: Vec<Vec<Vec<u8>>>, repeat_within: Duration) -> io::Result<(Vec<u32>, usize)> {
        let mut kernel = Planted { answers, requests: 0, waiting: Vec::new() };
        let request = encode(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP);
        let messages: Vec<RouteNetlinkMessage> = exchange(&mut kernel, request, repeat_within)?;
        let index = |message| match message {
            RouteNetlinkMessage::NewLink(link) => link.header.index,
            other => panic!("{other:?}"),
        };
        Ok((messages.into_iter().map(index).collect(), kernel.requests))
    }

    #[test]
    fn consistent_list_is_read_once() {
        let answers = vec![vec![[link(1, 0), link(2, 0)].concat(), done(0)]];
        assert_eq!(listed(answers, Duration::MAX).unwrap(), (vec![1, 2], 1));
    }

    #[test]
    fn list_that_changed_is_read_again() {
        let whole = vec![[link(1, 0), link(2, 0), done(0)].concat()];
        let changed_at_a_device = vec![[link(1, NLM_F_DUMP_INTR), link(3, 0)].concat(), done(0)];
        assert_eq!(listed(vec![changed_at_a_device, whole.clone()], Duration::MAX).unwrap(), (vec![1, 2], 2));
        let changed_at_the_end = vec![link(1, 0), done(NLM_F_DUMP_INTR)];
        assert_eq!(listed(vec![changed_at_the_end, whole], Duration::MAX).unwrap(), (vec![1, 2], 2));
    }

    #[test]
    fn list_that_changes_each_time_is_repeated_three_times_at_most() {
        let changed = |index| vec![link(index, NLM_F_DUMP_INTR), done(0)];
        assert_eq!(listed((1..=9).map(changed).collect(), Duration::MAX).unwrap(), (vec![4], 4));
        assert_eq!(listed((1..=9).map(changed).collect(), Duration::ZERO).unwrap(), (vec![1], 1));
    }

    #[test]
    fn answer_to_another_request_is_skipped() {
        let mut of_another = [link(7, 0), done(0)].concat();
        number(&mut of_another, &77_u32.to_ne_bytes());
        assert_eq!(listed(vec![vec![of_another, link(1, 0), done(0)]], Duration::MAX).unwrap(), (vec![1], 1));
    }

    #[test]
    fn list_that_fails_half_way_is_an_error() {
        let mut failed = done(0);
        failed[16..].copy_from_slice(&(-16_i32).to_ne_bytes());
        let error = listed(vec![vec![link(1, 0), failed]], Duration::MAX).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(16));
    }

    #[test]
    fn device_with_an_unreadable_alias_stays_in_the_list() {
        let mut aliased = LinkMessage::default();
        aliased.header.index = 2;
        aliased.attributes.push(LinkAttribute::IfAlias("Zurich".into()));
        let mut aliased = encode(RouteNetlinkMessage::NewLink(aliased), 0);
        let alias = aliased.windows(6).position(|bytes| bytes == b"Zurich").unwrap();
        // In Latin-1.
        aliased[alias + 1] = 0xfc;
        let answers = vec![vec![[link(1, 0), aliased, link(3, 0)].concat(), done(0)]];
        assert_eq!(listed(answers, Duration::MAX).unwrap(), (vec![1, 2, 3], 1));
    }
}
