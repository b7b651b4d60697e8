//! Packs the file system of a guest, which has no disk.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reloader_tests::kernels::Kernel;
use serde_json::json;

use super::archive::Archive;
use super::modules;

/// The folder in the guest for the programs that it is given.
const PROGRAMS: &str = "/programs";

/// Programs of this machine that the tests call; busybox provides all others.
const TOOLS: [&str; 9] = ["haproxy", "ip", "tc", "nft", "bash", "dash", "cp", "unshare", "nsenter"];

/// The size in bytes from which stripping a program is worth its time.
const WORTH_STRIPPING: u64 = 4 << 20;

/// The commands of a guest and the files that they need.
#[derive(Clone, Default)]
pub(crate) struct Load {
    /// The commands, run one after the other.
    pub(crate) commands: Vec<GuestCommand>,
    /// Root file systems on this machine, and their paths in the guest.
    pub(crate) trees: Vec<(PathBuf, PathBuf)>,
    /// Further files for `/programs`.
    pub(crate) files: Vec<PathBuf>,
    /// The environment of all commands.
    pub(crate) environment: Vec<(String, String)>,
}

/// A command of a guest.
#[derive(Clone)]
pub(crate) struct GuestCommand {
    /// A program of this machine or a name in the guest's PATH, and its arguments.
    pub(crate) words: Vec<String>,
    /// After this time on the guest's clock, every process of the command is killed.
    pub(crate) limit: Duration,
}

/// Packs guests. Archives that several guests share are made once; the kernel unpacks one archive after the other.
#[derive(Default)]
pub(super) struct Packer {
    base: OnceLock<Vec<u8>>,
    /// By the kernel's release.
    modules: Mutex<HashMap<String, Arc<Modules>>>,
    /// By the program's path: the archive of the program and its libraries.
    programs: Mutex<HashMap<PathBuf, Arc<Vec<u8>>>>,
}

/// The archive of a kernel's modules.
struct Modules {
    archive: Vec<u8>,
    /// In the order in which they can be loaded.
    names: Vec<String>,
}

impl Packer {
    /// Writes the archive of a guest.
    pub(super) fn pack(&self, kernel: &Kernel, init: &Path, load: &Load, out: &mut impl Write) -> Result<()> {
        out.write_all(self.base(init)?)?;
        let modules = self.modules(kernel)?;
        out.write_all(&modules.archive)?;
        let commands = load.commands.iter().map(|command| command.words.first()).map(|program| program.map(Path::new));
        let given =
            commands.flatten().filter(|program| program.is_file()).chain(load.files.iter().map(PathBuf::as_path));
        for program in given.collect::<BTreeSet<_>>() {
            out.write_all(&self.program(program)?)?;
        }
        let mut rest = GuestArchive::default();
        for (folder, target) in &load.trees {
            rest.archive.tree(folder, target, &|path| !path.strip_prefix(target).is_ok_and(is_unneeded))?;
        }
        let commands = load.commands.iter().map(plan).collect::<Result<Vec<_>>>()?;
        let plan = json!({ "modules": modules.names, "commands": commands, "environment": load.environment });
        rest.archive.file(Path::new("/plan.json"), 0o644, plan.to_string().as_bytes());
        Ok(out.write_all(&rest.archive.finish())?)
    }

    fn base(&self, init: &Path) -> Result<&[u8]> {
        if self.base.get().is_none() {
            let mut guest = GuestArchive::default();
            guest.base()?;
            guest.archive.copy_to(init, Path::new("/init"))?;
            guest.libraries(init)?;
            let _ = self.base.set(guest.archive.finish());
        }
        self.base.get().map(Vec::as_slice).context("set before")
    }

    fn modules(&self, kernel: &Kernel) -> Result<Arc<Modules>> {
        let mut known = self.modules.lock().expect("no packer panics");
        if let Some(modules) = known.get(&kernel.release) {
            return Ok(Arc::clone(modules));
        }
        let mut guest = GuestArchive::default();
        let names = guest.modules(kernel)?;
        let modules = Arc::new(Modules { archive: guest.archive.finish(), names });
        known.insert(kernel.release.clone(), Arc::clone(&modules));
        Ok(modules)
    }

    fn program(&self, path: &Path) -> Result<Arc<Vec<u8>>> {
        let mut known = self.programs.lock().expect("no packer panics");
        if let Some(program) = known.get(path) {
            return Ok(Arc::clone(program));
        }
        let mut guest = GuestArchive::default();
        guest.program(path)?;
        let program = Arc::new(guest.archive.finish());
        known.insert(path.to_owned(), Arc::clone(&program));
        Ok(program)
    }
}

