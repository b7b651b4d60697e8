//! Reloads by a signal from outside, as `docker kill -s HUP` sends it, and by the command in the container.

use nix::sys::signal::Signal;
use reloader_tests::container::Container;
use reloader_tests::poll::until;
use reloader_tests::sockets::refuses;
use reloader_tests::tier;
use reloader_tests::wrapper::{Behaviour, Wrapper};

use super::scene::{CONTAINED, LIMIT, Scene, WEB, assert_rung, config};

fn reloads() -> usize {
    tier::rounds(20)
}

#[test]
#[ignore = "alone: loads"]
fn signals_and_the_command_reload_without_loss() {
    let scene = Scene::start(Container::with(&config()).contained(CONTAINED, &[]));
    let load = scene.load();
    for number in 0..reloads() {
        let signal = [Signal::SIGHUP, Signal::SIGUSR2][number % 2];
        let receipt = scene.container.until_receipt(|| scene.container.kill(signal));
        assert_eq!(receipt["kind"], "reload");
        assert_rung(&receipt, "passed", 2);
        let by_command = scene.container.reloader(&["reload", "--json"]).expect_status(0);
        assert_rung(&by_command.json, "passed", 2);
    }
    load.until_further(200);
    let outcomes = load.stop();
    println!("{} reloads: {outcomes}", 2 * reloads());
    outcomes.assert_lossless();
}

#[test]
#[ignore = "alone: loads"]
fn signals_during_a_reload_become_one_more_reload() {
    let wrapper = Wrapper::new();
    let scene = Scene::start(Container::with(&config()).haproxy_at(&wrapper.path()));
    let container = &scene.container;
    let signal = || {
        let received = || container.log().matches("SIGHUP was received").count();
        let before = received();
        container.kill(Signal::SIGHUP);
        until(LIMIT, "a signal to be received", || received() > before);
    };
    let load = scene.load();
    let before = container.receipts().len();
    wrapper.set(Behaviour::WaitForChange);
    signal();
    let records = || std::fs::read_to_string(container.path("run/generations.json")).unwrap_or_default();
    until(LIMIT, "a generation to start", || records().contains("\"starting\""));
    (0..5).for_each(|_| signal());
    wrapper.set(Behaviour::Normal);
    until(LIMIT, "two reloads", || container.receipts().len() >= before + 2);
    // A third reload would come before this one, or together with it.
    let by_command = container.reloader(&["reload", "--json"]).expect_status(0);
    assert_eq!((container.receipts().len(), by_command.at("/coalesced")), (before + 3, &0.into()));
    load.stop().assert_lossless();
}

#[test]
#[ignore = "alone: loads"]
fn signal_applies_reloaders_configuration_before_the_reload() {
    let scene = Scene::start(Container::with(&config()));
    let other = "127.0.0.1:8082";
    let file = scene.container.path("reloader.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    config().frontend("other", &[other]).write(&scene.container.path("other.cfg"));
    std::fs::write(&file, text.replace("haproxy.cfg", "other.cfg")).unwrap();
    let receipt = scene.container.until_receipt(|| scene.container.kill(Signal::SIGHUP));
    assert_eq!(receipt["result"], "proven", "{receipt:#}");
    assert!(!refuses(other));

    // A wrong configuration was meant to be another one: no reload is done, and `status` says so.
    std::fs::write(&file, text.clone() + "\nnonsense = 1\n").unwrap();
    let before = scene.container.receipts().len();
    let socket = scene.container.path("run/control.sock");
    let status = || scene.container.reloader(&["--socket", socket.to_str().unwrap(), "status", "--json"]);
    scene.container.kill(Signal::SIGHUP);
    until(LIMIT, "a warning", || status().at("/warnings").to_string().contains("nonsense"));
    assert!(!refuses(other));
    std::fs::write(&file, text).unwrap();
    scene.container.until_receipt(|| scene.container.kill(Signal::SIGHUP));
    assert_eq!((scene.container.receipts().len(), refuses(other), refuses(WEB)), (before + 1, true, false));
}
