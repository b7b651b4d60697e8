//! Adopts a HAProxy that serves already and that reloader has not started.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::haproxy::{Haproxy, HaproxyBinary, info};
use reloader_tests::idle::IdleConnections;
use reloader_tests::load::Load;
use reloader_tests::poll::{satisfied_within, until};
use reloader_tests::process::Process;
use reloader_tests::receipt::{listener, traffic};
use reloader_tests::rig::{Answer, Rig};
use reloader_tests::servers::{Reaction, Server};
use reloader_tests::sockets::listening;
use reloader_tests::{isolation, netns, versions};

const WEB: &str = "127.0.0.1:8080";
const PROXY: &str = "127.0.0.1:8081";

struct Scene {
    rig: Rig,
    _server: Server,
    _stats: tempfile::TempDir,
    foreign: Haproxy,
}

impl Scene {
    fn begin(binary: &HaproxyBinary, args: &[&str], exposes: bool) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("stats.sock");
        let server = Server::start("127.0.0.1:0", Reaction::Reply);
        let config =
            if exposes { Config::new().exposing_stats_socket(&socket) } else { Config::new().stats_socket(&socket) };
        let config = config.frontend("web", &[WEB]).tcp_proxy("idle", &[PROXY], &server.address.to_string());
        let rig = Rig::with(&config).haproxy(binary).prepare();
        let foreign = binary.daemonize(&rig.haproxy_cfg(), args).unwrap();
        until(Duration::from_secs(5), "the foreign HAProxy to answer", || info(&socket, "Pid").is_ok());
        Scene { rig, _server: server, _stats: dir, foreign }
    }
}

#[track_caller]
fn assert_both_passed(receipt: &Answer, kind: &str) {
    assert_eq!((receipt.at("/kind"), receipt.at("/result")), (&kind.into(), &"proven".into()), "{}", receipt.stdout);
    let traffic = traffic(receipt);
    assert_eq!(traffic.len(), 2, "{}", receipt.stdout);
    for listener in traffic {
        assert_eq!((&listener["rung"], &listener["inode-before"]), (&"passed".into(), &listener["inode-after"]));
    }
}

fn assert_adopted_without_loss(binary: &HaproxyBinary, args: &[&str], exposes: bool) {
    netns::enter();
    println!("{binary} {args:?}, {} expose-fd", if exposes { "with" } else { "without" });
    let mut scene = Scene::begin(binary, args, exposes);
    let mut idle = IdleConnections::open(PROXY, 50);
    let load = Load::to([WEB]).rate(1500).start();
    load.until_started(200);
    scene.rig.start_daemon();
    let (rig, foreign) = (&scene.rig, &scene.foreign);

    let status = rig.status();
    assert_eq!(status.at("/serving/pid"), foreign.process.pid, "the root process serves");
    assert_eq!(status.at("/custody").as_array().map(Vec::len), Some(3), "{}", status.stdout);
    let adopted = Answer { json: status.at("/last-reload").clone(), ..status };
    assert_both_passed(&adopted, "adopt");
    let workers = foreign.process.children();

    let receipt = rig.reload().expect_status(0);
    assert_both_passed(&receipt, "reload");
    assert_eq!(receipt.at("/old/pid"), foreign.process.pid);
    for address in [WEB, PROXY] {
        assert_eq!(listener(&receipt, address)["inode-after"], listener(&adopted, address)["inode-before"]);
    }
    load.until_further(500);
    assert!(foreign.process.is_alive(), "its open connections keep it draining");
    assert_eq!(idle.alive(), 50, "{:?}", idle.deaths());
    assert_eq!(idle.count_answered(), 50, "{:?}", idle.deaths());
    load.stop().assert_lossless();
    foreign.process.until_gone(Duration::from_secs(10));
    workers.iter().for_each(|worker| worker.until_gone(Duration::from_secs(10)));
    assert_both_passed(&rig.reload().expect_status(0), "reload");

    let (serving, inodes) = (rig.serving().unwrap(), listening(8080));
    serving.end();
    rig.until_replaced(serving);
    assert_eq!(listening(8080), inodes);
}

