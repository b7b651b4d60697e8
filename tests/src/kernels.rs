//! Distributions' kernels, fetched once and kept outside the source tree, to be booted in a virtual machine.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::versions::apt;

/// The kernels that every release of reloader is tested with, oldest first.
pub const TESTED: &[TestedKernel] = &[
    TestedKernel { line: "5.10", suite: "bullseye", retired: false },
    TestedKernel { line: "6.1", suite: "bookworm", retired: false },
    TestedKernel { line: "6.12", suite: "trixie", retired: false },
    // Whatever sid has by now.
    TestedKernel { line: "newest", suite: "sid", retired: false },
];

/// For machines in a cloud: everything that reloader needs of a kernel, little else.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel and its origin.
#[derive(Debug, Clone, Copy)]
pub struct TestedKernel {
    /// `6.1`
    pub line: &'static str,
    suite: &'static str,
    /// No longer to be had: its absence is reported and fails nothing.
    pub retired: bool,
}

impl fmt::Display for TestedKernel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = if self.retired { ", retired" } else { "" };
        write!(out, "Linux {} (Debian {}{note})", self.line, self.suite)
    }
}

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What it calls itself: `6.1.0-40-cloud-amd64`.
    pub release: String,
    /// The bootable file.
    pub image: PathBuf,
    /// Where its modules and `modules.dep` are.
    pub modules: PathBuf,
}

/// The one of this line; an error that names those which there are.
pub fn by_line(line: &str) -> Result<&'static TestedKernel> {
    let lines: Vec<&str> = TESTED.iter().map(|kernel| kernel.line).collect();
    let found = TESTED.iter().find(|kernel| kernel.line == line);
    found.with_context(|| format!("there is no kernel `{line}`, but {}", lines.join(", ")))
}

impl TestedKernel {
    /// From the cache, or fetched into it. Needs `dpkg` and `depmod` (package kmod).
    pub fn fetch(&self, cache: &Path) -> Result<Kernel> {
        self.cached_or_fetched(cache).with_context(|| format!("{self} cannot be had"))
    }

    fn cached_or_fetched(&self, cache: &Path) -> Result<Kernel> {
        let home = cache.join("kernels");
        fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
        let lock = File::create(home.join("lock"))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
        let folder = home.join(self.line);
        let kept = folder.join("release");
        if let Ok(release) = fs::read_to_string(&kept)
            && let Ok(kernel) = find(&folder.join("root"), &release)
        {
            return Ok(kernel);
        }
        eprintln!("fetching {self}");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let tree = apt::unpack(self.suite, PACKAGE, "linux-", &folder)?;
        if !tree.join("lib/modules").exists() {
            std::os::unix::fs::symlink("usr/lib", tree.join("lib"))?;
        }
        let release = release_in(&tree)?;
        apt::run(Command::new("depmod").arg("-b").arg(&tree).arg(&release))?;
        let kernel = find(&tree, &release)?;
        // Written last: its presence says that the folder is whole.
        fs::write(&kept, release)?;
        Ok(kernel)
    }
}

fn release_in(tree: &Path) -> Result<String> {
    let mut entries = fs::read_dir(tree.join("lib/modules")).context("the packages hold no modules")?;
    let entry = entries.next().context("the packages hold no modules")??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

fn find(tree: &Path, release: &str) -> Result<Kernel> {
    let modules = tree.join("lib/modules").join(release);
    // Debian has moved it in 6.19.
    let images = [tree.join("boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")];
    let image = images.into_iter().find(|path| path.exists()).context("the packages hold no kernel")?;
    let index = modules.join("modules.dep");
    ensure!(index.exists(), "there is no {}", index.display());
    Ok(Kernel { release: release.to_owned(), image, modules })
}
