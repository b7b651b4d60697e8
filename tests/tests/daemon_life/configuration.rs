//! Reads the configuration again on SIGHUP.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use reloader_tests::sockets::refuses;

use super::WEB;

#[test]
fn sighup_reads_the_configuration_and_keeps_the_old_one_if_it_is_broken() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let file = rig.path("reloader.toml");
    let text = fs::read_to_string(&file).unwrap();
    Config::new().frontend("web", &[WEB, "127.0.0.1:8082"]).write(&rig.path("other.cfg"));

    fs::write(&file, text.replace("haproxy.cfg", "other.cfg")).unwrap();
    hang_up(&rig);
    rig.reload().expect_status(0);
    assert!(!refuses("127.0.0.1:8082"));

    fs::write(&file, text + "\nnonsense = 1\n").unwrap();
    hang_up(&rig);
    // The commands read the file too. With --socket they need nothing from it.
    let socket = rig.path("run/control.sock");
    let ask = |command| rig.run(&["--socket", socket.to_str().unwrap(), command, "--json"]).expect_status(0);
    let warnings = ask("status").at("/warnings").to_string();
    assert!(warnings.contains("nonsense"), "{warnings}");
    ask("reload");
    assert!(!refuses("127.0.0.1:8082"));
}

/// A good reload does not clear this warning, because it says nothing about a file that was not read.
#[test]
fn broken_configuration_stays_reported_through_good_reloads_until_it_is_mended() {
    netns::enter();
    let rig = Rig::with(&Config::web(WEB)).start();
    let file = rig.path("reloader.toml");
    let text = fs::read_to_string(&file).unwrap();
    let socket = rig.path("run/control.sock");
    let ask = |command| rig.run(&["--socket", socket.to_str().unwrap(), command, "--json"]).expect_status(0);
    let is_reported = || ask("status").at("/warnings").to_string().contains("nonsense");

    fs::write(&file, text.clone() + "\nnonsense = 1\n").unwrap();
    hang_up(&rig);
    assert!(is_reported());
    for _ in 0..2 {
        assert_eq!(ask("reload").at("/result"), "proven");
        assert!(is_reported(), "after a good reload");
    }
    fs::write(&file, text).unwrap();
    hang_up(&rig);
    assert!(!is_reported());
}

fn hang_up(rig: &Rig) {
    let ready = || rig.notified().iter().filter(|line| *line == "READY=1").count();
    let before = ready();
    rig.signal_daemon(Signal::SIGHUP);
    until(Duration::from_secs(20), "READY=1 again", || ready() > before);
}
