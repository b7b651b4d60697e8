//! The main job on an embedded default: a real HAProxy reloaded and killed under load, with nothing refused.
//!
//! Three steps, each this same program: as the user, what is missing is installed and reloader is built; as root, the
//! machine is looked at before and after; in namespaces of its own, the demo itself runs. When the innermost process
//! ends, in whatever way, the kernel ends everything in its process namespace with it.

mod events;
mod report;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use reloader_tests::footprint::Footprint;

use crate::packages::{ensure_apt, in_path, run as run_command};
use crate::profile;

/// What `cargo xtask demo` takes.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// The reloader to show: set when this program calls itself as root
    #[arg(long, hide = true)]
    as_root: Option<PathBuf>,
    /// Set when this program calls itself in namespaces of its own
    #[arg(long, hide = true)]
    isolated: Option<PathBuf>,
}

/// Runs the demo; an error when anything was refused, or lost to a reload.
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
    // Files too are gone with the namespace.
    let no_flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), "/run", Some("tmpfs"), no_flags, None::<&str>)
        .context("mounting a tmpfs on /run")?;
    let played = events::play(reloader)?;
    print!("{}", report::text(&played));
    played.verdict()
}
