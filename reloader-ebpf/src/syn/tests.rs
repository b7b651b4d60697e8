//! Tests the parser with packets that are built byte by byte, so that the tests do not share its mistakes.

extern crate std;
use std::vec::Vec;

use super::*;

const PORT: u16 = 8080;

fn tcp(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut tcp = std::vec![0x9c, 0x40, 0x1f, 0x90, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, flags];
    tcp.extend([0xfa, 0xf0, 0, 0, 0, 0]);
    tcp.extend(payload);
    tcp
}

fn ipv4(options: &[u8], protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let mut ip = std::vec![0x40 | (header / 4) as u8, 0];
    ip.extend(((header + payload.len()) as u16).to_be_bytes());
    ip.extend([0x12, 0x34]);
    ip.extend(fragment.to_be_bytes());
    ip.extend([64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    ip.extend(options);
    ip.extend(payload);
    ip
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = std::vec![0x60, 0, 0, 0];
    ip.extend((payload.len() as u16).to_be_bytes());
    ip.extend([next, 64]);
    ip.extend(source6());
    ip.extend(destination6());
    ip.extend(payload);
    ip
}

fn source6() -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
}

fn destination6() -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]
}

fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = std::vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

fn in_v4(packet: &[u8]) -> Option<Syn> {
    syn_in_packet(packet, 0, ETHERTYPE_IPV4)
}

fn in_v6(packet: &[u8]) -> Option<Syn> {
    syn_in_packet(packet, 0, ETHERTYPE_IPV6)
}

fn expected4() -> Option<Syn> {
    Some(Syn { source: v4_mapped([192, 0, 2, 1]), destination: v4_mapped([192, 0, 2, 2]), port: PORT, ipv4: true })
}

fn expected6() -> Option<Syn> {
    Some(Syn { source: v6(source6()), destination: v6(destination6()), port: PORT, ipv4: false })
}

/// An extension header of `8 * (1 + more)` bytes, its fourth byte as given.
fn extension(next: u8, more: u8, fourth: u8) -> Vec<u8> {
    let mut header = std::vec![0; 8 * (1 + usize::from(more))];
    header[0] = next;
    header[1] = more;
    header[3] = fourth;
    header
}

#[test]
fn ipv4_syn_is_found_with_and_without_a_link_header() {
    let packet = ipv4(&[], TCP, 0x4000, &tcp(SYN, &[]));
    assert_eq!(in_v4(&packet), expected4());
    assert_eq!(syn_in_frame(&frame(0x0800, &packet)[..]), expected4());
}

#[test]
fn ipv4_syn_is_found_behind_options() {
    for words in 1..=10 {
        let packet = ipv4(&std::vec![1; words * 4], TCP, 0, &tcp(SYN, &[]));
        assert_eq!(in_v4(&packet), expected4(), "{words} words of options");
    }
}

#[test]
fn invalid_ipv4_header_is_refused() {
    // An IPv4 header of four words, which is too short, with a SYN right behind it.
    let mut short = ipv4(&[], TCP, 0, &tcp(SYN, &[]));
    short[0] = 0x44;
    short.drain(16..20);
    assert_eq!(in_v4(&short), None);

    let mut version = ipv4(&[], TCP, 0, &tcp(SYN, &[]));
    version[0] = 0x65;
    assert_eq!(in_v4(&version), None);
}

#[test]
fn ipv6_syn_is_found_with_and_without_a_link_header() {
    let packet = ipv6(TCP, &tcp(SYN, &[]));
    assert_eq!(in_v6(&packet), expected6());
    assert_eq!(syn_in_frame(&frame(0x86dd, &packet)[..]), expected6());
    let mut version = packet;
    version[0] = 0x40;
    assert_eq!(in_v6(&version), None);
}

#[test]
fn ipv6_syn_is_found_behind_extension_headers() {
    let mut payload = extension(DESTINATION_OPTIONS, 0, 0);
    payload.extend(extension(ROUTING, 2, 0));
    payload.extend(extension(FRAGMENT, 4, 0));
    payload.extend([DESTINATION_OPTIONS, 0, 0, 1, 9, 9, 9, 9]);
    payload.extend(extension(TCP, 1, 0));
    payload.extend(tcp(SYN, &[]));
    assert_eq!(in_v6(&ipv6(HOP_BY_HOP, &payload)), expected6());
}

