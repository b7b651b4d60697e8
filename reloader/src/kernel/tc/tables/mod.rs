//! u32 filters: hash tables whose entries compare words of a packet, and either decide or go on in another table.
//! Formats: linux/pkt_cls.h.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_ECHO};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType,
    TcAttribute, TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Key,
    TcU32Selector, TcU32SelectorFlags,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::kernel::netlink::{self, CREATE};

/// Where filters are: those of one preference have one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// The device's number.
    pub(crate) device: u32,
    /// The qdisc, or its side, that asks the filters.
    pub(crate) parent: u32,
    /// Which packets they see.
    pub(crate) protocol: Protocol,
    /// Lower numbers see a packet first.
    pub(crate) preference: u16,
}

/// ETH_P_IP and ETH_P_IPV6 of linux/if_ether.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Ipv4 = 0x0800,
    Ipv6 = 0x86dd,
}

/// A word of a packet, big-endian, compared: `word & mask == value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    /// Where the word begins, in bytes, a multiple of 4. 0 is the network header, until a [`Skip`] moves it.
    pub(crate) at: i32,
    pub(crate) mask: u32,
    pub(crate) value: u32,
}

/// What an entry that agrees leads to. `T` names a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then<T> {
    /// The class that the packet is put into.
    Class(u32),
    /// The device that takes the packet away.
    Redirect(u32),
    /// Another table; where nothing there agrees, the entry behind this one is next.
    Go(T, Option<Skip>),
}

/// How far a header reaches: what follows counts from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Skip {
    /// Bytes in any case.
    pub(crate) bytes: u16,
    /// Bytes that the header says.
    pub(crate) said: Option<Said>,
}

/// `(the 16-bit word at `at`, big-endian, & mask) >> shift`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) at: i16,
    pub(crate) mask: u16,
    pub(crate) shift: u8,
}

/// The table that a preference has from the beginning (TC_U32_ROOT).
pub(crate) const ROOT_TABLE: u32 = 0xfff0_0000;
/// How many entries a table can have: their numbers are 1 to 0xfff.
pub(crate) const MAX_ENTRIES: usize = 0xfff;

/// The table of an entry, or the table itself.
pub(crate) fn table_of(handle: u32) -> u32 {
    handle & 0xfff0_0000
}

/// The number of an entry within its table; 0 for a table.
pub(crate) fn entry_of(handle: u32) -> u32 {
    handle & 0xfff
}

/// Adds a table and returns its handle, which the kernel chooses.
///
/// # Errors
/// ENOENT where the parent is not there or the kernel has no u32, EINVAL where the preference is of another protocol.
pub(crate) fn add_table(place: &Place) -> io::Result<u32> {
    add(table(place))
}

/// Adds an entry with this number to a table, and returns its handle.
///
/// # Errors
/// ENOSPC or EEXIST where the number is taken, ENOENT where the parent is not there or the kernel has no u32 or mirred.
pub(crate) fn add_entry(place: &Place, table: u32, number: u16, keys: &[Key], then: &Then<u32>) -> io::Result<u32> {
    add(entry(place, table, number, keys, then))
}

/// Adds an entry that no packet agrees with, for its class: it tells whose filters these are.
///
/// # Errors
/// As [`add_entry`].
pub(crate) fn add_mark(place: &Place, number: u16, class: u32) -> io::Result<u32> {
    add(mark(place, number, class))
}

/// Removes an entry, or a table with its entries; 0 for all that the preference has.
///
/// # Errors
/// ENOENT where it is gone, EBUSY for a table that an entry leads to, or led to a moment ago.
pub(crate) fn remove(place: &Place, handle: u32) -> io::Result<()> {
    netlink::request(NETLINK_ROUTE, removal(place, handle), NLM_F_ACK).map(drop)
}

