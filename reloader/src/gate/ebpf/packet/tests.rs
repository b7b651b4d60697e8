use super::*;
use reloader_ebpf::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// A SYN from 10.0.0.1:40000 to 10.0.0.2:8080, as tcpdump showed it on a device that completes checksums.
fn ipv4(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, (40 + payload.len()) as u8, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet.extend(tcp(payload));
    packet
}

fn ipv6(payload: &[u8]) -> Vec<u8> {
    // Hop-by-hop options stand between.
    let mut packet = vec![0x60, 0, 0, 0, 0, (28 + payload.len()) as u8, 0, 64];
    for host in [1, 2] {
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    packet.extend([6, 0, 1, 4, 0, 0, 0, 0]);
    packet.extend(tcp(payload));
    packet
}

fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0x9c, 0x40, 0x1f, 0x90, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];
    segment.extend(payload);
    segment
}

fn parse(packet: &[u8]) -> Segment {
    let ethertype = if packet[0] >> 4 == 4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    Segment::at(packet, 0, ethertype).unwrap()
}

fn field(packet: &[u8]) -> u16 {
    let at = parse(packet).tcp + 16;
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn with_field(mut packet: Vec<u8>, value: u16) -> Vec<u8> {
    let at = parse(&packet).tcp + 16;
    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
    packet
}

/// The partial checksum as the kernel leaves it, computed by hand: the words of the addresses, the protocol and the length.
fn partial(packet: &[u8]) -> u16 {
    let length = (parse(packet).end - parse(packet).tcp) as u32;
    let addresses = if packet[0] >> 4 == 4 { 2 * 0x0a00 + 1 + 2 } else { 2 * 0xfd00 + 1 + 2 };
    fold(addresses + 6 + length)
}

#[test]
fn a_partial_checksum_is_completed() {
    for packet in [ipv4(b""), ipv4(b"odd"), ipv6(b""), ipv6(b"hello")] {
        let mut packet = with_field(packet.clone(), partial(&packet));
        let segment = parse(&packet);
        segment.complete_checksum(&mut packet);
        assert_eq!(fold(segment.pseudo_header() + sum(&packet[segment.tcp..segment.end])), 0xffff);
        let complete = packet.clone();
        segment.complete_checksum(&mut packet);
        assert_eq!(packet, complete, "a right checksum stays");
    }
}

#[test]
fn the_completed_checksum_is_the_one_on_the_wire() {
    // 0x0a00 + 1 + 0x0a00 + 2 + 6 + 20, the segment's words, folded and inverted.
    let words = 0x1400 + 3 + 26 + 0x9c40 + 0x1f90 + 0x0102 + 0x0304 + 0x5002 + 0xffff;
    let mut packet = with_field(ipv4(b""), partial(&ipv4(b"")));
    parse(&packet).complete_checksum(&mut packet);
    assert_eq!(field(&packet), !fold(words));
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    for packet in [ipv4(b"x"), ipv6(b"x")] {
        for wrong in [0, 0xffff, 0x1234, !partial(&packet)] {
            let packet = with_field(packet.clone(), wrong);
            let mut same = packet.clone();
            parse(&packet).complete_checksum(&mut same);
            assert_eq!(same, packet, "{wrong:#x}");
        }
    }
}

#[test]
fn padding_behind_the_packet_is_not_summed() {
    let mut packet = with_field(ipv4(b"x"), partial(&ipv4(b"x")));
    let mut padded = [packet.clone(), vec![0xaa; 5]].concat();
    parse(&packet).complete_checksum(&mut packet);
    parse(&padded).complete_checksum(&mut padded);
    assert_eq!(padded[..packet.len()], packet);
}

#[test]
fn the_destination_is_an_address_of_the_packets_family() {
    assert_eq!(parse(&ipv4(b"")).destination(), "10.0.0.2:8080".parse().unwrap());
    assert_eq!(parse(&ipv6(b"")).destination(), "[fd00::2]:8080".parse().unwrap());
}

#[test]
fn a_syn_sent_again_is_the_same_flow() {
    let first = ipv4(b"");
    let mut again = first.clone();
    again[5] = 2; // IP's identification.
    assert_eq!(parse(&first).flow, parse(&again).flow);
    for byte in [12, 19, 20, 23, 27] {
        let mut other = first.clone();
        other[byte] ^= 1;
        assert_ne!(parse(&first).flow, parse(&other).flow, "byte {byte}");
    }
}

#[test]
fn a_record_is_read_as_the_program_writes_it() {
    let mut record = [7_u64.to_ne_bytes().to_vec(), 3_u32.to_ne_bytes().to_vec()].concat();
    record.extend(u32::from(ETHERTYPE_IPV4).to_ne_bytes());
    assert_eq!(Parked::read(&record[..15]), None);
    record.extend(ipv4(b""));
    let parked = Parked::read(&record).unwrap();
    assert_eq!((parked.arrived, parked.device, parked.ethertype), (7, 3, ETHERTYPE_IPV4));
    assert_eq!(parked.segment(false).unwrap().ip, 0);
    assert_eq!(parked.segment(true), None);
    let ethernet = [vec![0; 14], ipv4(b"")].concat();
    let framed = Parked { frame: &ethernet, ..parked };
    assert_eq!(framed.segment(true).unwrap().ip, 14);
}
