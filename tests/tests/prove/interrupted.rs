//! Tests `prove` at signals and on a terminal.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::process::Process;

use super::scene::{Scene, WEB};

const SOON: Duration = Duration::from_secs(30);

#[test]
#[ignore = "alone: loads"]
fn first_signal_ends_prove_after_the_running_reload() {
    netns::enter();
    let scene = Scene::start(&Config::web(WEB));
    let [begun, go_on, done] = ["begun", "go-on", "done"].map(|name| scene.rig.path(name));
    nix::unistd::mkfifo(&go_on, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let command = format!("touch {}; read line < {}; touch {}", begun.display(), go_on.display(), done.display());
    let arguments =
        ["prove", "--target", WEB, "--http", "--rate", "20", "--reloads", "50", "--json", "--reload-command", &command];
    let mut proving = scene.rig.spawn(&arguments);
    until(SOON, "the first reload", || begun.exists());
    Process::with_pid(proving.pid() as i32).unwrap().signal(Signal::SIGINT);
    // The open waits for the command, which must still be running to read.
    fs::write(&go_on, "go on\n").unwrap();
    until(SOON, "the reload to be done", || done.exists());
    until(SOON, "prove to end", || !proving.is_running());
    let answer = proving.wait().expect_status(130);
    assert_eq!(answer.at("/cut-short"), true, "{}", answer.stdout);
}

#[test]
#[ignore = "alone: loads"]
fn second_signal_ends_prove_at_once() {
    netns::enter();
    let scene = Scene::start(&Config::web(WEB));
    let [begun, go_on] = ["begun", "go-on"].map(|name| scene.rig.path(name));
    nix::unistd::mkfifo(&go_on, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let command = format!("touch {}; read line < {}", begun.display(), go_on.display());
    let mut proving =
        scene.rig.spawn(&["prove", "--target", WEB, "--http", "--rate", "20", "--reload-command", &command]);
    until(SOON, "the first reload", || begun.exists());
    let process = Process::with_pid(proving.pid() as i32).unwrap();
    // Two signals in quick succession may be delivered as one.
    until(SOON, "prove to end", || {
        process.signal(Signal::SIGTERM);
        !proving.is_running()
    });
    let answer = proving.wait().expect_status(143);
    assert!(answer.stderr.contains("a second signal ends at once"), "{}", answer.stderr);
    assert!(answer.stderr.contains("signal 15") && answer.stderr.contains("may still run"), "{}", answer.stderr);
    fs::write(&go_on, "go on\n").unwrap();
}

/// The service hangs and its connections are undecided: the case in which a user presses Ctrl-C twice.
#[test]
#[ignore = "alone: loads"]
fn prove_ends_although_connections_hang() {
    netns::enter();
    let scene = Scene::start(&Config::web(WEB));
    let frozen = scene.rig.path("frozen");
    let command = format!("kill -STOP $(cat {}); touch {}", scene.rig.path("pid").display(), frozen.display());
    let for_an_hour = ["--timeout", "1h", "--reloads", "1", "--interval", "1h", "--reload-command", &command];
    let arguments = [&["prove", "--target", WEB, "--http", "--rate", "20"], &for_an_hour[..]].concat();
    let mut proving = scene.rig.spawn(&arguments);
    until(SOON, "the service to hang", || frozen.exists());
    until(SOON, "connections to hang", || established_to_web(proving.pid()) > 0);
    let process = Process::with_pid(proving.pid() as i32).unwrap();
    until(SOON, "prove to end", || {
        process.signal(Signal::SIGINT);
        !proving.is_running()
    });
    proving.wait().expect_status(130);
}

/// How many client connections to port 8080 are established (state 01) in the network namespace of this process (proc_pid_net(5)).
fn established_to_web(pid: u32) -> usize {
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let is_established = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 3 && fields[2].ends_with(":1F90") && fields[3] == "01"
    };
    table.lines().filter(is_established).count()
}

#[test]
fn progress_is_shown_on_a_terminal_only() {
    netns::enter();
    let scene = Scene::start(&Config::web(WEB));
    let arguments = ["prove", "--target", WEB, "--http", "--rate", "20", "--reloads", "2", "--reload-command", "true"];
    let on_terminal = scene.rig.run_on_terminal(&[("TERM", "xterm")], &arguments);
    assert!(on_terminal.stdout.contains("/2 reloads"), "{:?}", on_terminal.stdout);
    let in_pipe = scene.rig.run(&arguments);
    assert!(!in_pipe.stderr.contains("/2 reloads") && !in_pipe.stdout.contains('\x1b'), "{:?}", in_pipe.stderr);
}
