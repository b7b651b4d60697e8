//! Holds SYNs with IP options and extension headers.

use reloader::gate::hold::Gate;
use reloader_tests::network::Namespace;

use super::rig::{kernel_has_plug, reachable_pair, send_raw, spec, syn, wait_for_parked};
use super::{armed, delivered, without_time};

#[test]
fn syns_with_options_and_extension_headers_are_held() {
    if !kernel_has_plug() {
        return;
    }
    let (client, server) = reachable_pair();
    server.run(|| {
        let mut gate = armed(&spec(1, &["0.0.0.0:8080", "[::]:8080"]));
        client.run(|| {
            send_raw(&v4_with_options(&syn()), "10.0.0.2");
            send_raw(&v6(6, &syn()), "fd00::2");
            send_raw(&v6(60, &options(6, 1, &syn())), "fd00::2");
            send_raw(&v6(60, &options(60, 0, &options(6, 2, &syn()))), "fd00::2");
        });
        wait_for_parked(4);
        assert_eq!(without_time(gate.release().unwrap()), delivered(4));
    });
    Namespace::new().run(|| {
        let mut gate = armed(&spec(1, &["0.0.0.0:8080"]));
        let mut packet = v4_with_options(&syn());
        packet[12..20].copy_from_slice(&[127, 0, 0, 1, 127, 0, 0, 1]);
        send_raw(&packet, "127.0.0.1");
        wait_for_parked(1);
        assert_eq!(without_time(gate.release().unwrap()), delivered(1));
    });
}

/// An IPv4 packet from 10.0.0.1 to 10.0.0.2, with eight "no operation" options.
fn v4_with_options(payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 28];
    header[0] = 0x47;
    header[8..10].copy_from_slice(&[64, 6]);
    header[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    header[20..28].fill(1);
    [header, payload.to_vec()].concat()
}

/// An IPv6 packet from fd00::1 to fd00::2.
fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    header[6..8].copy_from_slice(&[next, 64]);
    for (at, host) in [(8, 1), (24, 2)] {
        header[at] = 0xfd;
        header[at + 15] = host;
    }
    [header, payload.to_vec()].concat()
}

/// Destination options that consist of padding: `8 + units * 8` bytes with the header.
fn options(next: u8, units: u8, payload: &[u8]) -> Vec<u8> {
    const PAD_N: u8 = 1;
    let mut header = vec![0; 8 + usize::from(units) * 8];
    let padding = header.len() as u8 - 4;
    header[..4].copy_from_slice(&[next, units, PAD_N, padding]);
    [header, payload.to_vec()].concat()
}
