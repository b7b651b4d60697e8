//! One question to the kernel over NETLINK_ROUTE, and its answers. Blocking: the kernel answers within the system call.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Sends one request in the network namespace of the calling thread. `flags` are added to NLM_F_REQUEST and must ask for an
/// answer: NLM_F_ACK or NLM_F_DUMP.
pub(crate) fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
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

fn encode(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut packet = NetlinkMessage::from(message);
    packet.header.flags = NLM_F_REQUEST | flags;
    packet.finalize();
    let mut buffer = vec![0; packet.buffer_len()];
    packet.serialize(&mut buffer);
    buffer
}

/// Whether the last answer was among them.
fn take_answers(mut datagram: &[u8], answers: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
    while !datagram.is_empty() {
        let packet = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        // Messages begin at multiples of four bytes (NLMSG_ALIGN).
        let length = (packet.header.length as usize).next_multiple_of(4).max(4);
        datagram = datagram.get(length..).unwrap_or_default();
        match packet.payload {
            NetlinkPayload::InnerMessage(message) => answers.push(message),
            NetlinkPayload::Done(_) => return Ok(true),
            // An error of code 0 is the acknowledgement.
            NetlinkPayload::Error(error) => return error.code.map_or(Ok(true), |_| Err(error.to_io())),
            _ => {}
        }
    }
    Ok(false)
}
