//! Holds on devices whose alias is not UTF-8.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use reloader_tests::config::Config;
use reloader_tests::load::Load;
use reloader_tests::netns;
use reloader_tests::network::{command, ip};
use reloader_tests::rig::Rig;

use super::{HOLD, WEB};

/// `Zürich` in Latin-1.
const LATIN_1: &[u8] = b"Z\xfcrich";

#[test]
#[ignore = "alone: loads"]
fn device_with_an_alias_that_is_not_utf_8_is_held() {
    netns::enter();
    ip("link add uplink type veth peer name downlink");
    ip("link set uplink up");
    for device in ["lo", "uplink"] {
        let alias = OsStr::from_bytes(LATIN_1);
        let set = Command::new("ip").args(["link", "set", "dev", device, "alias"]).arg(alias).status();
        assert!(set.unwrap().success());
    }
    let rig = Rig::with(&Config::web(WEB).global("noreuseport")).tables(HOLD).start();
    let load = Load::to([WEB]).rate(1000).start();
    load.until_started(100);
    for _ in 0..3 {
        let receipt = rig.reload().expect_status(0);
        assert_eq!(receipt.at("/listeners/0/rung"), "held-ebpf", "{}", receipt.stdout);
        load.until_further(200);
    }
    load.stop().assert_lossless();
    assert_eq!(rig.log().matches("cannot be read and is left out").count(), 1, "logged once: {}", rig.log());
    // The aliases that could not be read are unchanged.
    let links = Command::new("ip").args(["link", "show"]).output().unwrap().stdout;
    assert_eq!(links.windows(LATIN_1.len()).filter(|bytes| *bytes == LATIN_1).count(), 2);
    assert!(!command("tc", "qdisc show").contains("clsact"));
}
