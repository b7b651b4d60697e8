//! Everything that is tested: what needs no privilege first, then the integration tests against real HAProxy, then those
//! that depend on the kernel on others than this machine's.

use std::process::Command;

use anyhow::ensure;
use reloader_tests::{booted, quic, versions};

use crate::packages::{ensure_apt, run as run_command};

mod ladder;
mod libtest;
mod matrix;
mod rows;
mod table;

/// What the integration tests call: the server, the tools that check from outside, and what unpacks other versions.
const PACKAGES: [&str; 12] = [
    "debootstrap",
    "haproxy",
    "iproute2",
    "iptables",
    "lighttpd",
    "nftables",
    "nginx-light",
    "openssl",
    "patchelf",
    "python3-pip",
    "systemd-container",
    "util-linux",
];

/// What `cargo xtask test` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only on this machine's kernel
    #[arg(long, conflicts_with = "kernels")]
    host: bool,
    /// Only in virtual machines, on distributions' kernels
    #[arg(long)]
    kernels: bool,
    /// With --kernels: only on this one
    #[arg(long, requires = "kernels", value_name = "LINE")]
    kernel: Option<String>,
    /// With --kernels: only the rows of this name
    #[arg(long, requires = "kernels", value_name = "NAME")]
    row: Option<String>,
}

/// Runs what is asked for. What fails on this machine's kernel does not keep the others from telling what they have to tell.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let host = if arguments.kernels { Ok(()) } else { on_host() };
    if let Err(error) = &host {
        eprintln!("on this machine's kernel: {error}");
    }
    let kernels =
        if arguments.host { Ok(()) } else { matrix::run(arguments.kernel.as_deref(), arguments.row.as_deref()) };
    host.and(kernels)
}

fn on_host() -> anyhow::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    run_command(cargo("test").args(["--workspace", "--exclude", "reloader-tests"]))?;
    ensure!(
        is_root,
        "the unit tests passed. The integration tests were not run: each makes a network namespace of its own, loads eBPF \
         programs and supervises a HAProxy that changes its user, which takes root. Run `sudo -E env PATH=$PATH cargo xtask test`"
    );
    ensure_apt(&PACKAGES)?;
    versions::fetch_all(&versions::cache_dir())?.complete()?;
    quic::fetch(&versions::cache_dir())?;
    booted::fetch(&versions::cache_dir())?;
    booted::fetch_sysvinit(&versions::cache_dir())?;
    run_command(cargo("build").args(["--package", "reloader", "--package", "reloader-tests", "--bins"]))?;
    // Two at a time on this kind of machine would measure each other.
    run_command(cargo("test").args(["--package", "reloader-tests", "--no-fail-fast", "--", "--test-threads=1"]))
}

fn cargo(task: &str) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args([task, "--locked"]);
    command
}
