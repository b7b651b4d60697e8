//! Sends more SYNs than a hold has room for.

use std::net::Ipv4Addr;

use reloader_tests::load::Load;

use super::scene::{Scene, send_syn};

#[test]
#[ignore = "alone: judges latency"]
fn syns_beyond_capacity_are_dropped_and_counted() {
    let scene = Scene::with("[hold]\ncapacity = \"64KiB\"");
    let _listener = scene.listener();
    let other = scene.start_service(&["10.0.0.2:8081"]);
    let held = scene.hold(&[]);
    let before = resident(held.holder.pid) + resident(held.guard().pid);
    let load = scene.client.run(|| Load::to(["10.0.0.2:8081"]).rate(200).start());
    load.until_started(20);
    for number in 0..10_000_u16 {
        send_syn(&scene, Ipv4Addr::new(10, 0, 0, 100 + (number % 100) as u8), 1024 + number);
    }
    load.until_further(50);
    let grown = (resident(held.holder.pid) + resident(held.guard().pid)).saturating_sub(before);
    let outcomes = load.stop();
    outcomes.assert_lossless();
    assert_eq!(outcomes.summary().slow, 0, "{outcomes}");
    let answer = held.go_on().expect_status(3);
    let count = |name: &str| answer.at(&format!("/syns/{name}")).as_u64().unwrap();
    println!("{} held, {} dropped, {grown} KiB more memory", count("held"), count("dropped"));
    // A record of the ring has at least the 40 bytes of a SYN.
    assert!((1..=64 * 1024 / 40).contains(&count("held")) && grown < 1024, "{grown} KiB, {}", answer.stdout);
    assert_eq!(count("held") + count("dropped"), 10_000, "{}", answer.stdout);
    assert_eq!(count("released"), count("held"));
    scene.stop_service(other);
}

/// The resident memory of a process, in KiB.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
