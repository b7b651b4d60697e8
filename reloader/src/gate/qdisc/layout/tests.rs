use super::*;

fn coverage(entries: &[(&str, &[u16])]) -> Coverage {
    let prefix = |text: &str| {
        let (address, length) = text.split_once('/').unwrap();
        Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
    };
    entries.iter().map(|(text, ports)| (prefix(text), ports.iter().copied().collect())).collect()
}

/// Does what `u32_classify` of net/sched/cls_u32.c does with a packet that begins with the network header.
fn holds(layout: &Layout, packet: &[u8]) -> bool {
    agrees(&layout.gate, packet) && walk(layout, 0, packet)
}

fn walk(layout: &Layout, table: usize, packet: &[u8]) -> bool {
    layout.tables[table].iter().filter(|entry| agrees(&entry.keys, packet)).any(|entry| match entry.then {
        Step::Hold => true,
        Step::Go(table, skip) => {
            let skip = skip.map_or(0, |skip| {
                let further = skip.length_field.map_or(0, |field| {
                    let word = u16::from_be_bytes(packet[field.offset as usize..][..2].try_into().unwrap());
                    usize::from((word & field.mask) >> field.shift)
                });
                (usize::from(skip.bytes) + further + 3) & !3
            });
            packet.get(skip..).is_some_and(|rest| walk(layout, table, rest))
        }
    })
}

fn agrees(keys: &[Key], packet: &[u8]) -> bool {
    keys.iter().all(|key| {
        let word = packet.get(key.offset as usize..).and_then(|rest| rest.first_chunk::<4>());
        word.is_some_and(|word| u32::from_be_bytes(*word) & key.mask == key.value)
    })
}

const SYN: u8 = 0x02;

fn tcp(port: u16, flags: u8) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[2..4].copy_from_slice(&port.to_be_bytes());
    header[12] = 0x50;
    header[13] = flags;
    header
}

fn v4(to: [u8; 4], options: usize, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 20 + options];
    header[0] = 0x40 | (header.len() / 4) as u8;
    header[9] = TCP;
    header[16..20].copy_from_slice(&to);
    [header, payload.to_vec()].concat()
}

fn v6(to: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 40];
    header[0] = 0x60;
    header[6] = next;
    header[24..40].copy_from_slice(&to.parse::<std::net::Ipv6Addr>().unwrap().octets());
    [header, payload.to_vec()].concat()
}

fn option_header(next: u8, units: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 8 + usize::from(units) * 8];
    header[..2].copy_from_slice(&[next, units]);
    [header, payload.to_vec()].concat()
}

#[test]
fn ipv4_syns_are_held_with_and_without_options() {
    let layouts = layouts(&coverage(&[("10.0.0.2/32", &[80, 443]), ("127.0.0.0/8", &[80])])).unwrap();
    assert_eq!(layouts.len(), 1);
    let held = |packet: &[u8]| holds(&layouts[0], packet);
    assert!(held(&v4([10, 0, 0, 2], 0, &tcp(80, SYN))));
    assert!(held(&v4([10, 0, 0, 2], 12, &tcp(443, SYN))));
    assert!(held(&v4([127, 9, 9, 9], 40, &tcp(80, SYN))));
    // A SYN may have the ECN flags.
    assert!(held(&v4([10, 0, 0, 2], 0, &tcp(80, SYN | 0xc0))));
    assert!(!held(&v4([127, 9, 9, 9], 0, &tcp(443, SYN))), "the port of another address");
    assert!(!held(&v4([10, 0, 0, 3], 0, &tcp(80, SYN))), "not for this host");
    assert!(!held(&v4([10, 0, 0, 2], 0, &tcp(8080, SYN))), "another port");
    for flags in [0x12, 0x10, 0x06, 0x03, 0] {
        assert!(!held(&v4([10, 0, 0, 2], 0, &tcp(80, flags))), "not a SYN: {flags:#x}");
    }
}

#[test]
fn ipv4_packets_that_are_not_tcp_or_are_later_fragments_pass() {
    let layouts = layouts(&coverage(&[("10.0.0.2/32", &[80])])).unwrap();
    let mut packet = v4([10, 0, 0, 2], 0, &tcp(80, SYN));
    packet[6] = 0x40;
    assert!(holds(&layouts[0], &packet), "don't fragment");
    packet[7] = 1;
    assert!(!holds(&layouts[0], &packet), "a later fragment");
    packet[7] = 0;
    packet[9] = 17;
    assert!(!holds(&layouts[0], &packet), "UDP");
}

#[test]
fn ipv6_syns_are_held_behind_up_to_two_extension_headers() {
    let layouts = layouts(&coverage(&[("fd00::2/128", &[80]), ("fd01::/64", &[81])])).unwrap();
    let held = |packet: &[u8]| holds(&layouts[0], packet);
    let syn = tcp(80, SYN);
    assert!(held(&v6("fd00::2", TCP, &syn)));
    for next in [0, 43, 60] {
        assert!(held(&v6("fd00::2", next, &option_header(TCP, 0, &syn))), "{next}");
        assert!(held(&v6("fd00::2", next, &option_header(TCP, 5, &syn))), "{next}, long");
        assert!(held(&v6("fd00::2", next, &option_header(60, 1, &option_header(TCP, 2, &syn)))), "{next}, two");
    }
    let fragment = |offset: u8| [vec![TCP, 0, 0, offset, 0, 0, 0, 9], syn.clone()].concat();
    assert!(held(&v6("fd00::2", 44, &fragment(1))), "a first fragment, more to come");
    assert!(!held(&v6("fd00::2", 44, &fragment(8))), "a later one");
    assert!(held(&v6("fd01::7", TCP, &tcp(81, SYN))));
    assert!(!held(&v6("fd01::7", TCP, &syn)));
    assert!(!held(&v6("fd02::7", TCP, &syn)));
    assert!(!held(&v6("fd00::2", 17, &syn)), "UDP");
    assert!(!held(&v6("fd00::2", TCP, &tcp(80, 0x12))));
}

#[test]
fn addresses_with_the_same_ports_share_their_tables() {
    let many: Vec<String> = (0..200).map(|host| format!("10.0.0.{host}/32")).collect();
    let many: Vec<(&str, &[u16])> = many.iter().map(|text| (text.as_str(), &[80, 81, 82][..])).collect();
    let layouts = layouts(&coverage(&many)).unwrap();
    assert_eq!(layouts[0].tables.iter().map(Vec::len).collect::<Vec<_>>(), [200, 3]);
}

#[test]
fn more_ports_than_a_table_takes_are_refused() {
    let ports: Vec<u16> = (1..=4096).collect();
    let error = layouts(&coverage(&[("10.0.0.2/32", &ports)])).unwrap_err();
    assert!(matches!(error, QdiscError::TooMany { what: "ports", number: 4096 }), "{error}");
    assert!(layouts(&coverage(&[("10.0.0.2/32", &ports[1..])])).is_ok());
    assert!(layouts(&Coverage::new()).unwrap().is_empty());
}
