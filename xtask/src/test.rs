//! Everything that is tested: what needs no privilege first, then the integration tests against real HAProxy.

use std::process::Command;

use anyhow::ensure;
use reloader_tests::versions;

use crate::packages::{ensure_apt, run as run_command};

/// What the integration tests call: the server, the tools that check from outside, and what unpacks other versions.
const PACKAGES: [&str; 7] = ["haproxy", "iproute2", "nftables", "nginx-light", "patchelf", "python3-pip", "util-linux"];

/// Runs all tests.
pub(crate) fn run() -> anyhow::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    run_command(cargo("test").args(["--workspace", "--exclude", "reloader-tests"]))?;
    ensure!(
        is_root,
        "the unit tests passed. The integration tests were not run: each makes a network namespace of its own, loads eBPF \
         programs and supervises a HAProxy that changes its user, which takes root. Run `sudo -E env PATH=$PATH cargo xtask test`"
    );
    ensure_apt(&PACKAGES)?;
    versions::fetch_all(&versions::cache_dir())?.complete()?;
    run_command(cargo("build").args(["--package", "reloader"]))?;
    // Two at a time on this kind of machine would measure each other.
    run_command(cargo("test").args(["--package", "reloader-tests", "--no-fail-fast", "--", "--test-threads=1"]))
}

fn cargo(task: &str) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args([task, "--locked"]);
    command
}
