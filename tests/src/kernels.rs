//! Fetches distributions' kernels once, and caches them outside the source tree. They are booted in virtual machines.

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
    // The version that sid has at the time.
    TestedKernel { line: "newest", suite: "sid", retired: false },
];

/// Debian's kernel for cloud machines. It has everything that reloader needs of a kernel, and little else.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel and its origin.
#[derive(Debug, Clone, Copy)]
pub struct TestedKernel {
    /// `6.1`
    pub line: &'static str,
    suite: &'static str,
    /// Whether Debian no longer offers it. Its absence is then reported and fails no test.
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
    /// The release that it reports: `6.1.0-40-cloud-amd64`.
    pub release: String,
    /// The bootable file.
    pub image: PathBuf,
    /// The directory of its modules and of `modules.dep`.
    pub modules: PathBuf,
}

/// The kernel of this line.
///
/// # Errors
/// If there is none, with the names of the others.
pub fn by_line(line: &str) -> Result<&'static TestedKernel> {
    let lines: Vec<&str> = TESTED.iter().map(|kernel| kernel.line).collect();
    let found = TESTED.iter().find(|kernel| kernel.line == line);
    found.with_context(|| format!("unknown kernel `{line}`; known kernels: {}", lines.join(", ")))
}

impl TestedKernel {
    /// Gives the kernel from the cache, or fetches it. Needs `dpkg` and `depmod` (package kmod).
    ///
    /// # Errors
    /// If it cannot be fetched.
    pub fn fetch(&self, cache: &Path) -> Result<Kernel> {
        self.cached_or_fetched(cache).with_context(|| format!("{self} is not available"))
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
        // Written last: it marks the folder as complete.
        fs::write(&kept, release)?;
        Ok(kernel)
    }
}

fn release_in(tree: &Path) -> Result<String> {
    let mut entries = fs::read_dir(tree.join("lib/modules")).context("the packages contain no modules")?;
    let entry = entries.next().context("the packages contain no modules")??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

fn find(tree: &Path, release: &str) -> Result<Kernel> {
    let modules = tree.join("lib/modules").join(release);
    // Debian has moved the image in 6.19.
    let images = [tree.join("boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")];
    let image = images.into_iter().find(|path| path.exists()).context("the packages contain no kernel")?;
    let index = modules.join("modules.dep");
    ensure!(index.exists(), "{} is missing", index.display());
    Ok(Kernel { release: release.to_owned(), image, modules })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::table;

    #[test]
    fn the_documented_kernels_are_the_tested_ones() {
        let documented = table("docs/reference/kernels.md", "## Tested kernels");
        let tested: Vec<_> =
            TESTED.iter().map(|kernel| vec![kernel.line.to_owned(), kernel.suite.to_owned()]).collect();
        assert_eq!(documented, tested);
    }
}
