//! Tests listeners that the new configuration changes.

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::rig::Rig;
use reloader_tests::{guest, netns};

use super::{FALLBACK, HELD, PASSED, STEERED, Step, by_address, cell};

/// A change of a listener: its bind before and after, the address of its clients, and its address in the receipt.
struct Change {
    name: &'static str,
    from: &'static str,
    to: &'static str,
    client: &'static str,
    address: &'static str,
    /// The bind moves to another frontend.
    moves: bool,
    /// The new socket is in the reuseport group of the old one.
    stays: bool,
    /// HAProxy takes over the old socket if it is offered.
    passes: bool,
}

const CHANGES: [Change; 7] = [
    Change {
        name: "fewer shards",
        from: "127.0.0.1:8000 shards 2",
        to: "127.0.0.1:8000 shards 1",
        client: "127.0.0.1:8000",
        address: "127.0.0.1:8000",
        moves: false,
        stays: true,
        passes: true,
    },
    Change {
        name: "more shards",
        from: "127.0.0.1:8001 shards 1",
        to: "127.0.0.1:8001 shards 2",
        client: "127.0.0.1:8001",
        address: "127.0.0.1:8001",
        moves: false,
        stays: true,
        passes: true,
    },
    Change {
        name: "interface added",
        from: "127.0.0.1:8002",
        to: "127.0.0.1:8002 interface lo",
        client: "127.0.0.1:8002",
        address: "127.0.0.1:8002%lo",
        moves: false,
        stays: false,
        passes: false,
    },
    Change {
        name: "v6only added",
        from: "[::]:8003",
        to: "[::]:8003 v6only",
        client: "[::1]:8003",
        address: "[::]:8003",
        moves: false,
        stays: false,
        passes: false,
    },
    Change {
        name: "one address to any",
        from: "127.0.0.1:8004",
        to: "0.0.0.0:8004",
        client: "127.0.0.1:8004",
        address: "127.0.0.1:8004",
        moves: false,
        stays: false,
        passes: false,
    },
    Change {
        name: "any to one address",
        from: "0.0.0.0:8005",
        to: "127.0.0.1:8005",
        client: "127.0.0.1:8005",
        address: "0.0.0.0:8005",
        moves: false,
        stays: false,
        passes: false,
    },
    Change {
        name: "another frontend",
        from: "127.0.0.1:8006",
        to: "127.0.0.1:8006",
        client: "127.0.0.1:8006",
        address: "127.0.0.1:8006",
        moves: true,
        stays: true,
        passes: true,
    },
];

impl Change {
    /// The rungs of the old sockets, sorted.
    fn expected(&self, step: Step) -> Vec<&'static str> {
        let rebound = match step.strategy {
            "fd-pass" => "unproven",
            "auto" | "steer" if self.stays => "steered",
            "auto" | "steer" => "held-ebpf",
            _ => step.rung,
        };
        let offers_sockets = matches!(step.strategy, "fd-pass" | "auto");
        let first = if self.passes && offers_sockets { "passed" } else { rebound };
        match self.name {
            "fewer shards" => {
                let mut both = vec![first, rebound];
                both.sort_unstable();
                both
            }
            _ => vec![first],
        }
    }
}

fn config(is_changed: bool) -> Config {
    let bind = |change: &Change| if is_changed { change.to } else { change.from };
    let (moving, staying): (Vec<&Change>, Vec<&Change>) = CHANGES.iter().partition(|change| change.moves);
    let staying: Vec<&str> = staying.into_iter().map(bind).collect();
    let mut moving: Vec<&str> = moving.into_iter().map(bind).collect();
    let other = "127.0.0.1:8010";
    moving.push("abns@moving");
    let (one, two) = if is_changed {
        ([&staying[..], &moving].concat(), vec![other])
    } else {
        (staying, [&[other], &moving[..]].concat())
    };
    // On a machine with one processor HAProxy would run one thread, and each thread has one shard only.
    Config::new().global("nbthread 4").frontend("one", &one).frontend("two", &two)
}

fn assert_rungs_after_changes(step: Step) {
    netns::enter();
    if !step.is_possible() {
        return;
    }
    let rig = Rig::with(&config(false)).tables(&step.tables()).start();
    let load = Load::to(CHANGES.iter().map(|change| change.client).chain(["abns@moving"])).rate(800).start();
    load.until_further(u64::from(guest::rate(800)) / 4);
    rig.configure(&config(true));
    let receipt = rig.reload();
    load.until_further(u64::from(guest::rate(800)) / 4);
    let outcomes = load.stop();
    let found = by_address(&receipt);
    for change in &CHANGES {
        let entries: Vec<_> = found[change.address].iter().filter(|(rung, _)| rung != "added").collect();
        let mut rungs: Vec<&str> = entries.iter().map(|(rung, _)| rung.as_str()).collect();
        rungs.sort_unstable();
        assert_eq!(rungs, change.expected(step), "{}: {}", change.name, receipt.stdout);
        let result = match entries.iter().find(|(rung, _)| rung == "unproven") {
            Some((_, why)) => why.clone().expect("a reason"),
            None if rungs.contains(&step.rung) => "proven".into(),
            None => format!("not applicable: {}", rungs.join(", ")),
        };
        if step.strategy != "auto" {
            cell(step.rung, change.name, &result);
        }
    }
    assert_eq!(found["abns@moving"][0].0, "passed");
    println!("{}: {outcomes}", step.strategy);
    let (status, result) =
        if step.rung == "passed" && step.strategy == "fd-pass" { (3, "unproven") } else { (0, "proven") };
    assert_eq!((receipt.status, receipt.at("/result").as_str()), (status, Some(result)), "{}", receipt.stdout);
    if result == "proven" {
        outcomes.assert_lossless();
    }
}

#[test]
#[ignore = "alone: loads"]
fn fd_pass_gives_each_change_its_rung() {
    assert_rungs_after_changes(PASSED);
}

#[test]
#[ignore = "alone: loads"]
fn steer_gives_each_change_its_rung() {
    assert_rungs_after_changes(STEERED);
}

#[test]
#[ignore = "alone: loads"]
fn ebpf_hold_gives_each_change_its_rung() {
    assert_rungs_after_changes(HELD);
}

#[test]
#[ignore = "alone: loads"]
fn qdisc_hold_gives_each_change_its_rung() {
    assert_rungs_after_changes(FALLBACK);
}

#[test]
#[ignore = "alone: loads"]
fn auto_gives_each_change_its_strongest_rung() {
    assert_rungs_after_changes(Step { strategy: "auto", rung: "steered" });
}
