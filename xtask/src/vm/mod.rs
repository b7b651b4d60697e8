//! Boots a distribution's kernel in QEMU without a disk, and runs programs of this machine in it.

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

/// The packages of QEMU, of the tools that prepare a guest, and of the programs in it.
const PACKAGES: [&str; 8] =
    ["qemu-system-x86", "busybox-static", "kmod", "xz-utils", "iproute2", "nftables", "haproxy", "util-linux"];

/// The cargo profile of programs in a guest. They are static, as the published program for old machines is.
pub(crate) const PROFILE: &str = "guest";

/// With KVM a guest boots and ends within a few seconds.
const KVM_LIMIT: Duration = Duration::from_secs(30);

/// The arguments of `cargo xtask vm`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The kernel: 5.10, 6.1, 6.12 or newest
    #[arg(long)]
    kernel: String,
    /// A further file for the guest's /programs, which is in its PATH and always contains reloader
    #[arg(long = "with", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A variable of the guest's environment
    #[arg(long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// The time limit of the guest, in seconds
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// A program of this machine, or a name in the guest's PATH, and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the command in a guest. This process then ends with the exit status of the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let variable = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment: Option<Vec<_>> = arguments.environment.iter().map(variable).collect();
    let wanted = kernels::by_line(&arguments.kernel)?;
    let host = Host::prepare()?;
    let kernel = wanted.fetch(&cache_dir())?;
    let mut files = vec![host.program("reloader")];
    files.extend(arguments.files.iter().cloned());
    let limit = Duration::from_secs(arguments.timeout);
    // The limit applies to the guest as a whole. The command has none, because an emulated guest's clock skips idle time.
    let command = GuestCommand { words: arguments.command.clone(), limit: Duration::from_secs(u64::from(u32::MAX)) };
    let load = Load {
        commands: vec![command],
        files,
        trees: Vec::new(),
        environment: environment.context("--env takes NAME=VALUE")?,
    };
    let name = format!("vm-{}-{}", arguments.kernel, std::process::id());
    let guest = GuestSpec { name: &name, kernel: &kernel, load: &load, limit };
    let verdicts = host.boot(&guest, |line, _| println!("{line}"))?;
    std::process::exit(verdicts.first().copied().context("the guest gave no verdict")?);
}

/// This machine, prepared to boot guests.
pub(crate) struct Host {
    programs: PathBuf,
    logs: PathBuf,
    accelerator: Accelerator,
    /// The control group in which guests get only idle processor time.
    idle_group: Option<IdleGroup>,
    packer: Packer,
}

/// A guest to boot.
pub(crate) struct GuestSpec<'a> {
    /// The name of its files in [`Host::logs`].
    pub(crate) name: &'a str,
    pub(crate) kernel: &'a Kernel,
    pub(crate) load: &'a Load,
    /// The limit of the guest's cost. A guest that reaches it is ended.
    pub(crate) limit: Duration,
}

impl Host {
    /// Installs missing packages and builds the programs.
    pub(crate) fn prepare() -> Result<Host> {
        let mut build = profile::static_cargo("build", PROFILE);
        run_command(build.args(["--quiet", "--package", "reloader", "--package", "reloader-tests", "--bins"]))?;
        Host::with_programs(profile::static_folder(PROFILE)?)
    }

    /// Installs missing packages. The folder contains the programs that cargo has built for guests.
    pub(crate) fn with_programs(programs: PathBuf) -> Result<Host> {
        ensure_apt(&PACKAGES)?;
        let logs = profile::target_folder()?.join("kernels");
        fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        let (accelerator, packer) = (Accelerator::Kvm, Packer::default());
        let mut host = Host { programs, logs, accelerator, idle_group: None, packer };
        if let Err(error) = host.try_kvm() {
            // The error of a guest that does not boot has many lines.
            let reason = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
            host.accelerator = Accelerator::Emulated(reason);
        }
        Ok(host)
    }

    /// Boots a guest with KVM.
    fn try_kvm(&self) -> Result<()> {
        accelerator::may_have_kvm()?;
        let wanted = kernels::TESTED.last().context("a kernel")?;
        let load =
            Load { commands: vec![GuestCommand { words: vec!["true".into()], limit: KVM_LIMIT }], ..Load::default() };
        let kernel = wanted.fetch(&cache_dir())?;
        let guest = GuestSpec { name: "kvm", kernel: &kernel, load: &load, limit: KVM_LIMIT };
        self.boot(&guest, |_, _| {}).context("booting a guest with KVM").map(drop)
    }

    /// Makes guests run only when the processor is otherwise idle. An emulated guest does not notice it.
    ///
    /// # Errors
    /// If the kernel does not support idle control groups.
    pub(crate) fn make_idle(&mut self) -> Result<()> {
        self.idle_group = Some(IdleGroup::create()?);
        Ok(())
    }

    /// Whether guests run only when the processor is otherwise idle.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle_group.is_some()
    }

    /// The path of a program that cargo has built.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The directory of the guests' consoles.
    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    /// How guests are run.
    pub(crate) fn accelerator(&self) -> &Accelerator {
        &self.accelerator
    }

    /// Writes the archive of a guest. Parts that several guests share are made once.
    pub(crate) fn pack(&self, kernel: &Kernel, load: &Load, out: &mut impl Write) -> Result<()> {
        self.packer.pack(kernel, &self.program("guest-init"), load, out)
    }

    /// Boots a guest, waits for its end, and gives the exit status of each command. `on_line` gets each line that the guest prints, and the
    /// cost of the guest until then.
    pub(crate) fn boot(&self, guest: &GuestSpec<'_>, on_line: impl FnMut(&str, Duration)) -> Result<Vec<i32>> {
        let console = self.logs.join(format!("{}.console", guest.name));
        // The archive takes hundreds of megabytes. It has no name, so it disappears with the guest, even after a kill -9.
        let file = tempfile::tempfile_in(&self.logs)?;
        let mut out = BufWriter::new(&file);
        self.pack(guest.kernel, guest.load, &mut out)?;
        out.flush()?;
        drop(out);
        let idle_group = self.idle_group.as_ref();
        let machine = Machine::start(guest.kernel, file, &console, &self.accelerator, idle_group)?;
        machine.run(guest.limit, &console, on_line)
    }
}
