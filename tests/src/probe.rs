//! Asks `reloader probe` what this machine can do.

use std::process::Command;

use serde_json::Value;

use crate::rig;

/// Runs `probe --json`, without a daemon.
#[track_caller]
pub fn probe() -> Value {
    let output = Command::new(rig::binary()).args(["probe", "--json"]).output().expect("reloader runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// One ability in the output of a probe.
#[track_caller]
pub fn ability<'a>(probed: &'a Value, name: &str) -> &'a Value {
    let mut abilities = probed["abilities"].as_array().expect("abilities").iter();
    abilities.find(|ability| ability["name"] == name).unwrap_or_else(|| panic!("no {name} in {probed}"))
}

/// Whether this machine has the ability.
#[track_caller]
pub fn is_present(name: &str) -> bool {
    ability(&probe(), name)["present"] == true
}
