//! Tests servers that bind without SO_REUSEPORT and overlap all the same, because their ports are shared while the new generation starts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::footprint::Footprint;
use reloader_tests::guest::{self, Feature};
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::receipt::{assert_proven, listener};
use reloader_tests::rig::{Rig, binary};
use reloader_tests::script::script_in;
use reloader_tests::tier;

use super::scene::{WEB, binding_server, nginx, prepare, service_table, setup, write_nginx_conf};

const LIMIT: Duration = Duration::from_secs(30);

/// A table with `sockets = "overlap"`.
fn table(name: &str, start: &str, lines: &str) -> String {
    service_table(name, start, "overlap", WEB, lines)
}

#[test]
#[ignore = "alone: loads"]
fn haproxy_with_noreuseport_overlaps_unless_that_is_off() {
    netns::enter();
    let config = Config::web(WEB).global("noreuseport");
    let shared = if guest::expects(Feature::BindSharing) { "steered" } else { "held-ebpf" };
    for (line, rung) in [("", shared), ("overlap = \"off\"", "held-ebpf")] {
        let rig = Rig::with(&config).haproxy_line(line).tables("[reload]\nstrategy = \"steer\"").start();
        assert_eq!(rig.status().at("/plan/0/rung"), rung);
        let load = Load::to([WEB]).rate(2000).start();
        for _ in 0..tier::rounds(20) {
            load.until_further(400.min(guest::rate(2000).into()));
            let receipt = rig.reload();
            assert_proven(&receipt);
            assert_eq!(listener(&receipt, WEB)["rung"], rung, "{}", receipt.stdout);
        }
        let outcomes = load.stop();
        println!("{rung}: {}", outcomes.summary());
        outcomes.assert_lossless();
    }
}

/// A script that binds. While the file `unready` is there, it does what that says instead of serving.
const UNREADY: &str = r#"
import os, socket, sys, time
host, port = sys.argv[1].split(":")
listener = socket.create_server((host, int(port)))
if not os.path.exists("DIR/unready"):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    while True:
        client, _ = listener.accept()
        client.recv(999)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
        client.close()
os._exit(7) if open("DIR/unready").read() == "exits" else time.sleep(1000)
"#;

fn unready(rig: &Rig, manner: &str) {
    fs::write(rig.path("unready"), manner).unwrap();
}

fn unready_rig() -> Rig {
    let start = format!("\"/usr/bin/python3\", \"DIR/unready.py\", \"{WEB}\"");
    let lines = "ready = \"notify\"\n[reload]\nstart-timeout = \"2s\"";
    let rig = prepare(setup(&table("unready", &start, lines)));
    fs::write(rig.path("unready.py"), UNREADY.replace("DIR", &rig.dir().display().to_string())).unwrap();
    rig
}

/// The old generation serves on, gets all connections, and nothing is left.
#[test]
#[ignore = "alone: loads"]
fn generation_that_fails_after_its_bind_costs_nothing() {
    netns::enter();
    let mut rig = unready_rig();
    let before = Footprint::take_with_bpf(rig.dir());
    rig.start_daemon();
    let serving = rig.serving().unwrap();
    let load = Load::to([WEB]).rate(500).start();
    load.until_started(100);
    for manner in ["exits", "hangs"] {
        unready(&rig, manner);
        let receipt = rig.reload().expect_status(1);
        assert_eq!(receipt.at("/result"), "failed", "{}", receipt.stdout);
        load.until_further(100);
    }
    assert_eq!(rig.serving(), Some(serving));
    load.stop().assert_lossless();
    fs::remove_file(rig.path("unready")).unwrap();
    assert_eq!(listener(&rig.reload().expect_status(0), WEB)["rung"], "steered");
    rig.run(&["stop"]).expect_status(0);
    rig.until_daemon_ends();
    assert_eq!(before.left_behind(), Vec::<String>::new());
}

