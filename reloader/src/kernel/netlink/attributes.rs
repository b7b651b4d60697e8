//! Parses messages attribute by attribute. An attribute that cannot be parsed is left out with a warning, and the others are
//! kept: a device whose alias is not UTF-8 stays in the list.

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
/// `InvalidData` where it cannot be parsed even without its attributes.
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
        warn_once(
            kind,
            [0; ATTRIBUTE_HEADER].as_slice(),
            "its length is wrong, so the attributes behind it are lost too",
        );
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

/// The length, in bytes, of the part before the attributes of a message of rtnetlink: `ifinfomsg`, `ifaddrmsg`, `rtmsg` and
/// `tcmsg` (linux/rtnetlink.h). `None` for sock_diag: its messages have no names that a user may choose.
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

/// The attributes, each with its header and its padding, and the rest that is not an attribute.
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

/// Warns once for each kind of attribute, because devices are listed at every hold.
fn warn_once(kind: u16, attribute: &[u8], error: &str) {
    static WARNED: Mutex<BTreeSet<(u16, u16)>> = Mutex::new(BTreeSet::new());
    let attribute = u16::from_ne_bytes([attribute[2], attribute[3]]) & TYPE_MASK;
    if WARNED.lock().is_ok_and(|mut warned| warned.insert((kind, attribute))) {
        log::warn!("attribute {attribute} of a netlink message of type {kind} cannot be read and is left out: {error}");
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
    fn unreadable_attribute_is_left_out_and_the_others_are_kept() {
        let expected = Device { name: "eth0".into(), index: 7, master: Some(9), ..device(&link()) };
        assert_eq!(device(&link()), expected);
        assert_eq!(device(&in_latin_1(link(), ALIAS)), expected);
    }

    #[test]
    fn device_with_an_unreadable_name_is_kept_without_a_name() {
        let device = device(&in_latin_1(link(), "eth0"));
        assert_eq!((device.index, device.master), (7, Some(9)));
        assert_eq!(crate::kernel::devices::index(&device.name), None);
        assert!(device.name.contains('7') && device.name.contains(' '), "{}", device.name);
    }

    #[test]
    fn damaged_message_does_not_panic() {
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
