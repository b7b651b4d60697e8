//! Tests what hooks do to a service: log rotation.

use std::fs;
use std::time::Duration;

use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;

use super::scene::{NGINX, WEB, service_table, setup};

const LIMIT: Duration = Duration::from_secs(20);

/// logrotate renames the file, and tells all processes that write to it to open it again.
#[test]
fn nginx_reopens_its_log_when_a_hook_sends_the_signal() {
    netns::enter();
    let lines = "stop = \"SIGQUIT\"\nenvironment = { NGINX = \"3;\" }";
    let mut rig = setup(&service_table("nginx", NGINX, "listen-fds", WEB, lines)).prepare();
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