#[test]
fn ipv6_syn_for_another_hop_is_refused() {
    let mut payload = extension(TCP, 2, 1);
    payload.extend(tcp(SYN, &[]));
    assert_eq!(in_v6(&ipv6(ROUTING, &payload)), None);
}

#[test]
fn too_many_or_unknown_extension_headers_are_refused() {
    let chain = |length: usize| {
        let mut payload = Vec::new();
        for i in 1..=length {
            let next = if i == length { TCP } else { DESTINATION_OPTIONS };
            payload.extend(extension(next, 0, 0));
        }
        payload.extend(tcp(SYN, &[]));
        ipv6(DESTINATION_OPTIONS, &payload)
    };
    assert_eq!(in_v6(&chain(MAX_EXTENSION_HEADERS)), expected6());
    assert_eq!(in_v6(&chain(MAX_EXTENSION_HEADERS + 1)), None);
    // The packet is refused even if the first header that is not read looks like a SYN.
    let mut masked = chain(MAX_EXTENSION_HEADERS + 2);
    let unread = 40 + MAX_EXTENSION_HEADERS * 8;
    masked[unread + 12..unread + 14].copy_from_slice(&[0x50, SYN]);
    assert_eq!(in_v6(&masked), None);

    const ESP: u8 = 50;
    let mut payload = extension(TCP, 0, 0);
    payload.extend(tcp(SYN, &[]));
    assert_eq!(in_v6(&ipv6(ESP, &payload)), None);
}

#[test]
fn tagged_frame_has_no_syn() {
    for tag in [0x8100, 0x88a8] {
        let mut tagged = std::vec![0, 10, 0x08, 0x00];
        tagged.extend(ipv4(&[], TCP, 0, &tcp(SYN, &[])));
        assert_eq!(syn_in_frame(&frame(tag, &tagged)[..]), None);
        // The packet is refused even if an IP header follows the tag.
        assert_eq!(syn_in_packet(&tagged[4..], 0, tag), None);
    }
}

#[test]
fn truncated_frame_has_no_syn() {
    let mut payload = extension(TCP, 1, 0);
    payload.extend(tcp(SYN, &[]));
    let whole = [frame(0x0800, &ipv4(&[1; 8], TCP, 0, &tcp(SYN, &[]))), frame(0x86dd, &ipv6(HOP_BY_HOP, &payload))];
    for frame in whole {
        assert!(syn_in_frame(&frame[..]).is_some());
        for length in 0..frame.len() {
            assert_eq!(syn_in_frame(&frame[..length]), None, "{length} bytes");
        }
    }
}

#[test]
fn padding_is_not_part_of_the_packet() {
    let mut v4 = ipv4(&[], TCP, 0, &tcp(SYN, &[]));
    v4[2..4].copy_from_slice(&39_u16.to_be_bytes());
    assert_eq!(in_v4(&v4), None);

    let mut v6 = ipv6(TCP, &tcp(SYN, &[]));
    v6[4..6].copy_from_slice(&19_u16.to_be_bytes());
    assert_eq!(in_v6(&v6), None);

    let mut padded = ipv4(&[], TCP, 0, &tcp(SYN, &[]));
    padded.extend([0; 6]);
    assert_eq!(in_v4(&padded), expected4());
}

#[test]
fn only_the_first_fragment_has_a_syn() {
    const MORE: u16 = 0x2000;
    let segment = tcp(SYN, &[]);
    assert_eq!(in_v4(&ipv4(&[], TCP, MORE, &segment)), expected4());
    assert_eq!(in_v4(&ipv4(&[], TCP, 1, &segment)), None);
    assert_eq!(in_v4(&ipv4(&[], TCP, MORE | 0x1000, &segment)), None);

    let fragment = |offset_and_more: u16| {
        let [high, low] = offset_and_more.to_be_bytes();
        // The second byte is reserved, not a length.
        let mut payload = std::vec![TCP, 1, high, low, 9, 9, 9, 9];
        payload.extend(&segment);
        ipv6(FRAGMENT, &payload)
    };
    assert_eq!(in_v6(&fragment(1)), expected6());
    assert_eq!(in_v6(&fragment(8)), None);
    assert_eq!(in_v6(&fragment(0x8001)), None);
}

