//! Checks what each privilege of a container makes possible, and what is reported if one is missing.

use nix::sys::signal::Signal;
use reloader_tests::container::Container;
use reloader_tests::footprint::Footprint;
use reloader_tests::load::Load;
use reloader_tests::poll::until;
use reloader_tests::probe::ability;
use reloader_tests::sockets::until_refused;
use reloader_tests::tier;
use reloader_tests::wrapper::{Behaviour, Wrapper};

use super::scene::{CONTAINED, LIMIT, Scene, WEB, assert_rung, config};

fn reloads() -> usize {
    tier::rounds(10)
}

fn reload_under_load(scene: &Scene, rung: &str) {
    let load = scene.load();
    for _ in 0..reloads() {
        assert_rung(&scene.container.reloader(&["reload", "--json"]).expect_status(0).json, rung, 2);
    }
    load.until_further(200);
    let outcomes = load.stop();
    println!("{rung}: {outcomes}");
    outcomes.assert_lossless();
}

#[test]
#[ignore = "alone: loads, and eBPF objects of the whole machine are looked at"]
fn default_privileges_pass_sockets_and_name_what_is_missing() {
    let scene = Scene::start(Container::with(&config()).contained(CONTAINED, &[]));
    reload_under_load(&scene, "passed");
    let notes = scene.container.status().at("/notes").to_string();
    assert!(notes.contains("CAP_NET_ADMIN is missing") && notes.contains("CAP_SYS_PTRACE is missing"), "{notes}");
    assert!(!notes.contains("CAP_KILL"), "{notes}");
    let probed = scene.container.reloader(&["probe", "--json"]).expect_status(0).json;
    for (name, sentence) in
        [("bpf", "CAP_BPF"), ("tcx", "CAP_NET_ADMIN"), ("sch-plug", "CAP_NET_ADMIN"), ("pidfd-getfd", "denied")]
    {
        let ability = ability(&probed, name);
        assert!(ability["present"] == false && ability["how"].to_string().contains(sentence), "{ability:#}");
    }

    // A single IPv6 address without `v6only` is bound again, and no gate can hold SYNs meanwhile.
    let at_risk = "[::1]:8083";
    scene.container.configure(&config().frontend("six", &[at_risk]));
    scene.container.reloader(&["reload"]).expect_status(0);
    let load = scene.load();
    let receipt = scene.container.reloader(&["reload", "--json"]).expect_status(3);
    load.until_further(200);
    load.stop().assert_lossless();
    let listeners = receipt.at("/listeners").as_array().unwrap();
    let six = listeners.iter().find(|listener| listener["address"] == at_risk).expect("the listener at risk");
    let reasons = format!("{} {}", six["why"], receipt.at("/notes"));
    assert!(six["rung"] == "unproven" && reasons.contains("CAP_NET_ADMIN") && reasons.contains("bpf"), "{receipt:#?}");
}

#[test]
#[ignore = "alone: loads, and eBPF objects of the whole machine are looked at"]
fn bpf_and_net_admin_allow_holding_syns() {
    let setup = Container::with(&config()).contained(CONTAINED, &["BPF", "NET_ADMIN"]);
    let scene = Scene::start(setup.tables("[reload]\nstrategy = \"hold\""));
    reload_under_load(&scene, "held-ebpf");
}

#[test]
#[ignore = "alone: loads, and eBPF objects of the whole machine are looked at"]
fn bpf_and_net_admin_allow_counting_syns() {
    let setup = Container::with(&config()).contained(CONTAINED, &["BPF", "NET_ADMIN"]);
    let scene = Scene::start(setup.tables("[reload]\ncount-syns = true"));
    let load = scene.load();
    let receipt = scene.container.reloader(&["reload", "--json"]).expect_status(0);
    load.until_further(200);
    load.stop().assert_lossless();
    assert!(receipt.at("/syns/seen").as_u64() > Some(0), "{}", receipt.stdout);
}

/// The daemon then cannot duplicate another process's descriptor. But custody has the old socket, and HAProxy gives out
/// the new one.
#[test]
#[ignore = "alone: loads, and eBPF objects of the whole machine are looked at"]
fn bpf_and_net_admin_allow_steering_sockets_in_custody() {
    const SIX: &str = "[::1]:8083";
    let config = config().frontend("six", &[SIX]);
    let scene = Scene::start(Container::with(&config).contained(CONTAINED, &["BPF", "NET_ADMIN"]));
    let load = Load::to([SIX]).start();
    load.until_started(200);
    for _ in 0..reloads() {
        let receipt = scene.container.reloader(&["reload", "--json"]).expect_status(0);
        let listeners = receipt.at("/listeners").as_array().unwrap();
        let six = listeners.iter().find(|listener| listener["address"] == SIX).expect("the IPv6 listener");
        assert_eq!(six["rung"], "steered", "{six:#}");
    }
    load.until_further(200);
    load.stop().assert_lossless();
}

