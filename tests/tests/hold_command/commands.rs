//! Checks what the command of a hold may do, and with which status the hold then ends.

use std::time::Duration;

use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::{Process, mentioning};
use reloader_tests::service::{Kind, Service};
use reloader_tests::sockets::{listening, refuses};

use reloader_tests::hold_rig::{HoldRig, WEB, assert_held};

/// This is so long that a test would fail if its hold lasted until then.
const FOREVER: &str = "1h";

fn sh(script: impl Into<String>) -> [String; 3] {
    ["sh".into(), "-c".into(), script.into()]
}

/// The shell line that runs the service's script.
fn line(service: &Service, verb: &str) -> String {
    service.command(verb).join(" ")
}

#[test]
#[ignore = "alone: loads"]
fn hold_goes_on_if_the_command_returns_before_the_old_server_closes() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let service = Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]);
    let old = service.process();
    let load = Load::to([WEB]).rate(200).start();
    load.until_started(50);
    let answer =
        hold_rig.run(&["--json", "--max", FOREVER, "--listen", WEB], service.command("later")).expect_status(0);
    assert_held(&answer);
    assert!(!old.is_alive());
    load.until_further(50);
    load.stop().assert_lossless();
    drop(service);
    hold_rig.assert_gone();
}

#[test]
#[ignore = "alone: loads"]
fn failed_command_ends_the_hold_with_its_status() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let _service = Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]);
    let before = listening(8080);
    let load = Load::to([WEB]).rate(200).start();
    load.until_started(50);
    let answer = hold_rig.run(&["--json", "--max", FOREVER, "--listen", WEB], sh("exit 7")).expect_status(7);
    assert_eq!(answer.at("/result"), "failed");
    assert!(answer.at("/reason").as_str().unwrap().contains("status 7"), "{}", answer.stdout);
    assert_eq!(listening(8080), before);
    load.until_further(50);
    load.stop().assert_lossless();
}

#[test]
fn missing_command_exits_with_127_or_126() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let missing = hold_rig.run(&["--json", "--listen", WEB], ["no-such-command"]).expect_status(127);
    assert!(missing.stdout.is_empty() && missing.stderr.contains("no-such-command"), "{}", missing.stderr);
    std::fs::write(hold_rig.rig.path("plain"), "no program").unwrap();
    let plain = hold_rig.rig.path("plain").display().to_string();
    let refused = hold_rig.run(&["--json", "--listen", WEB], [&plain]).expect_status(126);
    assert!(refused.stdout.is_empty() && refused.stderr.contains(&plain), "{}", refused.stderr);
    hold_rig.assert_gone();
}

#[test]
fn status_of_the_command_is_passed_on() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let service = Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]);
    for (end, status) in [("exit 7", 7), ("kill -9 $$", 137), ("kill $$", 143), ("exit 0", 0)] {
        let command = sh(format!("{}; {end}", line(&service, "restart")));
        let answer = hold_rig.run(&["--json", "--listen", WEB], command).expect_status(status);
        // Even if the command fails, the server that it has started is there.
        assert_held(&answer);
    }
    drop(service);
    hold_rig.assert_gone();
}

/// The hold does not end the processes that the command has started.
#[test]
fn hold_without_a_new_listener_exits_with_124() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let service = Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]);
    let dir = hold_rig.rig.dir().display();
    let command = sh(format!("{}; setsid sh -c 'sleep 1000' {dir}/started &", line(&service, "stop")));
    let answer = hold_rig.run(&["--json", "--max", "300ms", "--listen", WEB], command).expect_status(124);
    assert_eq!(answer.at("/result"), "failed");
    assert!(answer.at("/reason").as_str().unwrap().contains("listener"), "{}", answer.stdout);
    assert!(refuses(WEB), "the hold was released");
    let started = mentioning(&hold_rig.rig.path("started"));
    assert!(
        !started.is_empty() && started.iter().all(Process::is_alive),
        "the processes that the command has started live"
    );
    for process in started {
        process.children().iter().for_each(Process::end);
        process.end();
    }
    hold_rig.assert_gone();
}

