//! Tests every kind of listener on every rung: each gets the expected rung, and no connection is lost where the reload is proven. The
//! tests print the cells of the table rung x kind of listener. Each needs root, for a network namespace of its own.

use std::collections::BTreeMap;
use std::path::Path;

use reloader_tests::guest::{self, Feature, Gate};
use reloader_tests::probe;
use reloader_tests::rig::Answer;

mod changed;
mod kept;

/// A strategy, and the rung that it gives to a TCP listener which can be bound beside the old one.
#[derive(Clone, Copy)]
struct Step {
    strategy: &'static str,
    rung: &'static str,
}

const PASSED: Step = Step { strategy: "fd-pass", rung: "passed" };
const STEERED: Step = Step { strategy: "steer", rung: "steered" };
const HELD: Step = Step { strategy: "hold", rung: "held-ebpf" };
const FALLBACK: Step = Step { strategy: "kernel-fallback", rung: "held-qdisc" };

impl Step {
    /// Whether this kernel has the feature that the step needs. The rows of the qdisc gate skip the steps with eBPF, because the rows of the
    /// eBPF gate run them.
    fn is_possible(self) -> bool {
        let feature = match self.rung {
            "passed" => return true,
            "steered" | "held-ebpf" => Feature::Bpf,
            _ => Feature::Plug,
        };
        let needed = if feature == Feature::Plug { "sch-plug" } else { "bpf-ringbuf" };
        if guest::gate() == Some(Gate::Qdisc) && feature == Feature::Bpf {
            guest::report_skipped("the row of the other gate has it");
            return false;
        }
        let present = probe::is_present(needed);
        if !present {
            guest::skip(feature, needed);
        }
        present
    }

    fn tables(self) -> String {
        format!("[reload]\nstrategy = \"{}\"\n[hold]\nmax = \"60s\"\n", self.strategy)
    }
}

/// A kind of listener: its name in the table, its bind, and how clients reach it.
struct Kind {
    name: &'static str,
    bind: String,
    client: String,
    /// The address as receipts write it.
    address: String,
}

impl Kind {
    fn new(name: &'static str, bind: &str, client: &str, address: &str) -> Kind {
        Kind { name, bind: bind.into(), client: client.into(), address: address.into() }
    }

    fn unix(directory: &Path) -> Kind {
        let path = directory.join("web.sock").display().to_string();
        let address = format!("unix@{path}");
        Kind { name: "unix path", bind: address.clone(), client: address, address: path }
    }
}

/// Prints a cell of the table that the kernel matrix puts together.
fn cell(rung: &str, kind: &str, result: &str) {
    println!("cell|{rung}|{kind}|{result}");
}

/// The rungs of the listeners in the receipt, by address, each with the reason if it is unproven.
fn by_address(receipt: &Answer) -> BTreeMap<String, Vec<(String, Option<String>)>> {
    let mut found: BTreeMap<String, Vec<(String, Option<String>)>> = BTreeMap::new();
    for listener in receipt.at("/listeners").as_array().unwrap().iter().filter(|found| found["role"] == "traffic") {
        let text = |key: &str| listener[key].as_str().map(str::to_owned);
        found.entry(text("address").unwrap()).or_default().push((text("rung").unwrap(), text("why")));
    }
    found
}
