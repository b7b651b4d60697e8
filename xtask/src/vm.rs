//! Boots a distribution's kernel in QEMU, without a disk, and runs programs of this machine in it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use reloader_tests::kernels::{self, Kernel};
use reloader_tests::versions::cache_dir;

use crate::packages::{ensure_apt, run as run_command};

mod archive;
mod initramfs;
mod machine;
mod modules;

pub(crate) use initramfs::Load;
use machine::Machine;

/// QEMU, what the guest gets, and what prepares it.
const PACKAGES: [&str; 8] =
    ["qemu-system-x86", "busybox-static", "kmod", "xz-utils", "iproute2", "nftables", "haproxy", "util-linux"];

/// What cargo is told when it builds for a guest.
pub(crate) const PROFILE: [&str; 2] = ["--profile", "guest"];

/// What `cargo xtask vm` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which kernel: 5.10, 6.1, 6.12 or newest
    #[arg(long)]
    kernel: String,
    /// Further files for the guest's /programs, which is in its PATH; reloader itself is always there
    #[arg(long = "with", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A variable of the guest's environment
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// After how many seconds the guest is ended
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// A program of this machine, or a name in the guest's PATH, and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs it; the process ends with the program's exit status.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let variable = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment: Option<Vec<_>> = arguments.environment.iter().map(variable).collect();
    let wanted = kernels::wanted(&arguments.kernel)?;
    let host = Host::prepare()?;
    let kernel = wanted.fetch(&cache_dir())?;
    let mut files = vec![host.program("reloader")];
    files.extend(arguments.files.iter().cloned());
    let load = Load {
        commands: vec![arguments.command.clone()],
        files,
        trees: Vec::new(),
        environment: environment.context("--env takes NAME=VALUE")?,
    };
    let limit = Duration::from_secs(arguments.timeout);
    let name = format!("vm-{}-{}", arguments.kernel, std::process::id());
    let verdicts = host.boot(&name, &kernel, &load, limit, |line| println!("{line}"))?;
    std::process::exit(verdicts.first().copied().context("the guest gave no verdict")?);
}

/// This machine, able to boot guests.
pub(crate) struct Host {
    programs: PathBuf,
    logs: PathBuf,
}

impl Host {
    /// Installs and builds what is missing.
    pub(crate) fn prepare() -> Result<Host> {
        ensure_apt(&PACKAGES)?;
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "--package", "reloader", "--package", "reloader-tests", "--bins"]);
        run_command(build.args(PROFILE))?;
        let debug = std::env::current_exe()?.parent().context("a program has a folder")?.to_owned();
        let (programs, logs) = (debug.with_file_name("guest"), debug.with_file_name("kernels"));
        fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        Ok(Host { programs, logs })
    }

    /// One that cargo has built.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Where the guests' consoles are kept.
    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    /// Boots a guest and waits for it: gives the exit status of each command. `name` is that of its files in `logs`.
    pub(crate) fn boot(
        &self,
        name: &str,
        kernel: &Kernel,
        load: &Load,
        limit: Duration,
        line: impl FnMut(&str),
    ) -> Result<Vec<i32>> {
        let console = self.logs.join(format!("{name}.console"));
        let content = initramfs::build(kernel, &self.program("guest-init"), load)?;
        // Hundreds of megabytes a run, gone at its end; a name that no other run has, which would take it away.
        let mut file = tempfile::Builder::new().prefix(name).suffix(".cpio").tempfile_in(&self.logs)?;
        file.write_all(&content).with_context(|| file.path().display().to_string())?;
        Machine::start(kernel, file.path(), &console)?.run(limit, &console, line)
    }
}
