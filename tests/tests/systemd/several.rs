//! Tests two HAProxys on one machine, each with a daemon of its own.

use reloader_tests::booted::Machine;
use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::poll::until;

use super::scene::LIMIT;

const NAMES: [&str; 2] = ["one", "two"];
const PORTS: [&str; 2] = ["127.0.0.1:8001", "127.0.0.1:8002"];

fn toml(name: &str) -> String {
    format!(
        "control-socket = \"/run/reloader/{name}/control.sock\"\nruntime-dir = \"/run/reloader/{name}\"\n\
         state-dir = \"/var/lib/reloader/{name}\"\n[haproxy]\nconfig = [\"/etc/haproxy/{name}.cfg\"]\n"
    )
}

#[test]
#[ignore = "alone: boots a machine and loads it"]
fn two_instances_reload_and_die_apart() {
    let unit = include_str!("../../../packaging/systemd/reloader@.service");
    let mut setup = Machine::setup().file("/etc/systemd/system/reloader@.service", unit);
    for (name, port) in NAMES.into_iter().zip(PORTS) {
        let config = Config::new().frontend("web", &[port]);
        setup = setup.file(&format!("/etc/haproxy/{name}.cfg"), config);
        setup = setup.file(&format!("/etc/reloader/{name}.toml"), toml(name));
    }
    let machine = setup.boot();
    machine.enter_network();
    machine.systemctl(&["stop", "haproxy"]);
    let (one, two) = ("reloader@one.service", "reloader@two.service");
    machine.systemctl(&["start", one, two]);

    let load = Load::to(PORTS).rate(500).start();
    load.until_started(100);
    for unit in [one, two, one, two] {
        machine.systemctl(&["reload", unit]);
    }
    load.until_further(100);
    let serving = |name: &str| {
        let words = ["--config", &format!("/etc/reloader/{name}.toml"), "status", "--json"];
        machine.reloader(&words).expect_status(0).json["serving"]["generation"].clone()
    };
    assert_eq!(NAMES.map(serving), [3, 3]);

    let daemon = machine.unit(one).get("MainPID").to_owned();
    machine.systemctl(&["kill", "--kill-who=main", "-s", "KILL", one]);
    until(LIMIT, "another daemon to run", || {
        let unit = machine.unit(one);
        unit.get("ActiveState") == "active" && unit.get("MainPID") != daemon
    });
    machine.systemctl(&["reload", one]);
    assert_eq!(NAMES.map(serving), [4, 3]);
    load.until_further(100);
    load.stop().assert_lossless();

    // A third daemon with the places of the first is refused.
    let refused = machine.reloader(&["--config", "/etc/reloader/one.toml", "daemon"]);
    assert_ne!(refused.status, 0);
    assert!(refused.stderr.contains("needs a `--config` of its own"), "{}", refused.stderr);
}
