//! Lists of traffic control, and the header that all of its messages have.

use std::io;

use rtnetlink::packet_core::NLM_F_DUMP;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::TcMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;

use crate::kernel::netlink;

/// The kernel's answers; none where it has no traffic control (EOPNOTSUPP).
pub(super) fn dump(question: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    netlink::request(NETLINK_ROUTE, question, NLM_F_DUMP).or_else(|error| match Errno::from_io_error(&error) {
        Some(Errno::OPNOTSUPP) => Ok(Vec::new()),
        _ => Err(error),
    })
}

/// The header that names an object by its place. `device` is the device's number; `parent` and `handle` have the major
/// number in their upper half.
pub(super) fn message_at(device: u32, parent: u32, handle: u32) -> TcMessage {
    let mut message = TcMessage::with_index(device as i32);
    message.header.parent = parent.into();
    message.header.handle = handle.into();
    message
}