/// The description of a command that the guest's init reads.
fn plan(command: &GuestCommand) -> Result<serde_json::Value> {
    let (program, arguments) = command.words.split_first().context("a guest needs a program")?;
    let path = Path::new(program);
    let inside = if path.is_file() { inside(path)?.display().to_string() } else { program.clone() };
    let words: Vec<&String> = [&inside].into_iter().chain(arguments).collect();
    Ok(json!({ "words": words, "limit-s": command.limit.as_secs() }))
}

/// The path in the guest of a program of this machine.
fn inside(path: &Path) -> Result<PathBuf> {
    Ok(Path::new(PROGRAMS).join(path.file_name().with_context(|| format!("{} has no name", path.display()))?))
}

/// Folders without which a system still boots.
const UNNEEDED: [&str; 9] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/zoneinfo",
    "usr/share/i18n",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
];

fn is_unneeded(path: &Path) -> bool {
    UNNEEDED.iter().any(|folder| path == Path::new(folder))
}

#[derive(Default)]
struct GuestArchive {
    archive: Archive,
}

impl GuestArchive {
    fn base(&mut self) -> Result<()> {
        for (link, target) in [("/bin", "usr/bin"), ("/sbin", "usr/sbin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")]
        {
            self.archive.link(Path::new(link), target);
        }
        for folder in ["/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/var/tmp", "/var/lib", "/etc/iproute2"] {
            self.archive.folder(Path::new(folder));
        }
        self.archive.link(Path::new("/var/run"), "../run");
        // Needed before init mounts /dev: the kernel opens the console, and Rust's runtime opens /dev/null.
        self.archive.device(Path::new("/dev/console"), (5, 1));
        self.archive.device(Path::new("/dev/null"), (1, 3));
        for file in ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/ld.so.cache", "/etc/protocols"] {
            if Path::new(file).exists() {
                self.archive.copy(Path::new(file))?;
            }
        }
        self.archive.file(Path::new("/etc/hosts"), 0o644, b"127.0.0.1 localhost\n::1 localhost\n");
        for tool in TOOLS {
            let path = find(tool).with_context(|| format!("{tool} was not found on this machine"))?;
            self.archive.copy(&path)?;
            self.libraries(&path)?;
        }
        self.archive.link(Path::new("/usr/bin/sh"), "dash");
        self.busybox()
    }

    fn busybox(&mut self) -> Result<()> {
        let path = find("busybox").context("busybox was not found on this machine (package busybox-static)")?;
        self.archive.copy_to(&path, Path::new("/usr/bin/busybox"))?;
        let output = Command::new(&path).arg("--list").output()?;
        for applet in String::from_utf8(output.stdout)?.lines() {
            // The applet would shadow the program of the same name in /usr/sbin.
            if !TOOLS.contains(&applet) {
                self.archive.link(&Path::new("/usr/bin").join(applet), "busybox");
            }
        }
        Ok(())
    }

    fn program(&mut self, path: &Path) -> Result<()> {
        let target = inside(path)?;
        let stripped = tempfile::NamedTempFile::new()?;
        let size = path.metadata().with_context(|| path.display().to_string())?.len();
        if size > WORTH_STRIPPING && strip(path, stripped.path()) {
            self.archive.file(&target, 0o755, &std::fs::read(stripped.path())?);
        } else {
            self.archive.copy_to(path, &target)?;
        }
        self.libraries(path)
    }

    /// Adds every library that the loader would map.
    fn libraries(&mut self, program: &Path) -> Result<()> {
        let output = Command::new("ldd").arg(program).output().context("running ldd (package libc-bin)")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(!text.contains("not found"), "libraries of {} are missing:\n{text}", program.display());
        // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)", "/lib64/ld-linux-x86-64.so.2 (0x…)"; a static program has none.
        for word in text.split_ascii_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':')) {
            self.archive.copy(Path::new(word))?;
        }
        Ok(())
    }

    /// Adds the kernel's modules and gives their paths in the guest, in loading order.
    fn modules(&mut self, kernel: &Kernel) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for module in modules::in_loading_order(kernel)? {
            let path = format!("/modules/{}.ko", module.name);
            self.archive.file(Path::new(&path), 0o644, &module.content);
            names.push(path);
        }
        Ok(names)
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    folders.into_iter().map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Strips debug information, which is most of a program that cargo builds for tests. False where there is no `strip`: then the program is
/// packed unchanged.
fn strip(path: &Path, target: &Path) -> bool {
    let mut command = Command::new("strip");
    command.arg("--strip-debug").arg("-o").arg(target).arg(path).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
