use super::*;
use crate::gate::contract::Exception;

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
}

fn local() -> Vec<Prefix> {
    ["127.0.0.0/8", "127.0.0.1/32", "10.0.0.2/32", "::1/128", "fd00::2/128", "fe80::2/128"].map(prefix).into()
}

fn device(index: u32) -> Device {
    Device { index, ..Device::default() }
}

fn target(address: &str) -> Target {
    Target { address: address.parse().unwrap(), v6only: false, interface: 0 }
}

fn spec(targets: &[Target], exceptions: &[&str]) -> Spec {
    let exception = |address: &&str| Exception { address: address.parse().unwrap(), interface: 0 };
    let exceptions = exceptions.iter().map(exception).collect();
    Spec { id: 1, targets: targets.into(), exceptions, capacity: 0 }
}

fn shown(coverage: &Coverage) -> Vec<String> {
    let line = |(prefix, ports): (&Prefix, &Ports)| format!("{}/{} {ports:?}", prefix.address, prefix.length);
    coverage.iter().map(line).collect()
}

fn covered(device_index: u32, targets: &[Target], exceptions: &[&str]) -> Vec<String> {
    shown(&coverage(&spec(targets, exceptions), &device(device_index), &local()))
}

#[test]
fn a_wildcard_covers_all_local_addresses_of_its_family() {
    assert_eq!(covered(2, &[target("0.0.0.0:80")], &[]), ["10.0.0.2/32 {80}"]);
    assert_eq!(covered(LO, &[target("0.0.0.0:80")], &[]), ["10.0.0.2/32 {80}", "127.0.0.0/8 {80}"]);
    let dual = ["10.0.0.2/32 {80}", "fd00::2/128 {80}", "fe80::2/128 {80}"];
    assert_eq!(covered(2, &[target("[::]:80")], &[]), dual);
    let v6only = Target { v6only: true, ..target("[::]:80") };
    assert_eq!(covered(2, &[v6only], &[]), dual[1..]);
}

#[test]
fn a_single_address_is_held_where_it_is_local() {
    assert_eq!(covered(2, &[target("10.0.0.2:80"), target("10.0.0.2:81")], &[]), ["10.0.0.2/32 {80, 81}"]);
    assert_eq!(covered(2, &[target("10.0.0.3:80")], &[]), [""; 0]);
    assert_eq!(covered(2, &[target("127.0.0.1:80")], &[]), [""; 0]);
    assert_eq!(covered(LO, &[target("127.0.0.1:80")], &[]), ["127.0.0.1/32 {80}"]);
    assert_eq!(covered(LO, &[target("127.9.0.1:80")], &[]), ["127.9.0.1/32 {80}"]);
    assert_eq!(covered(2, &[target("[::ffff:10.0.0.2]:80")], &[]), ["10.0.0.2/32 {80}"]);
}

#[test]
fn an_exception_is_cut_out_of_the_coverage() {
    assert_eq!(covered(2, &[target("0.0.0.0:80")], &["10.0.0.2:80"]), [""; 0]);
    assert_eq!(covered(2, &[target("0.0.0.0:80")], &["10.0.0.2:81"]), ["10.0.0.2/32 {80}"]);
    let with_hole = covered(LO, &[target("0.0.0.0:80"), target("0.0.0.0:81")], &["127.0.0.1:80"]);
    assert!(with_hole.contains(&"127.0.0.1/32 {81}".into()), "{with_hole:?}");
    assert!(with_hole.contains(&"127.0.0.0/32 {80, 81}".into()), "{with_hole:?}");
    assert_eq!(with_hole.len(), 24 + 1 + 1);
    // A target of the same address counts for more than the exception.
    let both = covered(LO, &[target("0.0.0.0:80"), target("10.0.0.2:80")], &["10.0.0.2:80"]);
    assert_eq!(both, ["10.0.0.2/32 {80}", "127.0.0.0/8 {80}"]);
}

#[test]
fn an_exception_that_is_bound_to_a_device_is_cut_out_on_that_device_only() {
    let mut spec = spec(&[target("0.0.0.0:80")], &["10.0.0.2:80"]);
    spec.exceptions[0].interface = 3;
    assert_eq!(shown(&coverage(&spec, &device(2), &local())), ["10.0.0.2/32 {80}"]);
    assert_eq!(shown(&coverage(&spec, &device(3), &local())), [""; 0]);
}

#[test]
fn an_address_within_a_prefix_has_the_ports_of_both() {
    let both = covered(LO, &[target("0.0.0.0:80"), target("127.0.0.1:81")], &[]);
    assert!(both.contains(&"127.0.0.1/32 {80, 81}".into()) && both.contains(&"127.0.0.0/32 {80}".into()), "{both:?}");
}

#[test]
fn a_listener_that_is_bound_to_a_device_is_held_on_that_device() {
    let bound = Target { interface: 2, ..target("0.0.0.0:80") };
    assert_eq!(covered(2, &[bound], &[]), ["10.0.0.2/32 {80}"]);
    assert_eq!(covered(3, &[bound], &[]), [""; 0]);
    assert_eq!(covered(LO, &[bound], &[]), [""; 0]);
    let slave = Device { master: Some(2), ..device(3) };
    assert_eq!(shown(&coverage(&spec(&[bound], &[]), &slave, &local())), ["10.0.0.2/32 {80}"]);
}

#[test]
fn a_link_local_address_is_held_on_its_device_and_for_local_clients() {
    let link_local = Target { address: "[fe80::2%2]:80".parse().unwrap(), ..target("[::]:80") };
    assert_eq!(covered(2, &[link_local], &[]), ["fe80::2/128 {80}"]);
    assert_eq!(covered(3, &[link_local], &[]), [""; 0]);
    assert_eq!(covered(LO, &[link_local], &[]), ["fe80::2/128 {80}"]);
}
