//! Tests what may happen to the control group in which a generation starts, and which HAProxy starts have one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reloader_tests::blocked_call::BlockedCall;
use reloader_tests::config::Config;
use reloader_tests::isolation::own_unified_group;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::receipt::listener;
use reloader_tests::rig::{Rig, binary};
use reloader_tests::script::script_in;
use reloader_tests::sockets::duplicate_of_listener;
use socket2::SockRef;

use super::scene::WEB;
use super::wayward::{set_manner, wayward_processes, wayward_rig};

const LIMIT: Duration = Duration::from_secs(30);

/// The groups for starts below a group.
fn start_groups(home: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(home).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("reloader-start-")).collect()
}

fn processes_in(group: &Path) -> Vec<String> {
    fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The group of the start that is under way, with the server in it.
fn group_with_the_server(rig: &Rig, home: &Path) -> PathBuf {
    until(LIMIT, "a process of the server", || !wayward_processes(rig).is_empty());
    start_groups(home).pop().expect("a group")
}

/// Makes every group below this one unusable: the kernel lets no process enter it.
fn make_threaded(home: &Path) {
    let threaded = home.join("threaded");
    fs::create_dir_all(&threaded).unwrap();
    fs::write(threaded.join("cgroup.type"), "threaded").unwrap();
}

#[test]
fn server_starts_where_no_process_can_enter_a_control_group() {
    netns::enter();
    let home = own_unified_group();
    make_threaded(&home);
    let mut rig = wayward_rig(|setup| setup, "");
    rig.start_daemon();
    let serving = rig.serving();
    let plan = rig.status().at("/plan/0").clone();
    assert!(plan["why"].as_str().unwrap().contains("threaded"), "{plan}");
    let receipt = rig.reload().expect_status(1);
    assert_eq!(receipt.at("/reason-code"), "overlap-impossible", "{}", receipt.stdout);
    assert_eq!(rig.serving(), serving);
    fs::remove_dir(home.join("threaded")).unwrap();
}

/// Does something to each group as soon as it is made, while the test goes on.
fn meddling<T>(home: &Path, meddle: impl Fn(&Path) + Sync, test: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                start_groups(home).iter().for_each(|group| meddle(group));
            }
        });
        let result = test();
        over.store(true, Ordering::Relaxed);
        result
    })
}

/// Whether the process has entered it before decides what can be shared, not whether it serves.
#[test]
fn server_starts_whatever_happens_to_its_control_group() {
    netns::enter();
    let home = own_unified_group();
    let unusable = |_: &Path| make_threaded(&home);
    let removed = |group: &Path| drop(fs::remove_dir(group));
    for meddle in [&unusable as &(dyn Fn(&Path) + Sync), &removed] {
        let mut rig = wayward_rig(|setup| setup, "");
        meddling(&home, meddle, || rig.start_daemon());
        fs::remove_dir(home.join("threaded")).ok();
        assert_eq!(listener(&rig.reload().expect_status(0), WEB)["rung"], "steered");
        rig.run(&["stop"]).expect_status(0);
        rig.until_daemon_ends();
    }
}

#[test]
#[ignore = "alone: loads"]
fn reload_fails_without_a_trace_where_its_control_group_is_removed() {
    netns::enter();
    let home = own_unified_group();
    let mut rig = wayward_rig(|setup| setup, "");
    rig.start_daemon();
    let serving = rig.serving();
    let load = Load::to([WEB]).rate(200).start();
    load.until_started(50);
    let receipt = meddling(&home, |group| drop(fs::remove_dir(group)), || rig.reload()).expect_status(1);
    assert_eq!(receipt.at("/result"), "failed", "{}", receipt.stdout);
    assert!(receipt.at("/reason").as_str().unwrap().contains("control group"), "{}", receipt.stdout);
    assert_eq!(rig.serving(), serving);
    load.until_further(50);
    load.stop().assert_lossless();
    assert!(start_groups(&home).is_empty());
    assert_eq!(listener(&rig.reload().expect_status(0), WEB)["rung"], "steered");
}

/// Before its bind, the new generation cannot bind any more; afterwards nothing is lost by it.
#[test]
#[ignore = "alone: loads"]
fn moving_a_starting_server_out_of_its_control_group_costs_no_connection() {
    netns::enter();
    let home = own_unified_group();
    let mut rig = wayward_rig(|setup| setup, "");
    rig.start_daemon();
    let load = Load::to([WEB]).rate(200).start();
    load.until_started(50);
    for (manner, status) in [("waits-before-bind", 1), ("waits-after-bind", 0)] {
        let serving = rig.serving();
        set_manner(&rig, manner);
        let reload = rig.spawn(&["reload", "--json"]);
        let group = group_with_the_server(&rig, &home);
        if status == 0 {
            until(LIMIT, "two listeners", || reloader_tests::sockets::listening(8080).len() == 2);
        }
        for pid in processes_in(&group) {
            fs::write(home.join("cgroup.procs"), pid).unwrap();
        }
        fs::remove_dir(&group).unwrap();
        fs::write(rig.path("go"), "").unwrap();
        let receipt = reload.wait().expect_status(status);
        assert_eq!(rig.serving() == serving, status == 1, "{}", receipt.stdout);
        load.until_further(50);
    }
    load.stop().assert_lossless();
    assert!(start_groups(&home).is_empty());
}