#[test]
fn other_protocols_have_no_syn() {
    const UDP: u8 = 17;
    let segment = tcp(SYN, &[]);
    assert_eq!(in_v4(&ipv4(&[], UDP, 0, &segment)), None);
    assert_eq!(in_v6(&ipv6(UDP, &segment)), None);
    assert_eq!(syn_in_frame(&frame(0x0806, &segment)[..]), None);
}

#[test]
fn only_a_syn_without_ack_rst_or_fin_counts() {
    for flags in 0..=u8::MAX {
        let seen = in_v4(&ipv4(&[], TCP, 0, &tcp(flags, &[]))).is_some();
        let wanted = flags & SYN != 0 && flags & (ACK | 0x04 | 0x01) == 0;
        assert_eq!(seen, wanted, "flags {flags:#04x}");
    }
}

#[test]
fn fast_open_syn_with_data_is_found() {
    let mut segment = tcp(SYN, &[]);
    segment[12] = 0x80;
    segment.extend([34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]);
    segment.extend(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(in_v4(&ipv4(&[], TCP, 0, &segment)), expected4());
    assert_eq!(in_v6(&ipv6(TCP, &segment)), expected6());
}

#[test]
fn invalid_tcp_header_is_refused() {
    let mut short = tcp(SYN, &[]);
    short[12] = 0x40;
    assert_eq!(in_v4(&ipv4(&[], TCP, 0, &short)), None);
    let mut long = tcp(SYN, &[]);
    long[12] = 0x60;
    assert_eq!(in_v4(&ipv4(&[], TCP, 0, &long)), None);
}

#[test]
fn segments_begin_what_their_flags_allow() {
    const FIN: u8 = 0x01;
    const RST: u8 = 0x04;
    const PSH: u8 = 0x08;

    let both = |flags| {
        let tcp = tcp(flags, &[]);
        let [v4, v6] = [(ETHERTYPE_IPV4, ipv4(&[1; 4], TCP, 0, &tcp)), (ETHERTYPE_IPV6, ipv6(TCP, &tcp))]
            .map(|(ethertype, packet)| opening_in_packet(&packet[..], 0, ethertype));
        (v4, v6)
    };
    let syn = (Opening::Syn(expected4().unwrap()), Opening::Syn(expected6().unwrap()));
    assert_eq!(both(SYN), syn);
    assert_eq!(both(SYN | PSH), syn);
    for flags in [ACK, ACK | PSH, ACK | FIN] {
        assert_eq!(both(flags), (Opening::Answer, Opening::Answer), "{flags:#x}");
    }
    for flags in [0, FIN, RST, RST | ACK, RST | FIN, RST | SYN, SYN | ACK, SYN | FIN, SYN | FIN | ACK, PSH] {
        assert_eq!(both(flags), (Opening::None, Opening::None), "{flags:#x}");
    }
}

#[test]
fn unreadable_segment_may_begin_a_connection() {
    let whole = ipv4(&[], TCP, 0, &tcp(ACK, &[]));
    for length in 0..20 + TCP_FLAGS {
        assert_eq!(opening_in_packet(&whole[..length], 0, ETHERTYPE_IPV4), Opening::Unread, "{length} bytes");
    }
    assert_eq!(opening_in_packet(&whole[..], 0, 0x0806), Opening::Unread);
    const ESP: u8 = 50;
    assert_eq!(opening_in_packet(&ipv6(ESP, &tcp(ACK, &[]))[..], 0, ETHERTYPE_IPV6), Opening::Unread);

    let mut odd = ipv4(&[], TCP, 0, &tcp(SYN, &[]));
    odd[2..4].copy_from_slice(&39_u16.to_be_bytes());
    assert_eq!(opening_in_packet(&odd[..], 0, ETHERTYPE_IPV4), Opening::Unread);
}