/// At any moment of a start the port is served, and the next daemon finds nothing in its way.
#[test]
#[ignore = "alone: loads, and eBPF objects of the whole machine are looked at"]
fn daemon_killed_at_any_moment_of_a_start_leaves_nothing() {
    netns::enter();
    let mut rig = prepare(setup(&table("app", "\"/usr/bin/python3\", \"DIR/app.py\"", "")));
    fs::write(rig.path("app.py"), binding_server("0.1")).unwrap();
    let before = Footprint::take_with_bpf(rig.dir());
    rig.start_daemon();
    let load = Load::to([WEB]).rate(500).start();
    load.until_started(100);
    let moments = tier::rounds(30);
    for moment in 0..moments {
        let reload = rig.spawn(&["reload", "--json"]);
        // A start takes about half a second here.
        std::thread::sleep(Duration::from_millis(500) * moment as u32 / moments as u32);
        rig.kill9_daemon();
        drop(reload.wait());
        load.until_further(20);
        rig.start_daemon();
        until(LIMIT, "a serving generation", || rig.serving().is_some());
    }
    load.until_further(100);
    load.stop().assert_lossless();
    rig.reload().expect_status(0);
    rig.run(&["stop"]).expect_status(0);
    rig.until_daemon_ends();
    until(LIMIT, "the port to be free", || std::net::TcpListener::bind(WEB).is_ok());
    assert_eq!(before.left_behind(), Vec::<String>::new());
}

/// A reloader whose mounts are its own. The daemon runs `first` before it starts.
fn in_own_mount_namespace(dir: &Path, first: &str) -> PathBuf {
    let reloader = binary();
    let text = format!("#!/bin/sh\nexec unshare -m sh -c '{first}exec {} \"$@\"' sh \"$@\"\n", reloader.display());
    script_in(dir, "reloader", &text)
}

/// Where no control group can be made the old generation is replaced only if the configuration says so.
#[test]
fn without_control_groups_a_reload_is_refused_or_replaces() {
    netns::enter();
    for (line, status, rung) in [("", 1, "unproven"), ("fallback = \"replace\"", 0, "held-ebpf")] {
        let hidden = tempfile::tempdir().unwrap();
        let script = in_own_mount_namespace(hidden.path(), "umount -l -a -t cgroup2; ");
        let mut rig =
            prepare(setup(&table("nginx", &nginx(), &format!("stop = \"SIGQUIT\"\n{line}"))).reloader(&script));
        write_nginx_conf(&rig, WEB);
        rig.start_daemon();
        let plan = rig.status().at("/plan/0").clone();
        assert_eq!(plan["rung"], rung, "{plan}");
        assert!(plan["why"].as_str().unwrap().contains("control group"), "{plan}");
        let serving = rig.serving_pid();
        let receipt = rig.reload().expect_status(status);
        if status == 1 {
            assert_eq!(receipt.at("/reason-code"), "overlap-impossible", "{}", receipt.stdout);
            assert!(receipt.at("/reason").as_str().unwrap().contains("fallback"), "{}", receipt.stdout);
            assert_eq!(rig.serving_pid(), serving);
        }
        Load::to([WEB]).connections(20).run().assert_lossless();
    }
}

/// The daemon found a control group when it started, and finds none when it reloads.
#[test]
fn sharing_that_fails_at_a_reload_leads_to_the_hold_where_that_is_allowed() {
    netns::enter();
    let lines = |fallback| format!("stop = \"SIGQUIT\"\n{fallback}");
    let nginx = |fallback| setup(&table("nginx", &nginx(), &lines(fallback)));
    let haproxy = Rig::with(&Config::web(WEB).global("noreuseport")).tables("[reload]\nstrategy = \"steer\"");
    for (setup, status) in [(nginx(""), 1), (nginx("fallback = \"replace\""), 0), (haproxy, 0)] {
        let hidden = tempfile::tempdir().unwrap();
        let mut rig = prepare(setup.reloader(&in_own_mount_namespace(hidden.path(), "")));
        write_nginx_conf(&rig, WEB);
        rig.start_daemon();
        assert_eq!(rig.status().at("/plan/0/rung"), "steered");
        let daemon = rig.daemon_process().pid.to_string();
        let unmount = ["-t", &daemon, "-m", "umount", "-l", "-a", "-t", "cgroup2"];
        assert!(Command::new("nsenter").args(unmount).status().unwrap().success());
        let serving = rig.serving_pid();
        let receipt = rig.reload().expect_status(status);
        if status == 1 {
            assert_eq!(receipt.at("/reason-code"), "overlap-impossible", "{}", receipt.stdout);
            assert_eq!(rig.serving_pid(), serving);
        } else {
            assert_eq!(listener(&receipt, WEB)["rung"], "held-ebpf", "{}", receipt.stdout);
            assert!(receipt.at("/notes").to_string().contains("are not shared"), "{}", receipt.stdout);
        }
        Load::to([WEB]).connections(20).run().assert_lossless();
    }
}

