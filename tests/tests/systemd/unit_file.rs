//! What systemd says of the unit file, without starting it.

use reloader_tests::booted::Machine;

/// In tenths, as `systemd-analyze security` gives it. HAProxy's own unit has 9.6; what stays open has a comment in the file.
const EXPOSURE: u32 = 43;

pub(crate) fn check(machine: &Machine) {
    let file = "/etc/systemd/system/reloader.service";
    let verified = machine.run(&["systemd-analyze", "verify", file]).expect_status(0);
    assert_eq!(verified.stderr, "", "systemd finds fault with the unit");
    let threshold = format!("--threshold={EXPOSURE}");
    let judged = machine.run(&["systemd-analyze", "security", "--offline=true", &threshold, "--no-pager", file]);
    assert_eq!(
        judged.status, 0,
        "the unit is more exposed than {EXPOSURE} tenths:\n{}{}",
        judged.stdout, judged.stderr
    );
}
