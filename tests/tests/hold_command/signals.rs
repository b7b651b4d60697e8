//! Sends signals to the process that holds.

use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::Process;
use reloader_tests::service::{Kind, Service};
use reloader_tests::sockets::listening;

use reloader_tests::hold_rig::{HoldRig, WEB};

/// The command gets the signal too, and decides itself what to do.
#[test]
fn signal_releases_the_hold_and_reaches_the_command() {
    netns::enter();
    for (signal, number) in [(Signal::SIGINT, 2), (Signal::SIGTERM, 15)] {
        let hold_rig = HoldRig::new();
        let service = Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]);
        let ready = hold_rig.rig.path("ready");
        let script = format!(
            "trap 'echo {number} >>{dir}/heard; exit 9' {number}; {stop}; echo >{dir}/ready; while :; do sleep 0.01; done",
            dir = hold_rig.rig.dir().display(),
            stop = service.command("stop").join(" ")
        );
        let pending = hold_rig.spawn(&["--json", "--max", "1h", "--listen", WEB], ["sh", "-c", &script]);
        until(Duration::from_secs(20), "the command to run", || ready.exists());
        Process::with_pid(pending.pid() as i32).unwrap().signal(signal);
        let answer = pending.wait().expect_status(9);
        assert_eq!(answer.at("/result"), "failed");
        assert!(
            answer.at("/reason").as_str().unwrap().contains(&format!("SYNs to {WEB} are refused")),
            "{}",
            answer.stdout
        );
        assert!(answer.at("/reason").as_str().unwrap().contains(&format!("signal {number}")), "{}", answer.stdout);
        assert_eq!(std::fs::read_to_string(hold_rig.rig.path("heard")).unwrap(), format!("{number}\n"));
        drop(service);
        hold_rig.assert_gone();
    }
}

/// The command is not run if the hold was cancelled before it began: it would stop the old server.
#[test]
fn signal_before_the_command_runs_cancels_it() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let service = Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]);
    let before = listening(8080);
    // This connection is not accepted, so the drain lasts half a second. In that time the signal comes.
    service.process().stop();
    let slow = std::net::TcpStream::connect(WEB).unwrap();
    let pending = hold_rig.spawn(&["--listen", WEB], service.command("restart"));
    until(Duration::from_secs(20), "the hold", || hold_rig.records().iter().any(|record| record["guard"].is_object()));
    let holder = Process::with_pid(pending.pid() as i32).unwrap();
    until(Duration::from_secs(20), "signals to be caught", || holder.catches(Signal::SIGINT));
    holder.signal(Signal::SIGINT);
    let answer = pending.wait().expect_status(130);
    assert!(answer.stderr.contains("not run"), "{}", answer.stderr);
    service.process().signal(Signal::SIGCONT);
    assert_eq!(listening(8080), before);
    drop((slow, service));
    hold_rig.assert_gone();
}

/// The command still runs when the hold has ended. The hold waits for its result, and passes its status on.
#[test]
fn command_that_outlives_its_hold_is_waited_for() {
    netns::enter();
    for by_signal in [true, false] {
        let hold_rig = HoldRig::new();
        let service = Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]);
        let (stopped, go_on) = (hold_rig.rig.path("stopped"), hold_rig.rig.path("go-on"));
        let script = format!(
            "trap '' 1; {stop}; echo >{stopped}; until [ -e {go_on} ]; do sleep 0.01; done; {start}",
            stop = service.command("stop").join(" "),
            stopped = stopped.display(),
            go_on = go_on.display(),
            start = service.command("start").join(" "),
        );
        let pending = hold_rig.spawn(&["--json", "--max", "1h", "--listen", WEB], ["sh", "-c", &script]);
        until(Duration::from_secs(20), "the server to stop", || stopped.exists());
        if by_signal {
            Process::with_pid(pending.pid() as i32).unwrap().signal(Signal::SIGHUP);
        } else {
            hold_rig.rig.run(&["release"]).expect_status(0);
        }
        until(Duration::from_secs(20), "the hold to end", || hold_rig.records().is_empty());
        std::fs::write(&go_on, "").unwrap();
        let answer = pending.wait().expect_status(0);
        assert_eq!(answer.at("/result"), "unproven", "{}", answer.stdout);
        let why = if by_signal { "signal 1" } else { "reloader release" };
        assert!(answer.at("/listeners/0/why").as_str().unwrap().contains(why), "{}", answer.stdout);
        drop(service);
        hold_rig.assert_gone();
    }
}
