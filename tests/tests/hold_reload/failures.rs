//! Makes reloads whose new generation fails and whose old generation has to vacate first.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;
use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::poll::until;
use reloader_tests::rig::Rig;
use reloader_tests::wrapper::{Behaviour, Wrapper, hanging_process};
use socket2::{Domain, Socket, Type};

use super::{HOLD, WEB};

const LIMIT: Duration = Duration::from_secs(20);

fn web() -> Config {
    Config::web(WEB).global("noreuseport")
}

/// `haproxy -c` refuses the configuration before anything is held.
#[test]
#[ignore = "alone: loads"]
fn refused_configuration_holds_nothing() {
    netns::enter();
    let rig = Rig::with(&web()).tables(HOLD).start();
    let old = rig.serving();
    let load = Load::to([WEB]).rate(1000).start();
    load.until_started(100);
    rig.configure(&web().section("no-such-section"));
    let answer = rig.reload().expect_status(1);
    assert!(answer.at("/reason").as_str().unwrap().contains("refuses"), "{}", answer.stdout);
    assert!(answer.at("/server-log").to_string().contains("no-such-section"), "{}", answer.stdout);
    assert_eq!((rig.serving(), answer.at("/phases-us/guard")), (old, &serde_json::Value::Null));
    load.until_further(100);
    let outcomes = load.stop();
    outcomes.assert_lossless();
    assert_eq!(outcomes.summary().slow, 0, "{outcomes}");
}

/// A valid configuration may be unable to bind. The last-known-good one is started, and no connection is refused
/// meanwhile.
#[test]
#[ignore = "alone: loads"]
fn configuration_that_does_not_start_falls_back_to_last_known_good() {
    netns::enter();
    let rig = Rig::with(&web()).tables(HOLD).start();
    let taken = TcpListener::bind("127.0.0.1:8090").unwrap();
    for bind in ["192.0.2.1:8091", "127.0.0.1:8090"] {
        let old = rig.serving_pid();
        let load = Load::to([WEB]).rate(500).start();
        load.until_started(100);
        rig.configure(&Config::new().global("noreuseport").frontend("web", &[WEB, bind]));
        let answer = rig.reload().expect_status(1);
        assert_eq!(answer.at("/result"), "failed");
        assert!(answer.at("/reason").as_str().unwrap().contains("last-known-good"), "{}", answer.stdout);
        assert!(answer.at("/server-log").to_string().contains(bind), "{}", answer.stdout);
        assert_ne!(rig.serving_pid(), old);
        assert!(rig.warnings().contains("last-known-good"));
        load.until_further(200);
        let outcomes = load.stop();
        println!("{bind}: {outcomes}");
        outcomes.assert_lossless();
        rig.configure(&web());
        rig.reload().expect_status(0);
        assert_eq!(rig.status().at("/warnings"), &serde_json::json!([]));
    }
    drop(taken);
}

/// The check of a configuration may hang, for example on a name that is not resolved.
#[test]
fn check_that_does_not_end_fails_the_reload() {
    netns::enter();
    let wrapper = Wrapper::new();
    let hold = format!("{HOLD}start-timeout = \"2s\"\n");
    let rig = Rig::with(&web()).haproxy_at(&wrapper.path()).tables(&hold).start();
    let old = rig.serving();
    wrapper.set(Behaviour::Hang);
    let reload = rig.spawn(&["reload", "--json"]);
    until(LIMIT, "the check to hang", || hanging_process(&rig.haproxy_cfg()).is_some());
    let check = hanging_process(&rig.haproxy_cfg()).unwrap();
    assert_eq!(rig.serving(), old);
    let answer = reload.wait().expect_status(1);
    assert!(answer.at("/reason").as_str().unwrap().contains("start-timeout"), "{}", answer.stdout);
    assert_eq!(rig.serving(), old);
    until(LIMIT, "the check to be ended", || !check.is_alive());
}

/// The port was refused before the hold began, so the hold proves nothing.
#[test]
fn server_that_ends_during_the_check_is_restarted_unproven() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = Rig::with(&web()).haproxy_at(&wrapper.path()).tables(HOLD).start();
    let old = rig.serving().unwrap();
    wrapper.set(Behaviour::Hang);
    let reload = rig.spawn(&["reload", "--json"]);
    until(LIMIT, "the check to hang", || hanging_process(&rig.haproxy_cfg()).is_some());
    wrapper.set(Behaviour::Normal);
    old.signal(Signal::SIGKILL);
    let answer = reload.wait();
    assert_eq!(answer.at("/result"), "failed");
    assert!(answer.at("/reason").as_str().unwrap().contains("ended before"), "{}", answer.stdout);
    rig.until_replaced(old);
    let restart = rig.last_receipt();
    assert_eq!((&restart["kind"], &restart["result"]), (&"restart".into(), &"unproven".into()), "{restart}");
    assert_eq!(rig.status().at("/holds"), &serde_json::json!([]));
}

