//! Tests the qdisc gate with the running kernel. Every test needs root to create network namespaces, and a kernel with
//! sch_plug: `cargo xtask test --kernels` has some.

use reloader::gate::hold::{Gate, HoldStats, Spec};
use reloader::gate::qdisc::QdiscGate;

mod cleanup;
mod clients;
mod coexistence;
mod devices;
mod packets;
mod rig;

/// Prepares and arms a gate.
fn armed(spec: &Spec) -> QdiscGate {
    let mut gate = QdiscGate::prepare(spec).unwrap_or_else(|error| panic!("{error}"));
    gate.arm().unwrap_or_else(|error| panic!("{error}"));
    gate
}

/// The figures of a hold that has parked and released this many SYNs.
fn delivered(number: u64) -> HoldStats {
    HoldStats { held: number, released: number, ..HoldStats::default() }
}

/// The figures without the longest time, which differs in each run.
fn without_time(figures: HoldStats) -> HoldStats {
    HoldStats { longest: Default::default(), ..figures }
}
