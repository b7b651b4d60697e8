//! Tests the booted machine itself.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use reloader_tests::booted::Machine;
use reloader_tests::isolation;
use reloader_tests::load::Load;
use reloader_tests::poll::until;

use super::scene::{LIMIT, Scene, WEB};

#[test]
#[ignore = "alone: boots a machine and loads it"]
fn machine_serves_in_its_own_network_and_leaves_nothing_behind() {
    // A thread of its own, because the scene moves its thread to another network.
    let traces_from_outside = || std::thread::spawn(traces).join().unwrap();
    let before = traces_from_outside();
    std::thread::spawn(|| {
        let scene = Scene::boot(Machine::setup(), "haproxy.service");
        assert_eq!(scene.property("ActiveState"), "active");
        Load::to([WEB]).connections(100).run().assert_lossless();
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    until(LIMIT, "all traces to be gone", || traces_from_outside().difference(&before).next().is_none());
}

/// The mounts, control groups, devices and processes of machines.
fn traces() -> BTreeSet<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut found: BTreeSet<String> = mounts.lines().map(str::to_owned).collect();
    let links = Command::new("ip").args(["-oneline", "link"]).output().unwrap();
    found.extend(
        String::from_utf8_lossy(&links.stdout).lines().filter_map(|line| Some(line.split(": ").nth(1)?.to_owned())),
    );
    let processes = Command::new("pgrep").args(["-a", "systemd-nspawn|haproxy"]).output().unwrap();
    found.extend(String::from_utf8_lossy(&processes.stdout).lines().map(str::to_owned));
    let groups = isolation::own_control_groups();
    let groups = groups.iter().flat_map(|hierarchy| ["payload", "supervisor"].map(|name| hierarchy.join(name)));
    found.extend(groups.filter(|group| group.exists()).map(|group| group.display().to_string()));
    found
}