/// That strategy forbids eBPF everywhere.
#[test]
fn kernel_fallback_shares_no_port() {
    netns::enter();
    let lines = "stop = \"SIGQUIT\"\n[reload]\nstrategy = \"kernel-fallback\"";
    let mut rig = prepare(setup(&table("nginx", &nginx(), lines)));
    write_nginx_conf(&rig, WEB);
    rig.start_daemon();
    let serving = rig.serving_pid();
    let receipt = rig.reload().expect_status(1);
    assert_eq!(receipt.at("/reason-code"), "overlap-impossible", "{}", receipt.stdout);
    assert!(receipt.at("/reason").as_str().unwrap().contains("kernel-fallback"), "{}", receipt.stdout);
    assert_eq!(rig.serving_pid(), serving);
}

/// The kernel lets two sockets share a port only if one user has both.
#[test]
fn generation_of_another_user_overlaps() {
    netns::enter();
    let mut rig = prepare(setup(&table("app", "\"/usr/bin/python3\", \"DIR/app.py\"", "user = \"nobody\"")));
    fs::write(rig.path("app.py"), binding_server("0")).unwrap();
    fs::set_permissions(rig.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    rig.start_daemon();
    assert_eq!(listener(&rig.reload().expect_status(0), WEB)["rung"], "steered");
    let file = rig.path("reloader.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("user = \"nobody\"", "user = \"www-data\"")).unwrap();
    rig.signal_daemon(Signal::SIGHUP);
    let user_of = |process: Process| fs::metadata(format!("/proc/{}", process.pid)).unwrap().uid();
    let before = user_of(rig.serving().unwrap());
    until(LIMIT, "a generation of another user", || {
        assert_eq!(listener(&rig.reload().expect_status(0), WEB)["rung"], "steered");
        user_of(rig.serving().unwrap()) != before
    });
}

/// Two databases on one data set would destroy it.
#[test]
fn server_that_writes_a_file_in_place_is_not_doubled() {
    netns::enter();
    for (line, status) in [("", 1), ("shared-files = [\"DIR/data\"]", 0)] {
        let mut rig = prepare(setup(&table("app", "\"/usr/bin/python3\", \"DIR/app.py\"", line)));
        let data =
            format!("data = open(\"{0}/data\", \"w\"); log = open(\"{0}/app.log\", \"a\")\n", rig.dir().display());
        fs::write(rig.path("app.py"), data + &binding_server("0")).unwrap();
        rig.start_daemon();
        let serving = rig.serving_pid();
        let receipt = rig.reload().expect_status(status);
        if status == 1 {
            assert_eq!(receipt.at("/reason-code"), "data-at-risk", "{}", receipt.stdout);
            let reason = receipt.at("/reason").as_str().unwrap().to_owned();
            assert!(reason.contains(&format!("{}/data open for writing", rig.dir().display())), "{reason}");
            assert_eq!(rig.serving_pid(), serving);
        }
    }
}

/// What the new generation binds elsewhere, or in another shape, is no successor of the old listener.
#[test]
fn generation_that_binds_another_address_is_refused() {
    netns::enter();
    let mut rig = prepare(setup(&table("nginx", &nginx(), "stop = \"SIGQUIT\"\n[reload]\nstart-timeout = \"3s\"")));
    write_nginx_conf(&rig, WEB);
    rig.start_daemon();
    let serving = rig.serving_pid();
    for other in ["127.0.0.1:8081", "0.0.0.0:8080", "[::1]:8080", "[::]:8080 ipv6only=off"] {
        write_nginx_conf(&rig, other);
        let receipt = rig.reload().expect_status(1);
        assert_eq!(receipt.at("/result"), "failed", "{other}: {}", receipt.stdout);
        assert_eq!(rig.serving_pid(), serving);
        Load::to([WEB]).connections(50).run().assert_lossless();
    }
    write_nginx_conf(&rig, WEB);
    assert_eq!(listener(&rig.reload().expect_status(0), WEB)["rung"], "steered");
}

#[test]
fn both_families_overlap() {
    netns::enter();
    for (address, bind) in [
        ("[::1]:8080", "(\"::1\", 8080), family=socket.AF_INET6"),
        ("[::]:8080", "(\"::\", 8080), family=socket.AF_INET6, dualstack_ipv6=True"),
    ] {
        let start = "\"/usr/bin/python3\", \"DIR/app.py\"";
        let mut rig = prepare(setup(&service_table("app", start, "overlap", address, "")));
        fs::write(rig.path("app.py"), binding_server("0").replace("(\"127.0.0.1\", 8080)", bind)).unwrap();
        rig.start_daemon();
        for _ in 0..2 {
            assert_eq!(listener(&rig.reload().expect_status(0), address)["rung"], "steered");
            Load::to(["[::1]:8080"]).connections(20).run().assert_lossless();
        }
    }
}
