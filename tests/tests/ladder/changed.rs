//! Listeners that the new configuration changes.

use super::*;

/// What happens to a listener: its bind before and after, its clients, and its address in the receipt.
struct Change {
    name: &'static str,
    from: &'static str,
    to: &'static str,
    client: &'static str,
    address: &'static str,
    /// It is in another frontend afterwards.
    moves: bool,
    /// It stays within its reuseport group.
    stays: bool,
    /// HAProxy takes the old socket over where it is offered.
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
    /// The rungs of its old sockets, sorted.
    fn expected(&self, step: Step) -> Vec<&'static str> {
        let anew = match step.strategy {
            "fd-pass" => "unproven",
            "auto" | "steer" if self.stays => "steered",
            "auto" | "steer" => "held-ebpf",
            _ => step.rung,
        };
        let keeps_back = !matches!(step.strategy, "fd-pass" | "auto");
        let first = if self.passes && !keeps_back { "passed" } else { anew };
        match self.name {
            "fewer shards" => {
                let mut both = vec![first, anew];
                both.sort_unstable();
                both
            }
            _ => vec![first],
        }
    }
}

fn config(to: bool) -> Config {
    let bind = |change: &Change| if to { change.to } else { change.from };
    let (moving, staying): (Vec<&Change>, Vec<&Change>) = CHANGES.iter().partition(|change| change.moves);
    let staying: Vec<&str> = staying.into_iter().map(bind).collect();
    let mut moving: Vec<&str> = moving.into_iter().map(bind).collect();
    let other = "127.0.0.1:8010";
    moving.push("abns@moving");
    let (one, two) =
        if to { ([&staying[..], &moving].concat(), vec![other]) } else { (staying, [&[other], &moving[..]].concat()) };
    // A machine with one processor would have one thread, and a thread has one shard.
    Config::new().global("nbthread 4").frontend("one", &one).frontend("two", &two)
}

fn changed(step: Step) {
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
fn passed() {
    changed(PASSED);
}

#[test]
#[ignore = "alone: loads"]
fn steered() {
    changed(STEERED);
}

#[test]
#[ignore = "alone: loads"]
fn held_by_ebpf() {
    changed(HELD);
}

#[test]
#[ignore = "alone: loads"]
fn held_by_qdisc() {
    changed(FALLBACK);
}

/// Each gets the strongest rung that applies.
#[test]
#[ignore = "alone: loads"]
fn by_default() {
    changed(Step { strategy: "auto", rung: "steered" });
}
