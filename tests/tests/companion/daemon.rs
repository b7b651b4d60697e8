//! Tests that HAProxy is not affected when the daemon beside it starts and ends.

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::haproxy::{HaproxyBinary, info};
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::{satisfied_within, until};
use reloader_tests::process::Process;
use reloader_tests::receipt::assert_passed;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::listening;

use super::{LIMIT, Scene, WEB, Way};

#[test]
fn daemon_that_starts_first_warns_and_waits_for_haproxy() {
    netns::enter();
    let mut scene = Scene::prepare(&HaproxyBinary::installed(), Way::Cli, Config::web(WEB), "");
    scene.rig.start_daemon();
    let status = scene.rig.status();
    assert!(status.at("/serving").is_null());
    let warnings = status.at("/warnings").to_string();
    assert!(warnings.contains("no HAProxy answers on") && warnings.contains("start its unit"), "{warnings}");
    scene.rig.reload().expect_status(4);
    scene.start_haproxy();
    let worker = scene.master().worker();
    until(LIMIT, "the daemon to find HAProxy", || scene.rig.serving() == worker);
    assert_passed(&scene.rig.reload(), 1);
}

/// HAProxy binds its sockets itself. A socket that only systemd keeps while no daemon runs would take its connections.
#[test]
fn companion_stores_no_descriptor() {
    netns::enter();
    let scene = Scene::begin(&HaproxyBinary::installed(), Way::Cli, Config::web(WEB), "");
    assert_passed(&scene.rig.reload(), 1);
    assert_ne!(scene.rig.status().at("/custody"), &serde_json::json!([]));
    let notified = scene.rig.notified();
    assert!(!notified.contains(&"FDSTORE=1".to_owned()), "{notified:?}");
}

#[test]
fn stop_and_restart_of_the_daemon_leave_haproxy_serving() {
    netns::enter();
    let mut scene = Scene::begin(&HaproxyBinary::installed(), Way::Cli, Config::web(WEB), "");
    let load = Load::to([WEB]).start();
    load.until_started(100);
    scene.rig.reload().expect_status(0);
    let (worker, sockets) = (scene.master().worker().unwrap(), listening(8000));
    scene.rig.terminate_daemon();
    scene.rig.start_daemon();
    let status = scene.rig.status();
    assert_eq!((status.at("/serving/pid"), status.at("/serving/generation")), (&worker.pid.into(), &2.into()));
    scene.rig.kill9_daemon();
    scene.rig.start_daemon();
    assert_eq!(scene.rig.status().at("/serving/generation"), 2);
    load.until_further(100);
    let stopped = scene.rig.run(&["stop"]).expect_status(0);
    assert!(stopped.stderr.contains("serves on"), "{}", stopped.stderr);
    scene.rig.until_daemon_ends();
    load.until_further(100);
    assert_eq!((scene.master().worker(), listening(8000)), (Some(worker), sockets));
    load.stop().assert_lossless();
    let next = scene.master().reload();
    scene.rig.start_daemon();
    let status = scene.rig.status();
    assert_eq!((status.at("/serving/pid"), status.at("/serving/generation")), (&next.pid.into(), &3.into()));
}

#[test]
fn every_command_names_the_mode() {
    netns::enter();
    let scene = Scene::begin(&HaproxyBinary::installed(), Way::Signal, Config::web(WEB), "");
    let master = format!("its master (process {}) is told to reload by SIGUSR2", scene.master().process.pid);
    let status = scene.rig.run(&["status"]).expect_status(0);
    let probe = scene.rig.run(&["probe"]).expect_status(0);
    let plan = scene.rig.run(&["reload", "--dry-run"]).expect_status(0);
    for text in [&status.stdout, &probe.stdout, &plan.stderr] {
        assert!(text.contains("companion mode") && text.contains(&master), "{text}");
    }
    assert!(plan.stdout.contains("passed") && plan.stdout.contains("by HAProxy itself"), "{}", plan.stdout);
    assert!(scene.rig.run(&["check"]).expect_status(0).stderr.contains("configuration is valid"));
}

#[test]
fn haproxy_without_a_master_is_not_adopted_and_a_warning_says_so() {
    netns::enter();
    let scene = Scene::prepare(&HaproxyBinary::installed(), Way::Signal, Config::web(WEB), "");
    let alone = HaproxyBinary::installed().daemonize(&scene.rig.haproxy_cfg(), &[]).unwrap();
    let mut scene = scene;
    scene.rig.start_daemon();
    let warnings = scene.rig.warnings();
    let expected = format!("(process {}) has no master", alone.process.pid);
    assert!(warnings.contains(&expected) && warnings.contains("-Ws"), "{warnings}");
}

/// A program that answers like HAProxy, and whose parent runs the same program. SIGUSR2 would end both processes.
const IMPOSTOR: &str = r#"
import os, socket, sys
if os.fork():
    os.wait()
    sys.exit()
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
while True:
    client = s.accept()[0]
    client.recv(1000)
    client.sendall(f"Name: HAProxy\nVersion: {sys.argv[2]}\nPid: {os.getpid()}\n\n".encode())
    client.close()
"#;

/// The running impostor. On drop, the parent process and its child are ended.
struct Impostor {
    parent: Child,
    process: Process,
}

