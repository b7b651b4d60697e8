//! One question to the kernel over netlink, and its answers. Blocking: the kernel answers within the system call.

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// For [`request`]: make what is not there yet.
pub(crate) const CREATE: u16 = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

/// Sends one request in the network namespace of the calling thread. `protocol` is NETLINK_ROUTE or another of
/// netlink(7); `flags` are added to NLM_F_REQUEST and must ask for an answer: NLM_F_ACK or NLM_F_DUMP.
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
    socket.send(&encode(message, flags), 0)?;

    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if take_answers(&datagram, &mut answers)? {
            return Ok(answers);
        }
    }
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
fn take_answers<M>(mut datagram: &[u8], answers: &mut Vec<M>) -> io::Result<bool>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    while !datagram.is_empty() {
        let packet = NetlinkMessage::<M>::deserialize(datagram)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        // Messages begin at multiples of four bytes (NLMSG_ALIGN).
        let length = (packet.header.length as usize).next_multiple_of(4).max(4);
        datagram = datagram.get(length..).unwrap_or_default();
        match packet.payload {
            NetlinkPayload::InnerMessage(message) => answers.push(message),
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
