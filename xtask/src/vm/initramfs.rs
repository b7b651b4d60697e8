//! What a guest has instead of a disk.

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

/// Where the programs that a guest is given are.
const PROGRAMS: &str = "/programs";

/// Programs of this machine that the tests call; busybox stands for all others.
const TOOLS: [&str; 9] = ["haproxy", "ip", "tc", "nft", "bash", "dash", "cp", "unshare", "nsenter"];

/// Below this, what could be saved is not worth the time.
const WORTH_STRIPPING: u64 = 4 << 20;

/// What runs in a guest.
#[derive(Clone, Default)]
pub(crate) struct Load {
    /// One after the other.
    pub(crate) commands: Vec<GuestCommand>,
    /// Roots of other systems, and where they are in the guest.
    pub(crate) trees: Vec<(PathBuf, PathBuf)>,
    /// Further files for `/programs`.
    pub(crate) files: Vec<PathBuf>,
    /// For all commands.
    pub(crate) environment: Vec<(String, String)>,
}

/// A command of a guest.
#[derive(Clone)]
pub(crate) struct GuestCommand {
    /// A program of this machine or a name in the guest's PATH, and its arguments.
    pub(crate) words: Vec<String>,
    /// After this, by the guest's clock, all that it has started is killed.
    pub(crate) limit: Duration,
}

/// Packs guests; what several of them have is packed once. The kernel unpacks one archive after the other.
#[derive(Default)]
pub(super) struct Packer {
    base: OnceLock<Vec<u8>>,
    /// By a kernel's release.
    modules: Mutex<HashMap<String, Arc<Modules>>>,
    /// By a program's path: the archive of it and its libraries.
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
        let mut rest = Guest::default();
        for (folder, target) in &load.trees {
            rest.archive.tree(folder, target, &|path| !path.strip_prefix(target).is_ok_and(is_dead_weight))?;
        }
        let commands = load.commands.iter().map(plan).collect::<Result<Vec<_>>>()?;
        let plan = json!({ "modules": modules.names, "commands": commands, "environment": load.environment });
        rest.archive.file(Path::new("/plan.json"), 0o644, plan.to_string().as_bytes());
        Ok(out.write_all(&rest.archive.finish())?)
    }

    fn base(&self, init: &Path) -> Result<&[u8]> {
        if self.base.get().is_none() {
            let mut guest = Guest::default();
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
        let mut guest = Guest::default();
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
        let mut guest = Guest::default();
        guest.program(path)?;
        let program = Arc::new(guest.archive.finish());
        known.insert(path.to_owned(), Arc::clone(&program));
        Ok(program)
    }
}

/// A command as the guest's init reads it.
fn plan(command: &GuestCommand) -> Result<serde_json::Value> {
    let (program, arguments) = command.words.split_first().context("a guest needs a program")?;
    let path = Path::new(program);
    let inside = if path.is_file() { inside(path)?.display().to_string() } else { program.clone() };
    let words: Vec<&String> = [&inside].into_iter().chain(arguments).collect();
    Ok(json!({ "words": words, "limit-s": command.limit.as_secs() }))
}

/// Where a program of this machine is in the guest.
fn inside(path: &Path) -> Result<PathBuf> {
    Ok(Path::new(PROGRAMS).join(path.file_name().with_context(|| format!("{} has no name", path.display()))?))
}

/// What a system can be booted without.
const DEAD_WEIGHT: [&str; 9] = [
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

fn is_dead_weight(path: &Path) -> bool {
    DEAD_WEIGHT.iter().any(|folder| path == Path::new(folder))
}

#[derive(Default)]
struct Guest {
    archive: Archive,
}

impl Guest {
    fn base(&mut self) -> Result<()> {
        for (link, target) in [("/bin", "usr/bin"), ("/sbin", "usr/sbin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64")]
        {
            self.archive.link(Path::new(link), target);
        }
        for folder in ["/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/var/tmp", "/var/lib", "/etc/iproute2"] {
            self.archive.folder(Path::new(folder));
        }
        self.archive.link(Path::new("/var/run"), "../run");
        // Before init mounts /dev: the kernel opens the one for it, and Rust's runtime the other.
        self.archive.device(Path::new("/dev/console"), (5, 1));
        self.archive.device(Path::new("/dev/null"), (1, 3));
        for file in ["/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/ld.so.cache", "/etc/protocols"] {
            if Path::new(file).exists() {
                self.archive.copy(Path::new(file))?;
            }
        }
        self.archive.file(Path::new("/etc/hosts"), 0o644, b"127.0.0.1 localhost\n::1 localhost\n");
        for tool in TOOLS {
            let path = find(tool).with_context(|| format!("there is no {tool} on this machine"))?;
            self.archive.copy(&path)?;
            self.libraries(&path)?;
        }
        self.archive.link(Path::new("/usr/bin/sh"), "dash");
        self.busybox()
    }

    fn busybox(&mut self) -> Result<()> {
        let path = find("busybox").context("there is no busybox on this machine (package busybox-static)")?;
        self.archive.copy_to(&path, Path::new("/usr/bin/busybox"))?;
        let output = Command::new(&path).arg("--list").output()?;
        for applet in String::from_utf8(output.stdout)?.lines() {
            // The same program in /usr/sbin would be shadowed by the applet.
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

    /// All that the loader would map.
    fn libraries(&mut self, program: &Path) -> Result<()> {
        let output = Command::new("ldd").arg(program).output().context("running ldd (package libc-bin)")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(!text.contains("not found"), "{} lacks libraries:\n{text}", program.display());
        // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)", "/lib64/ld-linux-x86-64.so.2 (0x…)"; a static one has none.
        for word in text.split_ascii_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':')) {
            self.archive.copy(Path::new(word))?;
        }
        Ok(())
    }

    /// Gives their names in the guest, in order.
    fn modules(&mut self, kernel: &Kernel) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for module in modules::in_order(kernel)? {
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

/// Debug information is most of a program that cargo builds for tests. Where there is no `strip`, it is packed as it is.
fn strip(path: &Path, target: &Path) -> bool {
    let mut command = Command::new("strip");
    command.arg("--strip-debug").arg("-o").arg(target).arg(path).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