impl Impostor {
    fn start(stats: &Path, version: &str) -> Impostor {
        let mut command = Command::new("/usr/bin/python3");
        let parent = command.args(["-c", IMPOSTOR]).arg(stats).arg(version).spawn().unwrap();
        let process = Process::with_pid(parent.id() as i32).unwrap();
        until(LIMIT, "the impostor to answer", || info(stats, "Pid").is_ok());
        Impostor { parent, process }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.process.children().iter().for_each(Process::end);
        self.process.end();
        let _ = self.parent.wait();
    }
}

/// Before 1.8 a waiting parent, such as that of `-Ds`, would end by SIGUSR2 and take the unit with it. No such HAProxy
/// is available for tests.
#[test]
fn process_that_is_not_a_master_worker_haproxy_gets_no_signal() {
    netns::enter();
    for (version, expected) in [("1.7.5", "master-worker mode came with 1.8"), ("2.8.1", "and haproxy.binary is")] {
        let mut scene = Scene::prepare(&HaproxyBinary::installed(), Way::Signal, Config::web(WEB), "");
        let impostor = Impostor::start(&scene.stats(), version);
        scene.rig.start_daemon();
        let warnings = scene.rig.warnings();
        assert!(warnings.contains(expected), "{warnings}");
        scene.rig.reload().expect_status(4);
        assert!(impostor.process.is_alive() && impostor.process.children().len() == 1);
    }
}

/// The daemon could not find the worker of such a configuration, and would take the old worker for the serving one.
#[test]
fn configuration_without_a_stats_socket_is_refused_before_the_master_is_asked() {
    netns::enter();
    let scene = Scene::begin(&HaproxyBinary::installed(), Way::Signal, Config::web(WEB), "");
    let worker = scene.master().worker();
    scene.rig.configure(&Config::web(WEB));
    let refused = scene.rig.reload().expect_status(1);
    assert!(refused.at("/reason").to_string().contains("has no `stats socket`"), "{}", refused.stdout);
    assert!(
        !satisfied_within(Duration::from_millis(300), || scene.master().worker() != worker),
        "the master was asked"
    );
}

/// A daemon in companion mode ends no worker, whatever mode the changed file names.
#[test]
fn configuration_that_would_end_workers_is_not_applied() {
    netns::enter();
    let scene = Scene::begin(&HaproxyBinary::installed(), Way::Signal, Config::web(WEB), "");
    let path = scene.rig.path("reloader.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("mode = \"companion\"", "mode = \"supervised\"");
    std::fs::write(&path, format!("{text}\n[reload]\nhard-stop-after = \"1s\"\n")).unwrap();
    scene.rig.signal_daemon(Signal::SIGHUP);
    until(LIMIT, "the daemon to receive SIGHUP", || scene.rig.log().contains("stays in force"));
    let warnings = scene.rig.warnings();
    assert!(warnings.contains("hard-stop-after") && warnings.contains("was not read"), "{warnings}");
    assert_passed(&scene.rig.reload(), 1);
}

/// With `require = "proven"` such a reload is refused before the master is asked.
#[test]
fn unprovable_reload_is_refused_before_the_master_is_asked() {
    netns::enter();
    let binary = reloader_tests::versions::all().into_iter().min_by_key(|binary| binary.version).unwrap();
    let tables = "[reload]\nrequire = \"proven\"\nstrategy = \"fd-pass\"\n";
    let scene = Scene::begin(&binary, Way::Cli, Config::web(WEB), tables);
    let worker = scene.master().worker();
    let refused = scene.rig.reload().expect_status(1);
    assert!(refused.at("/reason").to_string().contains("expose-fd listeners"), "{}", refused.stdout);
    assert!(
        !satisfied_within(Duration::from_millis(300), || scene.master().worker() != worker),
        "the master was asked"
    );
}

#[test]
fn conflicting_keys_are_refused_with_a_remedy() {
    netns::enter();
    let refused = |lines: &str, tables: &str| {
        let rig = Rig::with(&Config::web(WEB)).haproxy_line(lines).tables(tables).prepare();
        rig.run(&["daemon"]).expect_status(78).stderr
    };
    assert!(refused("master-cli = \"/run/m.sock\"", "").contains("set mode = \"companion\" as well"));
    let cut = refused("mode = \"companion\"", "[reload]\nhard-stop-after = \"1h\"");
    assert!(cut.contains("hard-stop-after") && cut.contains("global section"), "{cut}");
}

/// The master CLI is missing: nothing has happened, and the message names the path.
#[test]
fn missing_master_cli_fails_the_reload_and_is_named() {
    netns::enter();
    let mut scene = Scene::prepare(&HaproxyBinary::installed(), Way::Cli, Config::web(WEB), "");
    scene.start_haproxy();
    let cli = scene.dir.path().join("master.sock");
    scene.rig.start_daemon();
    std::fs::remove_file(&cli).unwrap();
    let worker = scene.master().worker();
    let refused = scene.rig.reload().expect_status(1);
    let reason = refused.at("/reason").to_string();
    assert!(reason.contains("master-cli") && reason.contains("master.sock") && reason.contains("-S"), "{reason}");
    assert_eq!(scene.master().worker(), worker);
}
