//! Checks that a hold without its privileges fails and names what is missing.

use reloader_tests::netns;
use reloader_tests::service::{Kind, Service};

use reloader_tests::hold_rig::{HoldRig, WEB};

const NOBODY: u32 = 65534;

#[test]
fn other_users_are_refused() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let answer = hold_rig.rig.run_as(NOBODY, &["hold", "--listen", WEB, "--", "true"]).expect_status(125);
    assert!(answer.stderr.contains("only root may hold SYNs"), "{}", answer.stderr);
}

#[test]
fn missing_capability_is_named() {
    netns::enter();
    let hold_rig = HoldRig::new();
    let service = Service::started(Kind::Perl, hold_rig.rig.dir(), &[WEB]);
    for (missing, named) in [
        (&["net_admin", "sys_admin"][..], "CAP_NET_ADMIN"),
        (&["net_raw"], "CAP_NET_RAW"),
        (&["bpf", "sys_admin"], "CAP_BPF"),
        (&["net_admin", "net_raw", "bpf", "sys_admin"], "CAP_BPF"),
    ] {
        let bounding = missing.iter().map(|name| format!("-{name}")).collect::<Vec<_>>().join(",");
        let answer = hold_rig.run_bounded(&bounding, &["hold", "--listen", WEB, "--", "true"]).expect_status(125);
        assert!(answer.stderr.contains(named), "without {missing:?}: {}", answer.stderr);
        println!("without {missing:?}: {}", answer.stderr);
    }
    let answer = hold_rig.run_bounded("-setuid", &["hold", "--listen", WEB, "--", "sh", "-c", "exit 7"]);
    answer.expect_status(7);
    drop(service);
    hold_rig.assert_gone();
}
