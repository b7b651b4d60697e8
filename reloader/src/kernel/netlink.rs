//! One question to the kernel over netlink, and its answers. Blocking: the kernel answers within the system call.

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

mod lenient;

/// So often a list that changes while it is read is read anew: devices and routes come and go in bursts.
const MOST_INTERRUPTED: u32 = 100;

/// For [`request`]: make what is not there yet.
pub(crate) const CREATE: u16 = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

/// Sends one request in the network namespace of the calling thread. `protocol` is NETLINK_ROUTE or another of
/// netlink(7); `flags` are added to NLM_F_REQUEST and must ask for an answer: NLM_F_ACK or NLM_F_DUMP.
///
/// # Errors
/// What the kernel answers, also in the last message of a dump that fails half way; EINTR where what is dumped changes each time it is read.
pub(crate) fn request<M>(protocol: isize, message: M, flags: u16) -> io::Result<Vec<M>>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let question = encode(message, flags);
    for _ in 0..MOST_INTERRUPTED {
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
    }
    Err(io::Error::new(io::ErrorKind::Interrupted, "the kernel's list changed each time while it was read"))
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
