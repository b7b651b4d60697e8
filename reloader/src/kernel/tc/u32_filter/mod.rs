//! u32 filters: hash tables whose entries compare words of a packet, and either decide or jump to another table.

use std::io;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_ECHO};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::TcMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use crate::kernel::netlink::{self, CREATE};

mod message;
mod table;

pub(crate) use table::{
    FilterPosition, HeaderSkip, Key, LengthField, MAX_ENTRIES, Protocol, ROOT_TABLE, U32Action, entry_number,
    table_handle,
};

/// Adds a table and returns its handle, which the kernel chooses.
///
/// # Errors
/// ENOENT where the parent is not there or the kernel has no u32, EINVAL where the preference is of another protocol.
pub(crate) fn add_table(position: &FilterPosition) -> io::Result<u32> {
    add(message::table(position))
}

/// Adds an entry with this number to a table, and returns its handle.
///
/// # Errors
/// ENOSPC or EEXIST where the number is taken, ENOENT where the parent is not there or the kernel has no u32 or mirred.
pub(crate) fn add_entry(
    position: &FilterPosition,
    table: u32,
    number: u16,
    keys: &[Key],
    action: &U32Action<u32>,
) -> io::Result<u32> {
    add(message::entry(position, table, number, keys, action))
}

/// Adds an entry that no packet agrees with, and returns its handle. Its class tells whose filters these are.
///
/// # Errors
/// As [`add_entry`].
pub(crate) fn add_marker(position: &FilterPosition, number: u16, class: u32) -> io::Result<u32> {
    add(message::marker(position, number, class))
}

/// Removes an entry, or a table with its entries; with the handle 0 all that the preference has.
///
/// # Errors
/// ENOENT where it is gone, EBUSY for a table that an entry leads to, or led to a moment ago.
pub(crate) fn remove(position: &FilterPosition, handle: u32) -> io::Result<()> {
    netlink::request(NETLINK_ROUTE, message::removal(position, handle), NLM_F_ACK).map(drop)
}

/// The kernel sends back what it has added (NLM_F_ECHO), with the handle that it chose.
fn add(message: TcMessage) -> io::Result<u32> {
    let message = RouteNetlinkMessage::NewTrafficFilter(message);
    let answers = netlink::request(NETLINK_ROUTE, message, CREATE | NLM_F_ECHO)?;
    let handle = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewTrafficFilter(filter) => Some(filter.header.handle.into()),
        _ => None,
    });
    handle
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel did not return the filter it has added"))
}
