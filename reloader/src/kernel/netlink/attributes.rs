//! Reads a message of which some attributes cannot be parsed: they are left out, and the rest is as good as before. A device whose alias is
//! not UTF-8 is a device all the same.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::sync::Mutex;

use rtnetlink::packet_core::{NetlinkDeserializable, NetlinkMessage, NetlinkSerializable};

/// `struct nlmsghdr`
const NETLINK_HEADER: usize = 16;
/// `struct nlattr`
const ATTRIBUTE_HEADER: usize = 4;
/// The upper two bits of an attribute's type say how it is encoded (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
const TYPE_MASK: u16 = 0x3fff;

/// Parses one message.
///
/// # Errors
/// Where it cannot be parsed without its attributes either.
pub(super) fn parse<M>(message: &[u8]) -> io::Result<NetlinkMessage<M>>
where
    M: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    let invalid = |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let error = match NetlinkMessage::<M>::deserialize(message) {
        Ok(packet) => return Ok(packet),
        Err(error) => error,
    };
    let kind = message_kind(message).ok_or_else(|| invalid(&error))?;
    let body = NETLINK_HEADER + body_length(kind).ok_or_else(|| invalid(&error))?;
    let (head, attributes) = message.split_at_checked(body).ok_or_else(|| invalid(&error))?;
    let mut kept = with_length(head.to_vec());
    let mut packet = NetlinkMessage::<M>::deserialize(&kept).map_err(|error| invalid(&error))?;
    let (attributes, rest) = split(attributes);
    if !rest.is_empty() {
        warn_once(kind, [0; ATTRIBUTE_HEADER].as_slice(), "its length is wrong, as are those of all behind it");
    }
    for attribute in attributes {
        let longer = with_length([kept.as_slice(), attribute].concat());
        match NetlinkMessage::<M>::deserialize(&longer) {
            Ok(parsed) => (kept, packet) = (longer, parsed),
            Err(error) => warn_once(kind, attribute, &error.to_string()),
        }
    }
    Ok(packet)
}

fn message_kind(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(*message.get(4..)?.first_chunk()?))
}

/// What comes before the attributes of a message of rtnetlink, in bytes: `ifinfomsg`, `ifaddrmsg`, `rtmsg` and `tcmsg`
/// (linux/rtnetlink.h). sock_diag's messages have no names that a user may choose.
fn body_length(kind: u16) -> Option<usize> {
    match kind {
        16..=19 => Some(16),
        20..=23 => Some(8),
        24..=27 => Some(12),
        36..=47 => Some(20),
        _ => None,
    }
}

fn with_length(mut message: Vec<u8>) -> Vec<u8> {
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

/// The attributes, each with its header and its padding, and what is none.
fn split(mut rest: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut found = Vec::new();
    while let Some(length) = rest.first_chunk().map(|bytes| usize::from(u16::from_ne_bytes(*bytes))) {
        if length < ATTRIBUTE_HEADER || length > rest.len() {
            break;
        }
        let (attribute, further) = rest.split_at(length.next_multiple_of(4).min(rest.len()));
        found.push(attribute);
        rest = further;
    }
    (found, rest)
}

/// Devices are listed at every hold: each kind of attribute is told of once.
fn warn_once(kind: u16, attribute: &[u8], error: &str) {
    static TOLD: Mutex<BTreeSet<(u16, u16)>> = Mutex::new(BTreeSet::new());
    let attribute = u16::from_ne_bytes([attribute[2], attribute[3]]) & TYPE_MASK;
    if TOLD.lock().is_ok_and(|mut told| told.insert((kind, attribute))) {
        log::warn!(
            "attribute {attribute} of a netlink message of type {kind} cannot be read, and is left out: {error}"
        );
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::RouteNetlinkMessage;
    use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

    use super::*;
    use crate::kernel::devices::Device;
    use crate::kernel::netlink::encode;

    const ALIAS: &str = "Zurich";

    fn link() -> Vec<u8> {
        let mut link = LinkMessage::default();
        link.header.index = 7;
        link.attributes = vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::IfAlias(ALIAS.into()),
            LinkAttribute::Controller(9),
        ];
        encode(RouteNetlinkMessage::NewLink(link), 0)
    }

    fn device(message: &[u8]) -> Device {
        match parse::<RouteNetlinkMessage>(message).unwrap().payload {
            rtnetlink::packet_core::NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => (&link).into(),
            other => panic!("{other:?}"),
        }
    }

    fn in_latin_1(mut message: Vec<u8>, text: &str) -> Vec<u8> {
        let place = message.windows(text.len()).position(|bytes| bytes == text.as_bytes()).unwrap();
        message[place + 1] = 0xfc;
        message
    }

    #[test]
    fn an_attribute_that_cannot_be_read_costs_no_other() {
        let expected = Device { name: "eth0".into(), index: 7, master: Some(9), ..device(&link()) };
        assert_eq!(device(&link()), expected);
        assert_eq!(device(&in_latin_1(link(), ALIAS)), expected);
    }

    #[test]
    fn a_device_whose_name_cannot_be_read_is_a_device_that_no_name_leads_to() {
        let device = device(&in_latin_1(link(), "eth0"));
        assert_eq!((device.index, device.master), (7, Some(9)));
        assert_eq!(crate::kernel::devices::index(&device.name), None);
        assert!(device.name.contains('7') && device.name.contains(' '), "{}", device.name);
    }

    #[test]
    fn damage_is_no_panic() {
        let whole = in_latin_1(link(), ALIAS);
        for length in 0..whole.len() {
            let _ = parse::<RouteNetlinkMessage>(&whole[..length]);
            let _ = parse::<RouteNetlinkMessage>(&with_length([&whole[..length.max(4)]].concat()));
        }
        for place in NETLINK_HEADER..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] = 0xff;
            let _ = parse::<RouteNetlinkMessage>(&damaged);
        }
    }
}
