//! The bytes that are sent, as hex, for comparison with those that `tc` and `ip` send for the same command (iproute2 6.1,
//! recorded by strace). The sequence number and the port, which tell a sender's messages apart, are zero in both.

use rtnetlink::Handle;
use rtnetlink::packet_route::RouteNetlinkMessage;

use crate::kernel::netlink::{bytes_sent, encode};

/// The bytes of a message that is sent by hand.
pub(in crate::kernel) fn hex(message: &RouteNetlinkMessage, flags: u16) -> String {
    hex_of(&encode(message.clone(), flags))
}

/// The bytes that `rtnetlink` sends.
pub(in crate::kernel) fn hex_sent<T, F>(request: impl FnOnce(Handle) -> F) -> String
where
    F: Future<Output = Result<T, rtnetlink::Error>>,
{
    hex_of(&bytes_sent(request))
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