/// The kernel sends back what it has made (NLM_F_ECHO), with the handle that it chose.
fn add(message: TcMessage) -> io::Result<u32> {
    let message = RouteNetlinkMessage::NewTrafficFilter(message);
    let answers = netlink::request(NETLINK_ROUTE, message, CREATE | NLM_F_ECHO)?;
    let made = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewTrafficFilter(filter) => Some(filter.header.handle.into()),
        _ => None,
    });
    made.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel did not say what it has made"))
}

fn table(place: &Place) -> TcMessage {
    filter(place, 0, vec![TcFilterU32Option::Divisor(1)])
}

fn entry(place: &Place, table: u32, number: u16, keys: &[Key], then: &Then<u32>) -> TcMessage {
    let mut selector = selector(keys);
    let mut options = match then {
        Then::Class(class) => {
            selector.flags = TcU32SelectorFlags::Terminal;
            vec![TcFilterU32Option::ClassId((*class).into())]
        }
        Then::Redirect(device) => {
            selector.flags = TcU32SelectorFlags::Terminal;
            vec![TcFilterU32Option::Action(vec![redirect(*device)])]
        }
        Then::Go(table, skip) => {
            if let Some(skip) = skip {
                skip.write_to(&mut selector);
            }
            vec![TcFilterU32Option::Link(*table)]
        }
    };
    if table != ROOT_TABLE {
        options.push(TcFilterU32Option::Hash(table));
    }
    options.push(TcFilterU32Option::Selector(selector));
    filter(place, number.into(), options)
}

fn mark(place: &Place, number: u16, class: u32) -> TcMessage {
    // The version of an IP packet is never 0.
    const NO_PACKET: Key = Key { at: 0, mask: 0xff00_0000, value: 0 };
    entry(place, ROOT_TABLE, number, &[NO_PACKET], &Then::Class(class))
}

fn selector(keys: &[Key]) -> TcU32Selector {
    let mut selector = TcU32Selector::default();
    selector.nkeys = keys.len() as u8;
    selector.keys = keys
        .iter()
        .map(|key| {
            let mut word = TcU32Key::default();
            (word.mask, word.val, word.off) = (key.mask, key.value, key.at);
            word
        })
        .collect();
    selector
}

impl Skip {
    fn write_to(&self, selector: &mut TcU32Selector) {
        selector.flags = TcU32SelectorFlags::Eat;
        selector.off = self.bytes;
        if self.bytes > 0 {
            selector.flags |= TcU32SelectorFlags::Offset;
        }
        if let Some(said) = self.said {
            selector.flags |= TcU32SelectorFlags::VarOffset;
            (selector.offoff, selector.offmask, selector.offshift) = (said.at, said.mask, said.shift);
        }
    }
}

fn redirect(device: u32) -> TcAction {
    let mut generic = TcActionGeneric::default();
    generic.action = TcActionType::Stolen;
    let mut mirror = TcMirror::default();
    mirror.generic = generic;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = device;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.into()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    action
}

fn filter(place: &Place, handle: u32, options: Vec<TcFilterU32Option>) -> TcMessage {
    let mut message = at(place, handle);
    message.attributes.push(TcAttribute::Kind("u32".into()));
    message.attributes.push(TcAttribute::Options(options.into_iter().map(TcOption::U32).collect()));
    message
}

fn removal(place: &Place, handle: u32) -> RouteNetlinkMessage {
    let mut message = at(place, handle);
    if handle != 0 {
        message.attributes.push(TcAttribute::Kind("u32".into()));
    }
    RouteNetlinkMessage::DelTrafficFilter(message)
}

fn at(place: &Place, handle: u32) -> TcMessage {
    let mut message = TcMessage::with_index(place.device as i32);
    message.header.parent = place.parent.into();
    message.header.handle = TcHandle::from(handle);
    message.header.info = u32::from(place.preference) << 16 | u32::from((place.protocol as u16).to_be());
    message
}

#[cfg(test)]
mod tests;
