//! Fetches a package of another suite than the host's, with the libraries of that suite. It uses a separate apt root,
//! so that the host's sources and packages stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::elf;
use super::sources::{Mirror, mirror};

/// Unpacks `package` and its dependencies under `folder`. Patches `executable` so that it runs on this host, and returns
/// its path.
pub(super) fn fetch(suite: &str, package: &str, executable: &str, folder: &Path) -> Result<PathBuf> {
    let tree = unpack(suite, package, "", folder)?;
    let executable = tree.join(executable);
    elf::patch(&executable, &tree)?;
    Ok(executable)
}

/// Unpacks `package` under `folder`, together with the dependencies whose name begins with `prefix`. Returns the
/// directory of the unpacked tree.
pub(crate) fn unpack(suite: &str, package: &str, prefix: &str, folder: &Path) -> Result<PathBuf> {
    let root = Root::create(&mirror()?, suite, &folder.join("apt"))?;
    root.run(&["update"])?;
    // With an empty status file no package counts as installed: every dependency is resolved within the suite.
    root.run(&["install", "--yes", "--no-install-recommends", "--download-only", "--target-release", suite, package])?;
    let tree = folder.join("root");
    for package in root.downloaded(prefix)? {
        run(Command::new("dpkg").arg("-x").arg(&package).arg(&tree))?;
    }
    fs::remove_dir_all(&root.dir)?;
    Ok(tree)
}

struct Root {
    dir: PathBuf,
}

impl Root {
    fn create(mirror: &Mirror, suite: &str, dir: &Path) -> Result<Root> {
        let folders = ["etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/dpkg", "var/lib/apt/lists/partial"];
        for folder in folders.into_iter().chain(["var/cache/apt/archives/partial"]) {
            fs::create_dir_all(dir.join(folder))?;
        }
        fs::write(dir.join("var/lib/dpkg/status"), "")?;
        let options = mirror.signed_by.as_ref().map(|keys| format!("[signed-by={keys}] ")).unwrap_or_default();
        let line = |suite: &str| format!("deb {options}{} {suite} main\n", mirror.uri);
        let sources: String = std::iter::once(suite).chain(base_of(suite)).map(line).collect();
        fs::write(dir.join("etc/apt/sources.list"), sources)?;
        Ok(Root { dir: dir.to_owned() })
    }

    fn run(&self, args: &[&str]) -> Result<()> {
        let dir = self.dir.display();
        let mut command = Command::new("apt-get");
        for option in [
            format!("Dir={dir}"),
            format!("Dir::State::status={dir}/var/lib/dpkg/status"),
            "Dir::Bin::methods=/usr/lib/apt/methods".into(),
            "Dir::Etc::trustedparts=/etc/apt/trusted.gpg.d".into(),
            // The user _apt may not be allowed to read the cache's directory.
            "APT::Sandbox::User=root".into(),
            // An incomplete list is an error, not a warning.
            "APT::Update::Error-Mode=any".into(),
            "Acquire::Retries=3".into(),
        ] {
            command.arg("-o").arg(option);
        }
        run(command.arg("-qq").args(args))
    }

    fn downloaded(&self, prefix: &str) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.dir.join("var/cache/apt/archives"))?;
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let named = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        let is_package = |path: &Path| path.extension().is_some_and(|extension| extension == "deb");
        Ok(paths.into_iter().filter(|path| is_package(path) && named(path)).collect())
    }
}

/// The suite that has the libraries of a suite that is not complete.
fn base_of(suite: &str) -> Option<&'static str> {
    (suite == "experimental").then_some("sid")
}

/// Runs a command. The end of its error output becomes the error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").output();
    let done = done.map_err(|error| anyhow::anyhow!("running {name}: {error}"))?;
    let errors = String::from_utf8_lossy(&done.stderr);
    let last: Vec<&str> = errors.lines().filter(|line| !line.starts_with("W:")).collect();
    ensure!(done.status.success(), "{name}: {}: {}", done.status, last[last.len().saturating_sub(3)..].join("; "));
    Ok(())
}
