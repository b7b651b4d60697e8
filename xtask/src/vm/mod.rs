//! Boots a distribution's kernel in QEMU, without a disk, and runs programs of this machine in it.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use reloader_tests::isolation::IdleGroup;
use reloader_tests::kernels::{self, Kernel};
use reloader_tests::versions::cache_dir;

use crate::packages::{ensure_apt, run as run_command};
use crate::profile;

mod accelerator;
mod archive;
pub(crate) mod carried;
mod initramfs;
mod machine;
mod modules;

pub(crate) use accelerator::Accelerator;
use initramfs::Packer;
pub(crate) use initramfs::{GuestCommand, Load};
use machine::Machine;

/// QEMU, what the guest gets, and what prepares it.
const PACKAGES: [&str; 8] =
    ["qemu-system-x86", "busybox-static", "kmod", "xz-utils", "iproute2", "nftables", "haproxy", "util-linux"];

/// The profile of what runs in a guest; it is built to be static, as it is for old machines.
pub(crate) const PROFILE: &str = "guest";

/// By KVM a guest has booted and ended after a few seconds.
const KVM_LIMIT: Duration = Duration::from_secs(30);

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
    let wanted = kernels::by_line(&arguments.kernel)?;
    let host = Host::prepare()?;
    let kernel = wanted.fetch(&cache_dir())?;
    let mut files = vec![host.program("reloader")];
    files.extend(arguments.files.iter().cloned());
    let limit = Duration::from_secs(arguments.timeout);
    // Not by the guest's clock, on which idle time passes at once where it is emulated: the guest as a whole has the limit.
    let command = GuestCommand { words: arguments.command.clone(), limit: Duration::from_secs(u64::from(u32::MAX)) };
    let load = Load {
        commands: vec![command],
        files,
        trees: Vec::new(),
        environment: environment.context("--env takes NAME=VALUE")?,
    };
    let name = format!("vm-{}-{}", arguments.kernel, std::process::id());
    let verdicts = host.boot(&name, &kernel, &load, limit, |line, _| println!("{line}"))?;
    std::process::exit(verdicts.first().copied().context("the guest gave no verdict")?);
}

/// This machine, able to boot guests.
pub(crate) struct Host {
    programs: PathBuf,
    logs: PathBuf,
    accelerator: Accelerator,
    /// Where its guests get only the time that nothing else wants.
    idle_group: Option<IdleGroup>,
    packer: Packer,
}

impl Host {
    /// Installs and builds what is missing.
    pub(crate) fn prepare() -> Result<Host> {
        let mut build = profile::static_cargo("build", PROFILE);
        run_command(build.args(["--quiet", "--package", "reloader", "--package", "reloader-tests", "--bins"]))?;
        Host::with_programs(profile::static_folder(PROFILE)?)
    }

    /// Installs what is missing. The folder has what cargo has built for a guest.
    pub(crate) fn with_programs(programs: PathBuf) -> Result<Host> {
        ensure_apt(&PACKAGES)?;
        let logs = profile::target_folder()?.join("kernels");
        fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        let (accelerator, packer) = (Accelerator::Kvm, Packer::default());
        let mut host = Host { programs, logs, accelerator, idle_group: None, packer };
        if let Err(error) = host.try_kvm() {
            // A guest that says nothing has last words of many lines.
            let why = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
            host.accelerator = Accelerator::Emulated(why);
        }
        Ok(host)
    }

    /// Boots a guest by it.
    fn try_kvm(&self) -> Result<()> {
        accelerator::may_have_kvm()?;
        let wanted = kernels::TESTED.last().context("a kernel")?;
        let load =
            Load { commands: vec![GuestCommand { words: vec!["true".into()], limit: KVM_LIMIT }], ..Load::default() };
        self.boot("kvm", &wanted.fetch(&cache_dir())?, &load, KVM_LIMIT, |_, _| {}).context("a guest by KVM").map(drop)
    }

    /// From now on its guests get only the time that nothing else on this machine wants: one that is emulated does not notice.
    ///
    /// # Errors
    /// Where the kernel cannot do that.
    pub(crate) fn make_idle(&mut self) -> Result<()> {
        self.idle_group = Some(IdleGroup::create()?);
        Ok(())
    }

    /// Whether it was made so.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle_group.is_some()
    }

    /// One that cargo has built.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Where the guests' consoles are kept.
    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    /// What runs the guests' instructions.
    pub(crate) fn accelerator(&self) -> &Accelerator {
        &self.accelerator
    }

    /// Writes the archive of a guest; what several guests have in theirs is made only once.
    pub(crate) fn pack(&self, kernel: &Kernel, load: &Load, out: &mut impl Write) -> Result<()> {
        self.packer.pack(kernel, &self.program("guest-init"), load, out)
    }

    /// Boots a guest and waits for it: gives the exit status of each command. `name` is that of its files in `logs`. `line` takes
    /// each line that the guest prints, and what the guest has cost until then.
    pub(crate) fn boot(
        &self,
        name: &str,
        kernel: &Kernel,
        load: &Load,
        limit: Duration,
        line: impl FnMut(&str, Duration),
    ) -> Result<Vec<i32>> {
        let console = self.logs.join(format!("{name}.console"));
        // Unnamed, so that it is gone with the guest, even after a kill -9: hundreds of megabytes a run.
        let file = tempfile::tempfile_in(&self.logs)?;
        let mut out = BufWriter::new(&file);
        self.pack(kernel, load, &mut out)?;
        out.flush()?;
        drop(out);
        Machine::start(kernel, file, &console, &self.accelerator, self.idle_group.as_ref())?.run(limit, &console, line)
    }
}
