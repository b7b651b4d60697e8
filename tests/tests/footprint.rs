//! Checks that the footprint shows each kind of thing that could be left behind.

use std::process::{Command, Stdio};

use reloader_tests::footprint::Footprint;
use reloader_tests::netns;

#[test]
fn footprint_shows_links_qdiscs_and_processes() {
    netns::enter();
    let dir = tempfile::tempdir().unwrap();
    let before = Footprint::take(dir.path());
    before.assert_unchanged();

    netns::ip(&["link", "add", "left", "type", "veth", "peer", "name", "other"]);
    let added = Command::new("tc").args(["qdisc", "add", "dev", "left", "clsact"]).status().unwrap();
    assert!(added.success());
    let mut process = Command::new("sh");
    process.args(["-c", "read line", dir.path().to_str().unwrap()]).stdin(Stdio::piped());
    let mut process = process.spawn().unwrap();
    let changes = before.changes();
    for kind in ["left", "qdisc: ", "process "] {
        assert!(changes.iter().any(|change| change.starts_with('+') && change.contains(kind)), "{kind}: {changes:?}");
    }

    process.kill().unwrap();
    process.wait().unwrap();
    netns::ip(&["link", "delete", "left"]);
    before.assert_unchanged();
}
