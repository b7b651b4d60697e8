use rtnetlink::packet_core::NLM_F_ACK;

use super::*;
use crate::kernel::devices::LO;
use crate::kernel::netlink::CREATE;
use crate::kernel::tc::golden::hex;
use crate::kernel::tc::qdisc::INGRESS_FILTERS;
use crate::kernel::tc::u32_filter::{LengthField, Protocol};

const IFB: u32 = 2;

/// `dev lo ingress protocol ip pref 65280`
const V4: FilterPosition =
    FilterPosition { device: LO, parent: INGRESS_FILTERS, protocol: Protocol::Ipv4, preference: 0xff00 };
/// `dev lo ingress protocol ipv6 pref 65281`
const V6: FilterPosition =
    FilterPosition { device: LO, parent: INGRESS_FILTERS, protocol: Protocol::Ipv6, preference: 0xff01 };

fn added(message: TcMessage) -> String {
    hex(&RouteNetlinkMessage::NewTrafficFilter(message), CREATE)
}

fn added_entry(position: &FilterPosition, table: u32, number: u16, keys: &[Key], action: U32Action<u32>) -> String {
    added(entry(position, table, number, keys, &action))
}

#[test]
fn marker_is_added_with_the_bytes_of_tc() {
    // tc filter add dev lo ingress protocol ip pref 65280 handle ::1 u32 match u8 0 0xff at 0 flowid 5e1d:7
    let expected = "5c0000002c000506000000000000000000000000010000000\
        1000000f2ffffff080000ff0800010075333200300002000800010007001d5e2400050001000100000000000000000000000000\
        ff000000000000000000000000000000";
    assert_eq!(added(marker(&V4, 1, 0x5e1d_0007)), expected);
}

#[test]
fn table_is_added_with_the_bytes_of_tc() {
    // tc filter add dev lo ingress protocol ip pref 65280 u32 divisor 1
    let expected = "380000002c000506000000000000000000000000010000000\
        0000000f2ffffff080000ff08000100753332000c0002000800040001000000";
    assert_eq!(added(table(&V4)), expected);
    // tc filter add dev lo ingress protocol ipv6 pref 65281 u32 divisor 1
    let expected = "380000002c000506000000000000000000000000010000000\
        0000000f2ffffff86dd01ff08000100753332000c0002000800040001000000";
    assert_eq!(added(table(&V6)), expected);
}

#[test]
fn entry_of_the_root_table_jumps_to_another_table() {
    // tc filter add dev lo ingress protocol ip pref 65280 handle ::2 u32 match u8 6 0xff at 9 match u16 0 0x1fff at 6 link 801:
    let expected = "6c0000002c000506000000000000000000000000010000000\
        2000000f2ffffff080000ff08000100753332004000020008000300000010803400050000000200000000000000000000000000\
        00ff000000060000080000000000000000001fff000000000400000000000000";
    let keys = [Key { offset: 8, mask: 0x00ff_0000, value: 0x0006_0000 }, Key { offset: 4, mask: 0x1fff, value: 0 }];
    assert_eq!(added_entry(&V4, ROOT_TABLE, 2, &keys, U32Action::Jump(0x8010_0000, None)), expected);
}

#[test]
fn entry_skips_the_length_that_the_header_has() {
    // tc filter add dev lo ingress protocol ip pref 65280 handle ::1 u32 ht 801: match ip dst 10.0.0.0/8 link 802:
    //   offset at 0 mask 0x0f00 shift 6 eat
    let expected = "640000002c000506000000000000000000000000010000000\
        1000000f2ffffff080000ff08000100753332003800020008000300000020800800020000001080240005000c0601000f000000\
        0000000000000000ff0000000a0000001000000000000000";
    let keys = [Key { offset: 16, mask: 0xff00_0000, value: 0x0a00_0000 }];
    let skip = HeaderSkip { bytes: 0, length_field: Some(LengthField { offset: 0, mask: 0x0f00, shift: 6 }) };
    assert_eq!(added_entry(&V4, 0x8010_0000, 1, &keys, U32Action::Jump(0x8020_0000, Some(skip))), expected);
}

#[test]
fn entry_compares_an_ipv6_prefix() {
    // tc filter add dev lo ingress protocol ipv6 pref 65281 handle ::1 u32 ht 804: match ip6 dst fd00::/64 link 805:
    let expected = "740000002c000506000000000000000000000000010000000\
        1000000f2ffffff86dd01ff08000100753332004800020008000300000050800800020000004080340005000000020000000000\
        0000000000000000fffffffffd0000001800000000000000ffffffff000000001c00000000000000";
    let keys =
        [Key { offset: 24, mask: 0xffff_ffff, value: 0xfd00_0000 }, Key { offset: 28, mask: 0xffff_ffff, value: 0 }];
    assert_eq!(added_entry(&V6, 0x8040_0000, 1, &keys, U32Action::Jump(0x8050_0000, None)), expected);
}

