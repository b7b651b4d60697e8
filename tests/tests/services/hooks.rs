//! Tests what hooks do to a service: log rotation.

use std::fs;
use std::time::Duration;

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;

use super::scene::{WEB, passed_nginx, setup};

const LIMIT: Duration = Duration::from_secs(20);

/// logrotate renames the file, and tells all processes that write to it to open it again.
#[test]
fn nginx_reopens_its_log_when_a_hook_sends_the_signal() {
    netns::enter();
    let mut rig = setup(&passed_nginx(WEB)).prepare();
    let dir = rig.dir().display();
    let conf = format!(
        "daemon off; user root; worker_processes 1; pid {dir}/nginx.pid; events {{ worker_connections 1000; }}\n\
         http {{ access_log {dir}/access.log; server {{ listen {WEB}; location / {{ return 200 ok; }} }} }}\n"
    );
    fs::write(rig.path("nginx.conf"), conf).unwrap();
    rig.start_daemon();
    let serving = rig.serving_pid();
    fs::rename(rig.path("access.log"), rig.path("access.log.1")).unwrap();
    let sent = rig.run(&["signal", "nginx", "USR1", "--json"]).expect_status(0);
    assert_eq!((sent.at("/signal"), sent.at("/sent/0/pid")), (&"SIGUSR1".into(), &serving.into()));
    until(LIMIT, "the log to be opened again", || rig.path("access.log").exists());
    Load::to([WEB]).connections(3).run().assert_lossless();
    until(LIMIT, "lines in the new log", || !fs::read_to_string(rig.path("access.log")).unwrap().is_empty());

    for (signal, words) in [("TERM", "ends the server"), ("QUIT", "asked to end")] {
        let refused = rig.run(&["signal", "nginx", signal]).expect_status(1);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    rig.run(&["signal", "nginx", "NOTHING"]).expect_status(2);
    assert!(rig.run(&["signal", "web", "HUP"]).expect_status(2).stderr.contains("there is no service `web`"));
    assert_eq!(rig.serving_pid(), serving);
}

/// A signal without a handler would end the process.
#[test]
fn signal_that_the_server_does_not_handle_is_refused() {
    netns::enter();
    let rig = super::scene::start(&super::scene::given_table(""));
    let serving = rig.serving_pid();
    let refused = rig.run(&["signal", "given", "USR1"]).expect_status(1);
    assert!(refused.stderr.contains("does not handle it"), "{}", refused.stderr);
    assert_eq!(rig.serving_pid(), serving);
}

/// Old hooks read the file, and signal the process in it: it names a living process of the service at every moment, or is absent.
#[test]
fn pid_file_of_a_service_names_the_process_that_serves() {
    netns::enter();
    let mut rig = super::scene::start(&super::scene::given_table("pid-file = \"DIR/given.pid\""));
    let file = rig.path("given.pid");
    let named = || fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<i32>().ok());
    assert_eq!(named(), Some(rig.serving_pid()));
    rig.reload().expect_status(0);
    assert_eq!(named(), Some(rig.serving_pid()));
    // nginx removes the file of its successor.
    fs::remove_file(&file).unwrap();
    until(LIMIT, "the file to be written again", || named() == Some(rig.serving_pid()));
    let old = rig.serving().unwrap();
    old.end();
    rig.until_replaced(old);
    assert_eq!(named(), Some(rig.serving_pid()));
    // The service outlives the daemon.
    rig.terminate_daemon();
    let left = named().unwrap();
    assert!(reloader_tests::process::Process::with_pid(left).is_some());
    rig.start_daemon();
    rig.run(&["stop"]).expect_status(0);
    rig.until_daemon_ends();
    assert_eq!(named(), None);
}

/// The daemon answers the signals of a master: a hook that signals the process in the file reloads HAProxy.
#[test]
fn pid_file_of_haproxy_names_the_daemon() {
    netns::enter();
    let mut rig = Rig::with(&Config::web(WEB)).haproxy_line("pid-file = \"/tmp/PID\"").prepare();
    let file = rig.path("haproxy.pid");
    let toml = fs::read_to_string(rig.path("reloader.toml")).unwrap();
    fs::write(rig.path("reloader.toml"), toml.replace("/tmp/PID", &file.display().to_string())).unwrap();
    rig.start_daemon();
    let named = || fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let daemon = rig.daemon_process();
    assert_eq!(named(), Some(daemon.pid));
    let serving = rig.serving().unwrap();
    daemon.signal(nix::sys::signal::Signal::SIGUSR2);
    rig.until_replaced(serving);
    assert_eq!((named(), rig.daemon_process()), (Some(daemon.pid), daemon));
    rig.terminate_daemon();
    assert_eq!(named(), None, "no signal goes to a process that has nothing to do with HAProxy");
}