/// The daemon tries again while it runs.
#[test]
fn control_group_that_cannot_be_removed_at_once_is_removed_later() {
    netns::enter();
    let home = own_unified_group();
    let mut rig = wayward_rig(|setup| setup, "");
    rig.start_daemon();
    set_manner(&rig, "waits-before-bind");
    let reload = rig.spawn(&["reload", "--json"]);
    let group = group_with_the_server(&rig, &home);
    let inner = group.join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(rig.path("go"), "").unwrap();
    reload.wait().expect_status(0);
    assert!(group.exists() && processes_in(&group).is_empty());
    fs::remove_dir(&inner).unwrap();
    until(LIMIT, "the group to be removed", || !group.exists());
}

#[test]
fn control_group_of_a_killed_daemon_is_removed_by_one_that_runs_elsewhere() {
    netns::enter();
    let home = own_unified_group();
    let scripts = tempfile::tempdir().unwrap();
    let text = format!(
        "#!/bin/sh\ncase \" $* \" in *\" daemon \"*) echo $$ >\"$(cat {}/group)/cgroup.procs\";; esac\nexec {} \"$@\"\n",
        scripts.path().display(),
        binary().display()
    );
    let script = script_in(scripts.path(), "reloader", &text);
    let mut rig = wayward_rig(|setup| setup.reloader(&script), "");
    let groups = ["one", "other"].map(|name| home.join(name));
    let use_group = |group: &Path| {
        fs::create_dir(group).unwrap();
        fs::write(scripts.path().join("group"), group.display().to_string()).unwrap();
    };
    use_group(&groups[0]);
    rig.start_daemon();
    assert!(processes_in(&groups[0]).contains(&rig.daemon_process().pid.to_string()));
    set_manner(&rig, "waits-before-bind");
    let reload = rig.spawn(&["reload", "--json"]);
    let group = group_with_the_server(&rig, &groups[0]);
    rig.kill9_daemon();
    drop(reload.wait());
    assert!(group.exists());
    fs::write(rig.path("go"), "").unwrap();
    use_group(&groups[1]);
    rig.start_daemon();
    assert!(!group.exists());
    set_manner(&rig, "");
    rig.reload().expect_status(0);
}

/// The kernel lets a process into a group when it likes. The daemon works meanwhile.
#[test]
fn process_that_enters_its_control_group_slowly_delays_its_own_start_only() {
    netns::enter();
    let mut rig = wayward_rig(|setup| setup.environment("WATCHDOG_USEC", "30000000"), "");
    rig.start_daemon();
    let messages = || rig.notified().iter().filter(|line| *line == "WATCHDOG=1").count();
    // The new process enters its group just before.
    let blocked = BlockedCall::in_all_threads(rig.daemon_process(), "execve");
    let mut reload = rig.spawn(&["reload", "--json"]);
    let home = own_unified_group();
    until(LIMIT, "the process to enter", || start_groups(&home).iter().any(|group| !processes_in(group).is_empty()));
    let before = messages();
    assert!(rig.status().at("/serving/pid").is_u64());
    until(LIMIT, "a message to the watchdog", || messages() > before);
    assert!(reload.is_running());
    drop(blocked);
    assert_eq!(listener(&reload.wait().expect_status(0), WEB)["rung"], "steered");
}

/// A HAProxy that binds alone can be steered and reserved from its first reload on.
#[test]
fn first_start_and_added_binds_of_haproxy_are_shared() {
    netns::enter();
    let shares = |process: Process, port| {
        let socket = duplicate_of_listener(process, port);
        SockRef::from(&socket).reuse_port().unwrap()
    };
    for (line, is_shared) in [("", true), ("overlap = \"off\"", false)] {
        let rig = Rig::with(&Config::web(WEB).global("noreuseport"))
            .haproxy_line(line)
            .tables("[reload]\nstrategy = \"steer\"")
            .start();
        assert_eq!(shares(rig.serving().unwrap(), 8080), is_shared);
        rig.configure(&Config::web(WEB).frontend("other", &["127.0.0.1:8081"]).global("noreuseport"));
        rig.reload().expect_status(0);
        assert_eq!([8080, 8081].map(|port| shares(rig.serving().unwrap(), port)), [is_shared; 2]);
    }
}
