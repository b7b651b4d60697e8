//! Checks a row of the kernel matrix against `reloader probe`: every feature that the kernel's version promises is present, except for
//! those that the row denies. It runs on the host too: a feature that is missing above its version is a failure there as well.

use std::env::VarError;

use reloader_tests::guest::{self, Feature};
use reloader_tests::probe::{ability, probe};

const ABILITIES: [(&str, Feature); 10] = [
    ("pidfd-open", Feature::PidfdOpen),
    ("pidfd-getfd", Feature::PidfdGetfd),
    ("bpf", Feature::Bpf),
    ("bpf-ringbuf", Feature::Bpf),
    ("reuseport-migration", Feature::ReusePortMigration),
    ("reuseport-selection", Feature::Bpf),
    ("bind-sharing", Feature::BindSharing),
    ("tcx", Feature::Tcx),
    ("clsact", Feature::Bpf),
    ("sch-plug", Feature::Plug),
];

#[test]
fn probe_reports_expected_features_present_and_denied_ones_absent() {
    let probed = probe();
    for (name, feature) in ABILITIES {
        let ability = ability(&probed, name);
        let (present, expected) = (ability["present"] == true, guest::expects(feature));
        // A host may have been built with sch_plug, and a distribution may have backported a feature of a later version.
        let may_differ = !guest::is_guest() && !expected || is_unaffected_by_the_row(feature);
        assert!(present == expected || may_differ, "{feature:?} expected: {expected}, but {ability}");
    }
}

#[test]
fn bpf_is_present_or_denied_with_the_error_of_the_row() {
    let error = match denied_by().as_deref() {
        Ok("syscalls") => "ENOSYS",
        Ok("capabilities") => "os error 1)",
        _ => return assert_eq!(ability(&probe(), "bpf")["present"] == true, guest::expects(Feature::Bpf)),
    };
    let probed = probe();
    let bpf = ability(&probed, "bpf");
    assert!(bpf["present"] == false && bpf["how"].to_string().contains(error), "{bpf}");
}

/// Without its capabilities reloader can still list TCX programs, so it sees that the kernel has them. It cannot make a namespace to
/// try a plug in, so it does not know whether the kernel has sch_plug.
fn is_unaffected_by_the_row(feature: Feature) -> bool {
    denied_by().as_deref() == Ok("capabilities") && [Feature::Tcx, Feature::Plug].contains(&feature)
}

fn denied_by() -> Result<String, VarError> {
    std::env::var("RELOADER_DENIED_BY")
}