/// `hold -- server` replaces `server`. It releases as soon as the server listens, and passes signals to it.
#[test]
#[ignore = "alone: loads"]
fn command_may_become_the_new_server() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let service = Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]);
    let before = listening(8080);
    let load = Load::to([WEB]).rate(200).start();
    load.until_started(50);
    let pending = hold_rig.spawn(&["--json", "--max", FOREVER, "--listen", WEB], service.command("become"));
    until(Duration::from_secs(20), "the new server", || {
        !listening(8080).is_empty() && listening(8080).is_disjoint(&before)
    });
    until(Duration::from_secs(20), "the release", || hold_rig.records().is_empty());
    load.until_further(50);
    load.stop().assert_lossless();
    Process::with_pid(pending.pid() as i32).unwrap().signal(nix::sys::signal::Signal::SIGTERM);
    let answer = pending.wait().expect_status(143);
    assert_held(&answer);
    assert!(listening(8080).is_empty(), "the signal was for the server");
    hold_rig.assert_gone();
}

/// A command that should run under a hold is not run without one.
#[test]
fn command_is_not_run_after_the_hold_has_ended() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let ran = hold_rig.rig.path("ran");
    let command = sh(format!("echo >{}", ran.display()));
    let late = hold_rig.run(&["--json", "--max", "1ms", "--listen", WEB], &command).expect_status(125);
    assert!(
        late.stderr.contains("the hold ended before the command could be run: its longest time"),
        "{}",
        late.stderr
    );
    assert!(late.stdout.is_empty() && !ran.exists(), "{}", late.stdout);

    let service = Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]);
    // This connection is not accepted, so the drain lasts half a second. In that time the hold is lifted.
    service.process().stop();
    let slow = std::net::TcpStream::connect(WEB).unwrap();
    let pending = hold_rig.spawn(&["--listen", WEB], &command);
    until(Duration::from_secs(20), "the hold", || hold_rig.records().iter().any(|record| record["guard"].is_object()));
    hold_rig.rig.run(&["release"]).expect_status(0);
    let lifted = pending.wait().expect_status(125);
    assert!(lifted.stderr.contains("reloader release") && !ran.exists(), "{}", lifted.stderr);
    drop((slow, service));
    hold_rig.assert_gone();
}

/// The hold raises limits for itself only, because a server derives its capacity from the limits that it gets.
#[test]
fn command_has_the_limits_that_hold_was_started_with() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let script = "ulimit -Sn; ulimit -Hn; ulimit -l; sed -n 's/^Max open files *//p' /proc/$PPID/limits";
    let answer = hold_rig.rig.run_under(
        &["prlimit", "--nofile=256:1024", "--memlock=65536:65536"],
        &["hold", "--max", "300ms", "--listen", WEB, "--", "sh", "-c", script],
    );
    let lines: Vec<Vec<&str>> = answer.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines, [&["256"][..], &["1024"], &["64"], &["1024", "1024", "files"]], "{}", answer.stderr);
    hold_rig.assert_gone();
}

/// Standard output has only the receipt. The output of the command goes to standard error.
#[test]
fn output_of_the_command_stays_apart_from_the_receipt() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let service = Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]);
    let command = || sh(format!("echo before; {}; echo after", line(&service, "restart")));
    let answer = hold_rig.run(&["--json", "--listen", WEB], command()).expect_status(0);
    assert_eq!(answer.stdout.lines().count(), 1, "{}", answer.stdout);
    assert_eq!(answer.at("/kind"), "hold");
    assert!(answer.stderr.contains("before\nafter"), "{}", answer.stderr);

    let plain = hold_rig.run(&["--listen", WEB], command()).expect_status(0);
    assert_eq!((plain.stdout.as_str(), plain.stderr.as_str()), ("before\nafter\n", ""));
}