#[test]
#[ignore = "alone: loads, and eBPF objects of the whole machine are looked at"]
fn sys_ptrace_in_addition_allows_steering_all_listeners() {
    let setup = Container::with(&config()).contained(CONTAINED, &["BPF", "NET_ADMIN", "SYS_PTRACE"]);
    let scene = Scene::start(setup.tables("[reload]\nstrategy = \"steer\""));
    reload_under_load(&scene, "steered");
}

/// Without a control group to write to, the same container holds.
#[test]
#[ignore = "alone: loads, and eBPF objects of the whole machine are looked at"]
fn writable_control_group_in_addition_allows_overlapping() {
    let setup = || {
        let setup = Container::with(&config().global("noreuseport"));
        let setup = setup.contained(CONTAINED, &["BPF", "NET_ADMIN", "SYS_PTRACE"]);
        setup.tables("[reload]\nstrategy = \"steer\"")
    };
    reload_under_load(&Scene::start(setup()), "held-ebpf");
    reload_under_load(&Scene::start(setup().with_control_groups()), "steered");
}

#[test]
#[ignore = "alone: loads, and eBPF objects of the whole machine are looked at"]
fn server_that_changes_its_user_needs_sys_ptrace() {
    let config = config().global("user nobody");
    let mut without = Container::with(&config).contained(CONTAINED, &[]).try_start();
    assert_eq!(without.until_ended(), 4);
    assert!(
        without.log().contains("CAP_SYS_PTRACE, and a /proc that shows it; give the daemon that"),
        "{}",
        without.log()
    );

    let scene = Scene::start(Container::with(&config).contained(CONTAINED, &["SYS_PTRACE"]));
    reload_under_load(&scene, "passed");
}

#[test]
#[ignore = "alone: loads, and eBPF objects of the whole machine are looked at"]
fn server_that_changes_its_user_needs_kill() {
    let config = config().global("user nobody");
    let setup = Container::with(&config).contained(CONTAINED, &["SYS_PTRACE"]).without("kill");
    let mut without = setup.try_start();
    assert_eq!(without.until_ended(), 4);
    assert!(
        without.log().contains("cannot be signalled: a server that changes its user takes CAP_KILL"),
        "{}",
        without.log()
    );
}

/// It has only its own user, as with an image with `USER` and `--cap-drop ALL`.
#[test]
#[ignore = "alone: loads, and eBPF objects of the whole machine are looked at"]
fn sockets_are_passed_without_any_capability() {
    let scene = Scene::start(Container::with(&config()).as_nobody());
    reload_under_load(&scene, "passed");
    let notes = scene.container.status().at("/notes").to_string();
    for capability in ["CAP_KILL", "CAP_NET_ADMIN", "CAP_SYS_PTRACE"] {
        assert!(notes.contains(&format!("{capability} is missing")), "{notes}");
    }
}

/// As with a rootless engine: root in a namespace that has no other user, without any right outside of it.
#[test]
#[ignore = "alone: loads, and eBPF objects of the whole machine are looked at"]
fn sockets_are_passed_in_a_user_namespace() {
    let scene = Scene::start(Container::with(&config()).in_user_namespace());
    reload_under_load(&scene, "passed");
    let probed = scene.container.reloader(&["probe", "--json"]).expect_status(0).json;
    assert_eq!(ability(&probed, "bpf")["present"], false, "{probed:#}");
}

/// Holder and guard end with the container, and its network namespace may belong to another container too.
#[test]
#[ignore = "alone: loads, and eBPF objects of the whole machine are looked at"]
fn container_killed_during_a_hold_leaves_nothing() {
    let wrapper = Wrapper::new();
    // The old generation vacates first: the new one starts under the hold.
    let config = config().global("noreuseport");
    let setup = Container::with(&config).contained(CONTAINED, &["BPF", "NET_ADMIN"]).haproxy_at(&wrapper.path());
    let scene = Scene::start(setup.tables("[reload]\nstrategy = \"hold\"\n[hold]\nmax = \"60s\""));
    Load::to([WEB]).connections(100).run().assert_lossless();
    let (before, footprint) = (programs(), Footprint::take(&scene.container.path("")));
    // The new generation does not become ready.
    wrapper.set(Behaviour::NoStatsSocket);
    scene.container.kill(Signal::SIGHUP);
    until(LIMIT, "a hold", || scene.container.status().at("/holds/0/backend").is_string());
    let held: Vec<u32> = programs().into_iter().filter(|program| !before.contains(program)).collect();
    assert!(!held.is_empty());
    scene.container.init().end();
    until(LIMIT, "all of its processes to end", || scene.container.processes().is_empty());
    until_refused(WEB);
    until(LIMIT, "its programs to go", || !programs().iter().any(|program| held.contains(program)));
    assert_eq!(footprint.left_behind(), Vec::<String>::new());
}

/// All BPF programs of the machine. Those of a container have no names.
fn programs() -> Vec<u32> {
    aya::programs::loaded_programs().flatten().map(|program| program.id()).collect()
}