#[test]
fn entry_skips_a_header_of_fixed_length() {
    // tc filter add dev lo ingress protocol ipv6 pref 65281 handle ::2 u32 ht 804: match u8 6 0xff at 6 link 805:
    //   offset plus 40 eat
    let expected = "640000002c000506000000000000000000000000010000000\
        2000000f2ffffff86dd01ff08000100753332003800020008000300000050800800020000004080240005000a00010000002800\
        00000000000000000000ff00000006000400000000000000";
    let keys = [Key { offset: 4, mask: 0xff00, value: 0x0600 }];
    let skip = HeaderSkip { bytes: 40, length_field: None };
    assert_eq!(added_entry(&V6, 0x8040_0000, 2, &keys, U32Action::Jump(0x8050_0000, Some(skip))), expected);
}

/// tc takes even positions only, so this one is at 2 instead of 1, where an extension header has its length.
#[test]
fn entry_skips_a_fixed_part_and_the_length_that_the_header_has() {
    // tc filter add dev lo ingress protocol ipv6 pref 65281 handle ::1 u32 ht 805: match u8 6 0xff at 0 link 806:
    //   offset plus 8 at 2 mask 0xff00 shift 5 eat
    let expected = "640000002c000506000000000000000000000000010000000\
        1000000f2ffffff86dd01ff08000100753332003800020008000300000060800800020000005080240005000e050100ff000800\
        0200000000000000ff000000060000000000000000000000";
    let keys = [Key { offset: 0, mask: 0xff00_0000, value: 0x0600_0000 }];
    let skip = HeaderSkip { bytes: 8, length_field: Some(LengthField { offset: 2, mask: 0xff00, shift: 5 }) };
    assert_eq!(added_entry(&V6, 0x8050_0000, 1, &keys, U32Action::Jump(0x8060_0000, Some(skip))), expected);
}

const SYN_TO_8080: [Key; 2] =
    [Key { offset: 12, mask: 0x0017_0000, value: 0x0002_0000 }, Key { offset: 0, mask: 0xffff, value: 8080 }];

#[test]
fn entry_redirects_to_a_device() {
    // tc filter add dev lo ingress protocol ip pref 65280 handle ::1 u32 ht 802: match u8 2 0x17 at 13
    //   match u16 8080 0xffff at 2 action mirred egress redirect dev ifbx        (device 2)
    let expected = "a40000002c000506000000000000000000000000010000000\
        1000000f2ffffff080000ff08000100753332007800020038000700340001000b0001006d697272656400002400028020000200\
        000000000000000004000000000000000000000001000000020000000800020000002080340005000100020000000000000000\
        000000000000170000000200000c000000000000000000ffff00001f900000000000000000";
    assert_eq!(added_entry(&V4, 0x8020_0000, 1, &SYN_TO_8080, U32Action::Redirect(IFB)), expected);
}

#[test]
fn entry_chooses_a_class() {
    // tc filter add dev lo ingress protocol ip pref 65280 handle ::2 u32 ht 802: match u8 2 0x17 at 13
    //   match u16 8080 0xffff at 2 flowid fe1d:2
    let expected = "740000002c000506000000000000000000000000010000000\
        2000000f2ffffff080000ff0800010075333200480002000800010002001dfe0800020000002080340005000100020000000000\
        000000000000000000170000000200000c000000000000000000ffff00001f900000000000000000";
    assert_eq!(added_entry(&V4, 0x8020_0000, 2, &SYN_TO_8080, U32Action::Class(0xfe1d_0002)), expected);
}

#[test]
fn filters_are_removed_with_the_bytes_of_tc() {
    // tc filter del dev lo ingress protocol ip pref 65280 handle 800::2 u32
    let expected = "2c0000002d000500000000000000000000000000010000000\
        2000080f2ffffff080000ff0800010075333200";
    assert_eq!(hex(&removal(&V4, 0x8000_0002), NLM_F_ACK), expected);
    // tc filter del dev lo ingress protocol ip pref 65280
    let expected = "240000002d000500000000000000000000000000010000000\
        0000000f2ffffff080000ff";
    assert_eq!(hex(&removal(&V4, 0), NLM_F_ACK), expected);
}
