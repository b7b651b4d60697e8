//! Demonstrates reloader: a real HAProxy is reloaded and killed under load, and no connection is refused.
//!
//! This program runs itself in three stages. As the user, it installs missing packages and builds reloader. As root, it compares the machine
//! before and after. In namespaces of its own, it runs the demo. When the innermost process ends, for whatever reason, the kernel ends every
//! process in its process namespace.

mod events;
mod report;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use reloader_tests::footprint::Footprint;

use crate::packages::{ensure_apt, in_path, run as run_command};
use crate::profile;

/// The arguments of `cargo xtask demo`.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// The reloader to show: set when this program calls itself as root
    #[arg(long, hide = true)]
    as_root: Option<PathBuf>,
    /// Set when this program calls itself in namespaces of its own
    #[arg(long, hide = true)]
    isolated: Option<PathBuf>,
}

/// Runs the demo.
///
/// # Errors
/// If a connection was refused, or lost to a reload.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match (&arguments.isolated, &arguments.as_root) {
        (Some(reloader), _) => isolated(reloader),
        (None, Some(reloader)) => as_root(reloader),
        (None, None) => as_user(),
    }
}

fn as_user() -> anyhow::Result<()> {
    ensure_apt(&["haproxy", "iproute2", "util-linux"])?;
    run_command(&mut profile::build_programs("dev"))?;
    let reloader = crate::program().with_file_name("reloader");
    if rustix::process::geteuid().is_root() {
        return as_root(&reloader);
    }
    ensure!(
        in_path("sudo"),
        "the demo needs root, for a network namespace of its own, and there is no sudo: run it as root"
    );
    run_command(Command::new("sudo").arg(crate::program()).args(["demo", "--as-root"]).arg(&reloader))
}

fn as_root(reloader: &Path) -> anyhow::Result<()> {
    let before = Footprint::take_with_bpf(reloader);
    let demo = crate::program();
    let status = Command::new("unshare")
        .args(["--fork", "--pid", "--mount-proc", "--mount", "--kill-child", "--"])
        .arg(demo)
        .args(["demo", "--isolated"])
        .arg(reloader)
        .status()
        .context("could not start unshare (package util-linux)")?;
    let left = before.left_behind();
    ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    println!("left behind: nothing (interfaces, qdiscs, filters, eBPF programs and maps, processes)");
    ensure!(status.success(), "the demo failed: {status}");
    Ok(())
}

fn isolated(reloader: &Path) -> anyhow::Result<()> {
    // With a tmpfs in the namespace, the files disappear too.
    let no_flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), "/run", Some("tmpfs"), no_flags, None::<&str>)
        .context("mounting a tmpfs on /run")?;
    let played = events::play(reloader)?;
    print!("{}", report::text(&played));
    played.verdict()
}
