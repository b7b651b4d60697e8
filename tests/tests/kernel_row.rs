//! A row of the kernel matrix is what it says: the probe finds what the kernel's version promises, except for what the row
//! denies. On the host too: a feature absent above its version is a failure there as well.

use std::env::VarError;

use reloader_tests::guest::{self, Feature};
use reloader_tests::probe::{ability, probe};

const ABILITIES: [(&str, Feature); 9] = [
    ("pidfd-open", Feature::PidfdOpen),
    ("pidfd-getfd", Feature::PidfdGetfd),
    ("bpf", Feature::Bpf),
    ("bpf-ringbuf", Feature::Bpf),
    ("reuseport-migration", Feature::ReusePortMigration),
    ("reuseport-selection", Feature::Bpf),
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
        let at_liberty = !guest::is_guest() && !expected || is_beyond_the_row(feature);
        assert!(present == expected || at_liberty, "{feature:?} expected: {expected}, but {ability}");
    }
}

#[test]
fn bpf_is_there_or_denied_in_the_way_of_this_row() {
    let error = match denied_by().as_deref() {
        Ok("syscalls") => "ENOSYS",
        Ok("capabilities") => "os error 1)",
        _ => return assert_eq!(ability(&probe(), "bpf")["present"] == true, guest::expects(Feature::Bpf)),
    };
    let probed = probe();
    let bpf = ability(&probed, "bpf");
    assert!(bpf["present"] == false && bpf["how"].to_string().contains(error), "{bpf}");
}

/// Without its capabilities reloader can still list TCX programs, so it sees that the kernel has them, and it can make no
/// namespace to try a plug in, so it does not know.
fn is_beyond_the_row(feature: Feature) -> bool {
    denied_by().as_deref() == Ok("capabilities") && [Feature::Tcx, Feature::Plug].contains(&feature)
}

fn denied_by() -> Result<String, VarError> {
    std::env::var("RELOADER_DENIED_BY")
}
