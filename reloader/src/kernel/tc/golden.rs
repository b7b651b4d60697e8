//! What is sent, as hex, for comparison with what `tc` and `ip` send for the same command (iproute2 6.1, recorded by
//! strace). The sequence number and the port, which tell a sender's messages apart, are zero in both.

use netlink_packet_route::RouteNetlinkMessage;

use crate::kernel::netlink::encode;

pub(in crate::kernel) fn hex(message: &RouteNetlinkMessage, flags: u16) -> String {
    encode(message.clone(), flags).iter().map(|byte| format!("{byte:02x}")).collect()
}
