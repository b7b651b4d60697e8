//! A row of the kernel matrix is what it says: the probe finds what the kernel's version promises, except for what the row
//! denies. On the host too: a feature absent above its version is a failure there as well.

use std::process::Command;

use reloader_tests::guest::{self, Feature};
use reloader_tests::rig;
use serde_json::Value;

const ABILITIES: [(&str, Feature); 8] = [
    ("pidfd-open", Feature::PidfdOpen),
    ("pidfd-getfd", Feature::PidfdGetfd),
    ("bpf", Feature::Bpf),
    ("bpf-ringbuf", Feature::Bpf),
    ("reuseport-migration", Feature::ReusePortMigration),
    ("tcx", Feature::Tcx),
    ("clsact", Feature::Bpf),
    ("sch-plug", Feature::Plug),
];

#[test]
fn the_probe_finds_what_this_kernel_must_have_and_nothing_that_is_denied() {
    let probed = probe();
    for (name, feature) in ABILITIES {
        let ability = ability(&probed, name);
        let (present, expected) = (ability["present"] == true, guest::expects(feature));
        // A host may have been built with sch_plug, and a distribution may have taken back a feature from a later version.
        let at_liberty = !guest::is_guest() && !expected;
        assert!(present == expected || at_liberty, "{feature:?} expected: {expected}, but {ability}");
    }
}

#[test]
fn a_denied_bpf_is_denied_in_the_way_of_this_row() {
    let error = match std::env::var("RELOADER_DENIED_BY").as_deref() {
        Ok("syscalls") => "os error 38",
        Ok("capabilities") => "os error 1)",
        _ => return guest::skip_row("no row in which bpf(2) is denied"),
    };
    let probed = probe();
    let bpf = ability(&probed, "bpf");
    assert!(bpf["present"] == false && bpf["how"].to_string().contains(error), "{bpf}");
}

fn probe() -> Value {
    let output = Command::new(rig::binary()).args(["probe", "--json"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn ability<'a>(probed: &'a Value, name: &str) -> &'a Value {
    let mut abilities = probed["abilities"].as_array().unwrap().iter();
    abilities.find(|ability| ability["name"] == name).unwrap_or_else(|| panic!("no {name} in {probed}"))
}
