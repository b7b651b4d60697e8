//! Checks that custody follows the server: a listener that it closes is refused, no other process has its listeners
//! open, and its child inherits nothing more.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::haproxy::runtime;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::{cmdline, mentioning};
use reloader_tests::receipt::listener;
use reloader_tests::rig::{self, Rig};
use reloader_tests::script::write_script;
use reloader_tests::sockets::{holders, holders_with_cmdline, listening, queued, refuses, until_refused};
use reloader_tests::wrapper::Wrapper;
use serde_json::Value;

const WEB: &str = "127.0.0.1:8080";
const GONE: &str = "127.0.0.1:8082";

#[test]
fn frontend_shut_down_at_run_time_is_refused() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("stats.sock");
    let config = Config::web(WEB).frontend("gone", &[GONE]).stats_socket(&socket);
    let rig = Rig::with(&config).start();
    let load = Load::to([WEB]).start();
    runtime(&socket, "shutdown frontend gone").unwrap();
    until_refused(GONE);
    let custody = rig.status().at("/custody").to_string();
    assert!(custody.contains(WEB) && !custody.contains(GONE), "{custody}");

    let receipt = rig.reload().expect_status(0);
    assert_eq!(listener(&receipt, GONE)["rung"], "added");
    assert!(!refuses(GONE));
    load.stop().assert_lossless();
}

#[test]
fn bind_removed_by_a_reload_is_refused_and_its_queue_is_counted() {
    netns::enter();
    // With one open connection it accepts no more. The others wait in the kernel.
    let full =
        format!("frontend gone\n    bind {GONE}\n    maxconn 1\n    backlog 128\n    http-request return status 200");
    let rig = Rig::with(&Config::web(WEB).section(&full)).start();
    let _clients: Vec<TcpStream> = (0..6).map(|_| TcpStream::connect(GONE).unwrap()).collect();
    until(Duration::from_secs(10), "one connection to be accepted", || queued(8082) == 5);

    rig.configure(&Config::web(WEB));
    let receipt = rig.reload().expect_status(0);
    assert!(refuses(GONE));
    let gone = listener(&receipt, GONE);
    assert_eq!((&gone["rung"], &gone["undrained-queue"]), (&"removed".into(), &5.into()));
    assert_eq!(*receipt.at("/lost/undrained"), 5);
    assert_eq!(listener(&receipt, WEB)["rung"], "passed");
}

#[test]
fn occupied_stats_socket_of_the_user_does_not_disturb_the_daemon() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("stats.sock");
    let mut rig = Rig::with(&Config::web(WEB).stats_socket(&socket)).start();
    let inodes = listening(8080);
    let load = Load::to([WEB]).start();
    let occupy = || (0..10).map(|_| UnixStream::connect(&socket).unwrap()).collect::<Vec<_>>();

    let _first = occupy();
    assert_eq!(*rig.reload().expect_status(0).at("/result"), "proven");
    load.stop().assert_lossless();
    let _second = occupy();
    // The daemon gets this figure from the process whose stats socket is occupied.
    assert!(rig.status().at("/connection-rate").is_number());
    rig.kill9_daemon();
    rig.start_daemon();
    assert_eq!((rig.history().at("/0/kind"), rig.history().at("/0/notes")), (&"adopt".into(), &Value::Array(vec![])));
    let serving = rig.serving().unwrap();
    serving.end();
    rig.until_replaced(serving);
    let receipt = rig.history().at("/0").clone();
    assert_eq!((&receipt["kind"], &receipt["result"]), (&"restart".into(), &"proven".into()));
    assert_eq!(listening(8080), inodes);
    Load::to([WEB]).connections(100).run().assert_lossless();
}

#[test]
fn only_old_new_and_daemon_have_a_listener_open() {
    netns::enter();
    // The wrapper's own commands would inherit whatever the daemon leaks.
    let wrapper = Wrapper::new();
    let rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).start();
    let inodes = listening(8080);
    let daemon = rig.daemon_process().pid;
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !done.load(Relaxed) {
                seen.extend(holders_with_cmdline(&inodes));
            }
            seen
        });
        let reloads: Vec<_> = (0..10).map(|_| rig.reload()).collect();
        done.store(true, Relaxed);
        reloads.into_iter().for_each(|reload| drop(reload.expect_status(0)));
        watch.join().unwrap()
    });
    // A child has the daemon's command line until it becomes HAProxy. A process that ended during the check has no
    // words any more.
    let own_words = cmdline(daemon);
    let is_known =
        |words: &String| words.is_empty() || *words == own_words || words.starts_with("/usr/sbin/haproxy -db");
    let unexpected: Vec<_> = seen.iter().filter(|(_, names)| !names.iter().any(is_known)).collect();
    assert!(unexpected.is_empty() && seen.len() > 10, "{seen:?}");

    let expected = BTreeSet::from([daemon, rig.serving_pid()]);
    until(Duration::from_secs(10), "only daemon and server to hold it", || holders(&inodes) == expected);
    until(Duration::from_secs(10), "the check of last-known-good to end", || mentioning(rig.dir()).len() == 2);
}

#[test]
fn child_inherits_original_limits_and_descriptors_and_no_service_manager_variable() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let limited = dir.path().join("limited");
    let original = dir.path().join("original");
    let list = format!("[ $3 = daemon ] && for fd in /proc/$$/fd/*; do readlink \"$fd\"; done >{}", original.display());
    write_script(&limited, &format!("#!/bin/sh\n{list}\nulimit -Sn 3000\nexec {} \"$@\"\n", rig::binary().display()));
    let wrapper = Wrapper::new();
    let setup = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).reloader(&limited);
    let setup = setup.environment("KEPT", "yes");
    let setup = ["WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", "LISTEN_PIDFDID", "FDSTORE"]
        .iter()
        .fold(setup, |setup, name| setup.environment(name, "0"));
    let rig = setup.start();
    rig.reload().expect_status(0);

    let (soft, descriptors) = wrapper.inherited();
    assert_eq!(soft, "3000");
    let original = fs::read_to_string(original).unwrap();
    let stderr = rig.path("run/generation-2.log");
    let is_of_the_wrapper = |target: &str| Path::new(target).starts_with(wrapper.path().parent().unwrap());
    let is_known = |target: &&String| {
        original.contains(target.as_str())
            || Path::new(target) == stderr
            || is_of_the_wrapper(target)
            || *target == "/dev/null"
    };
    assert_eq!(descriptors.iter().find(|target| !is_known(target)), None, "the daemon was started with:\n{original}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", rig.daemon_process().pid)).unwrap();
    assert!(!limits.contains("Max open files            3000"), "the daemon raises its own limit: {limits}");
    let environment = fs::read(format!("/proc/{}/environ", rig.serving_pid())).unwrap();
    let names: Vec<String> = String::from_utf8_lossy(&environment).split('\0').map(str::to_owned).collect();
    let forbidden =
        |name: &&String| ["NOTIFY_", "LISTEN_", "WATCHDOG_", "FDSTORE="].iter().any(|start| name.starts_with(start));
    assert_eq!(names.iter().find(forbidden), None);
    assert!(names.contains(&"KEPT=yes".to_owned()));
}