#[test]
fn plain_haproxy_is_adopted_without_loss() {
    assert_adopted_without_loss(&HaproxyBinary::installed(), &[], true);
    assert_adopted_without_loss(&HaproxyBinary::installed(), &[], false);
}

#[test]
fn master_worker_haproxy_is_adopted_without_loss() {
    assert_adopted_without_loss(&HaproxyBinary::installed(), &["-W"], true);
    assert_adopted_without_loss(&HaproxyBinary::installed(), &["-W"], false);
}

#[test]
fn every_version_is_adopted_without_loss() {
    for binary in versions::all() {
        assert_adopted_without_loss(&binary, &[], false);
        assert_adopted_without_loss(&binary, &["-W"], false);
    }
}

/// It dies before its first reload: custody keeps its sockets, and the daemon starts its own generation with them.
#[test]
fn adopted_haproxy_that_is_killed_is_restarted_on_the_same_sockets() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let mut rig = Rig::with(&Config::web(WEB).stats_socket(&dir.path().join("stats.sock"))).prepare();
    let adopted = HaproxyBinary::installed().daemonize(&rig.haproxy_cfg(), &[]).unwrap();
    let inodes = listening(8080);
    rig.start_daemon();
    let load = Load::to([WEB]).start();
    load.until_started(100);
    adopted.process.end();
    rig.until_replaced(adopted.process);
    load.until_further(200);
    let lost = load.stop().summary();
    assert_eq!((lost.refused, lost.timeout, listening(8080)), (0, 0, inodes));
}

/// A control group that is removed when the test ends. The process in it is moved away first.
struct ControlGroup(PathBuf);

impl ControlGroup {
    /// Creates it below the test's own group, in the first of these hierarchies that exists. A systemd machine has one
    /// of them.
    fn create(unit: &str) -> ControlGroup {
        let own = isolation::own_control_groups();
        let wanted = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup"];
        let parent = wanted.iter().find_map(|hierarchy| own.iter().find(|group| group.starts_with(hierarchy)));
        let group = ControlGroup(parent.expect("a control group hierarchy").join(unit));
        fs::create_dir(&group.0).unwrap();
        group
    }

    fn add(&self, process: Process) {
        fs::write(self.0.join("cgroup.procs"), process.pid.to_string()).unwrap();
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let procs = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        let above = self.0.with_file_name("cgroup.procs");
        procs.lines().for_each(|pid| drop(fs::write(&above, pid)));
        // The kernel empties the group a little later.
        satisfied_within(Duration::from_secs(5), || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn haproxy_of_a_restarting_systemd_unit_is_refused_by_unit_name() {
    netns::enter();
    // The directory's name makes the unit's name unique. A pid would not: each test has its own process namespace.
    let scratch = tempfile::tempdir().unwrap();
    let unit = format!("haproxy-{}.service", scratch.path().file_name().unwrap().display());
    let scene = Scene::begin(&HaproxyBinary::installed(), &[], true);
    let group = ControlGroup::create(&unit);
    group.add(scene.foreign.process);
    let mut idle = IdleConnections::open(PROXY, 20);
    let load = Load::to([WEB]).start();
    load.until_started(100);
    let refused = scene.rig.run(&["daemon"]).expect_status(1);
    assert!(refused.stderr.contains(&unit) && refused.stderr.contains("Restart=no"), "{}", refused.stderr);
    load.until_further(100);
    load.stop().assert_lossless();
    assert!(scene.foreign.process.is_alive());
    assert_eq!(idle.count_answered(), 20, "{:?}", idle.deaths());
    let in_group = fs::read_to_string(group.0.join("cgroup.procs")).unwrap();
    assert_eq!(
        in_group.trim(),
        scene.foreign.process.pid.to_string(),
        "the group has its one process, and no process of reloader"
    );
}
