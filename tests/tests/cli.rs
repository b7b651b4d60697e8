//! Checks the exit statuses of commands, and that their messages say what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::rig::{Rig, Setup};

/// The user and the group of this number exist on every machine, and own nothing.
const NOBODY: u32 = 65_534;
/// The group `daemon`.
const MEMBER: u32 = 1;

fn web() -> Setup {
    Rig::with(&Config::web("127.0.0.1:8080"))
}

#[test]
fn unknown_key_is_reported_with_its_line_and_the_right_key() {
    netns::enter();
    let rig = web().tables("[reload]\nstart-timout = \"5s\"").prepare();
    let toml = fs::read_to_string(rig.path("reloader.toml")).unwrap();
    let line = 1 + toml.lines().position(|line| line.contains("start-timout")).unwrap();
    for command in [&["daemon"][..], &["check"], &["reload"], &["status"], &["history"]] {
        let stderr = rig.run(command).expect_status(78).stderr;
        assert!(stderr.contains(&format!("line {line}")) && stderr.contains("`start-timout`"), "{command:?}: {stderr}");
        assert!(stderr.contains("`start-timeout`") && stderr.contains("reloader.toml"), "{command:?}: {stderr}");
    }
}

#[test]
fn haproxy_arguments_that_conflict_with_supervision_are_refused() {
    netns::enter();
    for arg in ["-D", "-W", "-Ws", "-c", "-db", "-x", "-sf", "-st", "-p"] {
        let rig = web().haproxy_line(&format!("args = [\"{arg}\"]")).prepare();
        for command in ["daemon", "check"] {
            let stderr = rig.run(&[command]).expect_status(78).stderr;
            assert!(stderr.contains(&format!("`{arg}`")) && stderr.contains("remove it"), "{stderr}");
        }
    }
    web().haproxy_line("args = [\"-L\", \"me\"]").start().reload().expect_status(0);
}

#[test]
fn each_command_names_the_missing_privilege() {
    netns::enter();
    let rig = web().start();
    let daemon = rig.run_as(NOBODY, &["daemon"]).expect_status(77).stderr;
    for capability in ["CAP_KILL", "CAP_NET_ADMIN", "CAP_SYS_PTRACE"] {
        assert!(daemon.contains(capability), "{daemon}");
    }
    for command in ["reload", "status", "stop", "history"] {
        let stderr = rig.run_as(NOBODY, &[command]).expect_status(77).stderr;
        assert!(stderr.contains("group `root`"), "{command}: {stderr}");
    }
    assert!(rig.serving().is_some());
}

#[test]
fn user_outside_the_control_group_is_refused_although_the_socket_is_writable() {
    netns::enter();
    let rig = web().start();
    let serving = rig.serving();
    fs::set_permissions(rig.path("run/control.sock"), fs::Permissions::from_mode(0o666)).unwrap();
    for command in ["reload", "status", "stop"] {
        let stderr = rig.run_as(NOBODY, &[command]).expect_status(77).stderr;
        assert!(stderr.contains("group `root`"), "{command}: {stderr}");
    }
    assert_eq!(rig.serving(), serving);
}

#[test]
fn member_of_the_control_group_may_reload_and_read() {
    netns::enter();
    let rig = web().top("control-group = \"daemon\"").start();
    let old = rig.serving();
    rig.run_as(MEMBER, &["reload"]).expect_status(0);
    assert_ne!(rig.serving(), old);
    rig.run_as(MEMBER, &["status", "--json"]).expect_status(0);
    assert_eq!(rig.run_as(MEMBER, &["history", "--json"]).expect_status(0).at("/0/kind"), "reload");
    let stderr = rig.run_as(NOBODY, &["reload"]).expect_status(77).stderr;
    assert!(stderr.contains("group `daemon`"), "{stderr}");
}

#[test]
fn commands_without_a_daemon_say_how_to_start_it() {
    netns::enter();
    let rig = web().prepare();
    for command in ["reload", "status", "stop"] {
        let stderr = rig.run(&[command]).expect_status(69).stderr;
        let config = rig.path("reloader.toml").display().to_string();
        let remedy = format!("start it with `reloader --config {config} daemon`");
        assert!(stderr.contains("control.sock") && stderr.contains(&remedy), "{command}: {stderr}");
    }
    assert_eq!(rig.run(&["history"]).expect_status(0).stdout, "");
    let elsewhere = rig.run(&["--socket", "/nowhere/control.sock", "status"]).expect_status(69).stderr;
    assert!(elsewhere.contains("/nowhere/control.sock"), "{elsewhere}");
}

#[test]
fn wrong_command_line_exits_with_2_and_help_with_0() {
    netns::enter();
    let rig = web().prepare();
    for wrong in [
        &["nonsense"][..],
        &["reload", "--nonsense"],
        &["reload", "--timeout", "soon"],
        &["history", "-n", "x"],
        &["history", "-n", "0"],
        &[],
    ] {
        let answer = rig.run(wrong).expect_status(2);
        assert!(
            answer.stdout.is_empty() && answer.stderr.contains("Usage") | answer.stderr.contains("--help"),
            "{wrong:?}"
        );
    }
    let help = rig.run(&["--help"]).expect_status(0);
    assert!(help.stdout.contains("Exit status") && help.stderr.is_empty(), "{}", help.stdout);
    rig.run(&["--version"]).expect_status(0);
}

#[test]
fn check_shows_the_lines_of_haproxy() {
    netns::enter();
    let rig = web().prepare();
    let good = rig.run(&["check"]).expect_status(0);
    assert!(good.stdout.is_empty() || good.stdout.contains("valid"), "{}", good.stdout);
    rig.configure(&Config::web("127.0.0.1:8080").section("frontend other\n    bnid 127.0.0.1:8081\n"));
    let answer = rig.run(&["check"]).expect_status(78);
    let all = answer.stdout + &answer.stderr;
    assert!(all.contains("'bnid'") && all.contains("haproxy.cfg:"), "{all}");
    assert!(all.contains("HAProxy refuses its configuration"), "{all}");
    fs::remove_file(rig.haproxy_cfg()).unwrap();
    let stderr = rig.run(&["check"]).expect_status(78).stderr;
    assert!(stderr.contains("haproxy.cfg") && stderr.contains("No such file"), "{stderr}");
}

#[test]
fn binary_that_is_not_haproxy_exits_with_78() {
    netns::enter();
    for (path, word) in [("/nowhere/haproxy", "No such file"), ("/bin/true", "does not name a HAProxy version")] {
        let rig = web().haproxy_at(path.as_ref()).prepare();
        let stderr = rig.run(&["daemon"]).expect_status(78).stderr;
        assert!(stderr.contains(word) && stderr.contains("`binary`"), "{stderr}");
    }
}

#[test]
fn stop_retires_haproxy_and_ends_the_daemon() {
    netns::enter();
    let mut rig = web().start();
    let serving = rig.serving().unwrap();
    rig.run(&["stop"]).expect_status(0);
    assert_eq!(rig.until_daemon_ends().status, 0);
    serving.until_gone(std::time::Duration::from_secs(5));
    rig.run(&["status"]).expect_status(69);
}
