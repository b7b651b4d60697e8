//! One question to the kernel over netlink, and its answers. Blocking: the kernel answers within the system call.

use std::fmt::Debug;
use std::io;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

mod lenient;

/// So long a list that changes while it is read is read again. The thread that holds SYNs has a lease to renew.
const CONSISTENT_WITHIN: Duration = Duration::from_millis(100);

/// For [`request`]: make what is not there yet.
pub(crate) const CREATE: u16 = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

/// Sends one request in the network namespace of the calling thread. `protocol` is NETLINK_ROUTE or another of
/// netlink(7); `flags` are added to NLM_F_REQUEST and must ask for an answer: NLM_F_ACK or NLM_F_DUMP.
///
/// A list that has changed each time is returned as it was read last: of a device that it lacks there is a notice
/// ([`Monitor`](super::monitor::Monitor)).
///
/// # Errors
/// What the kernel answers, also in the last message of a dump that fails half way.
pub(crate) fn request<M>(protocol: isize, message: M, flags: u16) -> io::Result<Vec<M>>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let question = encode(message, flags);
    let began = Instant::now();
    loop {
        socket.send(&question, 0)?;
        let mut answers = Answers { messages: Vec::new(), are_whole: true };
        loop {
            let (datagram, _) = socket.recv_from_full()?;
            if take_answers(&datagram, &mut answers)? {
                break;
            }
        }
        if answers.are_whole {
            return Ok(answers.messages);
        }
        if began.elapsed() >= CONSISTENT_WITHIN {
            log::warn!("what the kernel lists changed each time it was read: something may be missing");
            return Ok(answers.messages);
        }
    }
}

struct Answers<M> {
    messages: Vec<M>,
    /// What was dumped has not changed meanwhile (`nl_dump_check_consistent`): a part may else be missing.
    are_whole: bool,
}

pub(super) fn encode<M: NetlinkSerializable + Debug>(message: M, flags: u16) -> Vec<u8> {
    let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(message));
    packet.header.flags = NLM_F_REQUEST | flags;
    packet.finalize();
    let mut buffer = vec![0; packet.buffer_len()];
    packet.serialize(&mut buffer);
    buffer
}

/// Whether the last answer was among them.
fn take_answers<M>(mut datagram: &[u8], answers: &mut Answers<M>) -> io::Result<bool>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    while let Some(length) = datagram.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
        let packet = lenient::parse::<M>(datagram.get(..length).unwrap_or(datagram))?;
        // Messages begin at multiples of four bytes (NLMSG_ALIGN).
        datagram = datagram.get(length.next_multiple_of(4).max(4)..).unwrap_or_default();
        answers.are_whole &= packet.header.flags & NLM_F_DUMP_INTR == 0;
        match packet.payload {
            NetlinkPayload::InnerMessage(message) => answers.messages.push(message),
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

#[cfg(test)]
mod tests {
    use netlink_packet_route::RouteNetlinkMessage;
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    fn link(flags: u16) -> Vec<u8> {
        encode(RouteNetlinkMessage::NewLink(LinkMessage::default()), flags)
    }

    /// NLMSG_DONE, with the code of the dump behind its header.
    fn done() -> Vec<u8> {
        let mut message = [20_u32.to_ne_bytes(), [0; 4], [0; 4], [0; 4], [0; 4]].concat();
        message[4] = 3;
        message
    }

    #[test]
    fn one_message_that_says_so_makes_a_list_that_changed() {
        let taken = |datagrams: &[Vec<u8>]| {
            let mut answers = Answers::<RouteNetlinkMessage> { messages: Vec::new(), are_whole: true };
            let ends: Vec<bool> = datagrams.iter().map(|bytes| take_answers(bytes, &mut answers).unwrap()).collect();
            (answers.messages.len(), answers.are_whole, ends)
        };
        assert_eq!(taken(&[[link(0), link(0)].concat(), done()]), (2, true, vec![false, true]));
        assert_eq!(taken(&[[link(NLM_F_DUMP_INTR), link(0)].concat(), done()]), (2, false, vec![false, true]));
        let mut interrupted = done();
        interrupted[6] = NLM_F_DUMP_INTR as u8;
        assert_eq!(taken(&[[link(0), interrupted].concat()]), (1, false, vec![true]));
    }
}
