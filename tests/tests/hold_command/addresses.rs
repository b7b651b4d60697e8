//! What `--listen` takes.

use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::service::{Kind, Service};

use reloader_tests::holding::{Holding, WEB, assert_held};

/// A restart of a server on `binds`, held by `listen`, under load to `clients`.
#[track_caller]
fn held(binds: &[&str], listen: &[&str], clients: &[&str]) {
    let _alone = netns::enter_alone();
    let holding = Holding::new();
    let service = Service::started(Kind::Perl, holding.rig.dir(), binds);
    let load = Load::to(clients.iter().copied()).rate(400).start();
    load.until_started(200);
    let mut args = vec!["--json"];
    listen.iter().for_each(|address| args.extend(["--listen", address]));
    let answer = holding.run(&args, service.command("restart")).expect_status(0);
    assert_held(&answer);
    assert!(answer.at("/syns/held").as_u64() > Some(0), "{}", answer.stdout);
    load.until_further(200);
    load.stop().assert_lossless();
    drop(service);
    holding.assert_gone();
}

#[test]
fn several() {
    let both = ["127.0.0.1:8080", "127.0.0.1:8081"];
    held(&both, &both, &both);
}

#[test]
fn both_families_by_one_wildcard() {
    held(&["[::]:8080"], &["[::]:8080"], &["127.0.0.1:8080", "[::1]:8080"]);
}

#[test]
fn every_address_by_a_port() {
    held(&["[::]:8080"], &[":8080"], &["127.0.0.1:8080", "[::1]:8080"]);
}

#[test]
fn an_ipv4_wildcard() {
    held(&["0.0.0.0:8080"], &["0.0.0.0:8080"], &["127.0.0.1:8080"]);
}

/// The server listens on every address, of which one is held.
#[test]
fn one_address_of_a_wildcard() {
    held(&["0.0.0.0:8080"], &[WEB], &[WEB]);
}

#[test]
fn a_name() {
    held(&["127.0.0.1:8080"], &["localhost:8080"], &["127.0.0.1:8080"]);
}

/// It listens on one of the addresses that its name stands for, as most servers do.
#[test]
fn a_name_of_two_addresses() {
    netns::enter();
    let holding = Holding::new();
    let service = Service::started(Kind::Perl, holding.rig.dir(), &[WEB]);
    let hosts = holding.rig.path("hosts").display().to_string();
    std::fs::write(&hosts, "::1 localhost\n127.0.0.1 localhost\n").unwrap();
    let script = format!("mount --bind {hosts} /etc/hosts && exec \"$@\"");
    let restart = service.command("restart");
    let mut args = vec!["hold", "--json", "--max", "10s", "--listen", "localhost:8080", "--"];
    args.extend(restart.iter().map(String::as_str));
    let answer = holding.rig.run_under(&["unshare", "--mount", "sh", "-c", &script, "sh"], &args).expect_status(0);
    assert_held(&answer);
    drop(service);
    holding.assert_gone();
}

#[test]
fn what_cannot_be_held_is_refused() {
    netns::enter();
    let holding = Holding::new();
    for (listen, sentence) in [
        ("/run/app.sock", "a unix socket has no SYNs"),
        ("unix@/run/app.sock", "a unix socket has no SYNs"),
        ("udp@:53", "only TCP has SYNs"),
        ("127.0.0.1:80-90", "repeat --listen for each port"),
        ("127.0.0.1", "there is no port in it"),
        ("127.0.0.1:0", "there is no port in it"),
        ("::1:80", "in brackets"),
        ("no-such-host.invalid:80", "cannot be resolved"),
    ] {
        let answer = holding.run(&["--listen", listen], ["true"]).expect_status(2);
        assert!(answer.stderr.contains(sentence) && answer.stderr.contains(listen), "{}", answer.stderr);
    }
    holding.run(&["--listen", WEB, "--max", "0s"], ["true"]).expect_status(2);
    holding.run(&["--listen", WEB], [""; 0]).expect_status(2);
    holding.run(&[], ["true"]).expect_status(2);
    assert!(!holding.rig.path("run").exists(), "nothing was begun");
}
