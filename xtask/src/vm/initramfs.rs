//! What a guest has instead of a disk.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
    /// One after the other, each with its arguments; a program of this machine or a name in the guest's PATH.
    pub(crate) commands: Vec<Vec<String>>,
    /// Roots of other systems, and where they are in the guest.
    pub(crate) trees: Vec<(PathBuf, PathBuf)>,
    /// Further files for `/programs`.
    pub(crate) files: Vec<PathBuf>,
    /// For all commands.
    pub(crate) environment: Vec<(String, String)>,
}

/// Pack it.
pub(super) fn build(kernel: &Kernel, init: &Path, load: &Load) -> Result<Vec<u8>> {
    let mut guest = Guest::default();
    guest.base()?;
    guest.archive.copy_to(init, Path::new("/init"))?;
    guest.libraries(init)?;
    for path in &load.files {
        guest.program(path)?;
    }
    for (folder, target) in &load.trees {
        guest.archive.tree(folder, target, &|path| !path.strip_prefix(target).is_ok_and(is_dead_weight))?;
    }
    let commands = load.commands.iter().map(|words| guest.command(words)).collect::<Result<Vec<_>>>()?;
    let modules = guest.modules(kernel)?;
    let plan = json!({ "modules": modules, "commands": commands, "environment": load.environment });
    guest.archive.file(Path::new("/plan.json"), 0o644, plan.to_string().as_bytes());
    Ok(guest.archive.finish())
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

    fn command(&mut self, words: &[String]) -> Result<Vec<String>> {
        let (program, arguments) = words.split_first().context("a guest needs a program")?;
        let path = Path::new(program);
        let inside = if path.is_file() { self.program(path)? } else { program.clone() };
        Ok([inside].into_iter().chain(arguments.iter().cloned()).collect())
    }

    /// Gives its name in the guest.
    fn program(&mut self, path: &Path) -> Result<String> {
        let name = path.file_name().with_context(|| format!("{} has no name", path.display()))?;
        let target = Path::new(PROGRAMS).join(name);
        let stripped = tempfile::NamedTempFile::new()?;
        let size = path.metadata().with_context(|| path.display().to_string())?.len();
        if size > WORTH_STRIPPING && strip(path, stripped.path()) {
            self.archive.file(&target, 0o755, &std::fs::read(stripped.path())?);
        } else {
            self.archive.copy_to(path, &target)?;
        }
        self.libraries(path)?;
        Ok(target.display().to_string())
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