/// The hold bounds the first try, so that the last-known-good one can come up within it: no other key would give it longer.
#[test]
fn start_that_takes_longer_than_the_hold_names_the_key_of_the_hold() {
    netns::enter();
    let wrapper = Wrapper::new();
    let rig = Rig::with(&web()).haproxy_at(&wrapper.path()).tables(HOLD).start();
    let old = rig.serving().unwrap();
    wrapper.set(Behaviour::WaitForChange);
    let reload = rig.spawn(&["reload", "--json"]);
    let starting = || rig.status().at("/starting/generation").as_u64();
    let mut first = None;
    until(LIMIT, "the first try", || {
        first = starting();
        first.is_some()
    });
    until(LIMIT, "the second try", || starting() > first);
    wrapper.set(Behaviour::Normal);
    let answer = reload.wait().expect_status(1);
    let reason = answer.at("/reason").as_str().unwrap();
    assert!(reason.contains("; raise hold.max if it needs longer"), "{reason}");
    assert!(rig.serving().unwrap() != old && rig.warnings().contains("last-known-good"), "{}", rig.warnings());
}

#[test]
fn failed_fallback_reports_that_nothing_serves() {
    netns::enter();
    let wrapper = Wrapper::new();
    // The next attempt does not wait for the longest time of a hold that was released.
    let hold = format!("{HOLD}[hold]\nmax = \"60s\"\n");
    let rig = Rig::with(&web()).haproxy_at(&wrapper.path()).tables(&hold).start();
    wrapper.set(Behaviour::FailAfterCheck);
    let answer = rig.reload().expect_status(4);
    assert_eq!(answer.at("/result"), "failed");
    let reason = answer.at("/reason").as_str().unwrap();
    assert!(reason.contains("last-known-good configuration did not start"), "{reason}");
    assert_eq!(answer.at("/nothing-serves"), true);
    let history = rig.run(&["history"]).expect_status(0).stdout;
    assert!(history.contains("nothing serves") && !history.contains("stays"), "{history}");
    wrapper.set(Behaviour::Normal);
    until(Duration::from_secs(40), "a start to be tried again", || rig.serving().is_some());
    Load::to([WEB]).connections(100).run().assert_lossless();
    assert_eq!(rig.status().at("/holds"), &serde_json::json!([]));
}

/// The new generation binds the first address beside the old one, and then fails to bind the second address.
/// Connections that it received before would end with it.
#[test]
#[ignore = "alone: loads"]
fn generation_that_cannot_bind_loses_no_connection() {
    netns::enter();
    let _taken = TcpListener::bind("127.0.0.1:8090").unwrap();
    // A single IPv6 address without `v6only` is bound again with every strategy.
    for (strategy, address) in [("hold", WEB), ("steer", WEB), ("auto", "[::1]:8080"), ("fd-pass", "[::1]:8080")] {
        let web = format!("{address} shards 3");
        let good = Config::new().frontend("web", &[&web]);
        let rig = Rig::with(&good).tables(&format!("[reload]\nstrategy = \"{strategy}\"\n")).start();
        let load = Load::to([address]).rate(4000).start();
        load.until_started(100);
        let cannot_bind = Config::new().frontend("web", &[&web, "127.0.0.1:8090"]);
        // Without protection each successful reload loses the queue of the old generation.
        for _ in 0..if strategy == "fd-pass" { 1 } else { 2 } {
            if strategy != "fd-pass" {
                rig.configure(&good);
                rig.reload().expect_status(0);
            }
            rig.configure(&cannot_bind);
            for _ in 0..10 {
                let answer = rig.reload().expect_status(1);
                assert!(answer.at("/server-log").to_string().contains("8090"), "{}", answer.stdout);
                load.until_further(200);
            }
        }
        let outcomes = load.stop();
        println!("{strategy}: {outcomes}");
        outcomes.assert_lossless();
        let share = share_of_a_joining_socket(&rig, address);
        assert!(share > 0, "{strategy}: the group is still reserved");
    }
}

/// The next daemon frees the group that a daemon killed during a start had reserved.
#[test]
#[ignore = "alone: loads"]
fn killed_daemon_leaves_no_group_reserved() {
    netns::enter();
    let wrapper = Wrapper::new();
    let mut rig = Rig::with(&Config::web(WEB)).haproxy_at(&wrapper.path()).tables(HOLD).start();
    wrapper.set(Behaviour::Hang);
    let reload = rig.spawn(&["reload", "--json"]);
    until(LIMIT, "a start that hangs", || hanging_process(&rig.haproxy_cfg()).is_some());
    assert_eq!(share_of_a_joining_socket(&rig, WEB), 0);
    rig.kill9_daemon();
    reload.wait();
    wrapper.set(Behaviour::Normal);
    rig.start_daemon();
    assert!(share_of_a_joining_socket(&rig, WEB) > 0);
}

/// Of a hundred connections, the number that another socket of the port gets when it joins the reuseport group. These
/// connections are not served.
fn share_of_a_joining_socket(rig: &Rig, address: &str) -> u32 {
    let serving = rig.serving().expect("a serving generation");
    // The counted connections must not be accepted.
    serving.signal(Signal::SIGSTOP);
    let address: SocketAddr = address.parse().expect("an address");
    let late = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    late.set_reuse_port(true).expect("SO_REUSEPORT");
    late.bind(&address.into()).expect("binding");
    late.listen(200).expect("listening");
    let _clients: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).expect("connecting")).collect();
    late.set_nonblocking(true).expect("O_NONBLOCK");
    let share = std::iter::from_fn(|| late.accept().ok()).count() as u32;
    serving.signal(Signal::SIGCONT);
    share
}
