//! Checks the addresses that `--listen` accepts.

use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::rig::Answer;
use reloader_tests::service::{Kind, Service};

use reloader_tests::hold_rig::{HoldRig, WEB, assert_held};

/// Restarts a server on `binds` under a hold on `listen`, with a load to `clients`.
#[track_caller]
fn restart_under_a_hold(binds: &[&str], listen: &[&str], clients: &[&str]) -> Answer {
    netns::enter();
    let hold_rig = HoldRig::new();
    let service = Service::started(Kind::Perl, hold_rig.rig.dir(), binds);
    let load = Load::to(clients.iter().copied()).rate(400).start();
    load.until_started(200);
    let mut args = vec!["--json"];
    listen.iter().for_each(|address| args.extend(["--listen", address]));
    let answer = hold_rig.run(&args, service.command("restart")).expect_status(0);
    assert_held(&answer);
    assert!(answer.at("/syns/held").as_u64() > Some(0), "{}", answer.stdout);
    load.until_further(200);
    load.stop().assert_lossless();
    drop(service);
    hold_rig.assert_gone();
    answer
}

/// The addresses in the receipt, sorted.
fn listed(answer: &Answer) -> Vec<&str> {
    let listeners = answer.at("/listeners").as_array().expect("listeners");
    let mut listed: Vec<&str> = listeners.iter().filter_map(|listener| listener["address"].as_str()).collect();
    listed.sort_unstable();
    listed
}

#[test]
#[ignore = "alone: loads"]
fn several_addresses_are_held() {
    let both = ["127.0.0.1:8080", "127.0.0.1:8081"];
    restart_under_a_hold(&both, &both, &both);
}

#[test]
#[ignore = "alone: loads"]
fn ipv6_wildcard_holds_both_families() {
    restart_under_a_hold(&["[::]:8080"], &["[::]:8080"], &["127.0.0.1:8080", "[::1]:8080"]);
}

#[test]
#[ignore = "alone: loads"]
fn port_alone_holds_every_address() {
    restart_under_a_hold(&["[::]:8080"], &[":8080"], &["127.0.0.1:8080", "[::1]:8080"]);
}

/// nginx listens like this: its `[::]` socket leaves IPv4 to the other one.
#[test]
#[ignore = "alone: loads"]
fn port_alone_holds_a_listener_for_each_family() {
    let both = ["0.0.0.0:8080", "[::]:8080"];
    let answer = restart_under_a_hold(&both, &[":8080"], &["127.0.0.1:8080", "[::1]:8080"]);
    assert_eq!(listed(&answer), both);
}

#[test]
#[ignore = "alone: loads"]
fn port_alone_holds_the_one_address_with_a_listener() {
    let answer = restart_under_a_hold(&[WEB], &[":8080"], &[WEB]);
    assert_eq!(listed(&answer), [WEB]);
}

#[test]
#[ignore = "alone: loads"]
fn port_alone_holds_a_wildcard_and_an_address_of_the_other_family() {
    let answer = restart_under_a_hold(&["0.0.0.0:8080", "[::1]:8080"], &[":8080"], &["127.0.0.1:8080", "[::1]:8080"]);
    assert_eq!(listed(&answer), ["0.0.0.0:8080", "[::1]:8080"]);
}

/// The clients of the other family are refused, so the SYNs that were held prove nothing for them.
#[test]
fn port_alone_is_unproven_if_one_family_stays_refused() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let before = Service::started(Kind::Perl, hold_rig.rig.dir(), &["[::]:8080"]);
    let after = Service::new(Kind::Perl, hold_rig.rig.dir(), &["0.0.0.0:8080"]);
    let answer = hold_rig.run(&["--json", "--listen", ":8080"], after.command("restart")).expect_status(0);
    assert_eq!((answer.at("/result"), listed(&answer)), (&"unproven".into(), vec!["[::]:8080"]));
    assert!(answer.at("/listeners/0/why").as_str().unwrap().contains("a part of it"), "{}", answer.stdout);
    drop((before, after));
    hold_rig.assert_gone();
}

#[test]
#[ignore = "alone: loads"]
fn ipv4_wildcard_is_held() {
    restart_under_a_hold(&["0.0.0.0:8080"], &["0.0.0.0:8080"], &["127.0.0.1:8080"]);
}

/// The server listens on every address, and one of them is held.
#[test]
#[ignore = "alone: loads"]
fn one_address_of_a_wildcard_listener_is_held() {
    restart_under_a_hold(&["0.0.0.0:8080"], &[WEB], &[WEB]);
}

#[test]
#[ignore = "alone: loads"]
fn host_name_is_held() {
    restart_under_a_hold(&["127.0.0.1:8080"], &["localhost:8080"], &["127.0.0.1:8080"]);
}

/// The server listens on one of the addresses of its name, as most servers do.
#[track_caller]
fn restart_under_a_hold_on_a_name(service: impl FnOnce(&HoldRig) -> Service, verb: &str) {
    netns::enter();
    let hold_rig = HoldRig::new();
    let service = service(&hold_rig);
    let hosts = hold_rig.rig.path("hosts").display().to_string();
    std::fs::write(&hosts, "::1 localhost\n127.0.0.1 localhost\n").unwrap();
    let script = format!("mount --bind {hosts} /etc/hosts && exec \"$@\"");
    let command = service.command(verb);
    let mut args = vec!["hold", "--json", "--max", "10s", "--listen", "localhost:8080", "--"];
    args.extend(command.iter().map(String::as_str));
    let answer = hold_rig.rig.run_under(&["unshare", "--mount", "sh", "-c", &script, "sh"], &args).expect_status(0);
    assert_held(&answer);
    assert_eq!(listed(&answer), [WEB]);
    drop(service);
    hold_rig.assert_gone();
}

#[test]
fn host_name_with_two_addresses_holds_the_one_with_a_listener() {
    restart_under_a_hold_on_a_name(|hold_rig| Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]), "restart");
}

/// Until the server listens, it is not known which of the addresses it uses.
#[test]
fn host_name_with_two_addresses_holds_a_listener_that_comes_later() {
    restart_under_a_hold_on_a_name(|hold_rig| Service::new(Kind::Perl, hold_rig.rig.dir(), &[WEB]), "start");
}

#[test]
fn addresses_that_cannot_be_held_are_refused() {
    netns::enter();
    let hold_rig = HoldRig::new();
    for (listen, message) in [
        ("/run/app.sock", "a unix socket has no SYNs"),
        ("unix@/run/app.sock", "a unix socket has no SYNs"),
        ("udp@:53", "only TCP has SYNs"),
        ("127.0.0.1:80-90", "repeat --listen for each port"),
        ("127.0.0.1", "there is no port in it"),
        ("127.0.0.1:0", "there is no port in it"),
        ("::1:80", "in brackets"),
        ("no-such-host.invalid:80", "cannot be resolved"),
    ] {
        let answer = hold_rig.run(&["--listen", listen], ["true"]).expect_status(2);
        assert!(answer.stderr.contains(message) && answer.stderr.contains(listen), "{}", answer.stderr);
    }
    hold_rig.run(&["--listen", WEB, "--max", "0s"], ["true"]).expect_status(2);
    hold_rig.run(&["--listen", WEB], [""; 0]).expect_status(2);
    hold_rig.run(&[], ["true"]).expect_status(2);
    assert!(!hold_rig.rig.path("run").exists(), "no hold was begun");
}
