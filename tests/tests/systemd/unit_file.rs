//! Checks the unit file with systemd's own tools, without starting the unit.

use reloader_tests::booted::Machine;

/// The highest accepted exposure in tenths, as `systemd-analyze security` gives it. HAProxy's own unit has 9.6. Each setting that stays
/// open has a comment in the unit file.
const EXPOSURE: u32 = 45;

pub(crate) fn check(machine: &Machine) {
    let file = "/etc/systemd/system/reloader.service";
    let verified = machine.run(&["systemd-analyze", "verify", file]).expect_status(0);
    assert_eq!(verified.stderr, "", "systemd warns of the unit");
    let threshold = format!("--threshold={EXPOSURE}");
    let security = machine.run(&["systemd-analyze", "security", "--offline=true", &threshold, "--no-pager", file]);
    assert_eq!(
        security.status, 0,
        "the unit is more exposed than {EXPOSURE} tenths:\n{}{}",
        security.stdout, security.stderr
    );
}
