//! Finds or installs the compiler, its sources and the linker, in the versions that built the committed objects.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::output_of;
use crate::packages::{ensure_apt, in_path, run, update_apt};

const RUST: &str = "1.96.0";
const BPF_LINKER: &str = "0.10.3";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];

/// The origin of the compiler. The sources of `core` must have the same version, because `-Z build-std` compiles them.
pub(super) enum Toolchain {
    /// Debian's `rustc-web`, called by the cargo that runs this task.
    Debian {
        /// The version of LLVM that `rustc -vV` prints, for example 22.1.8.
        llvm: String,
    },
    /// A toolchain of rustup's, with its component `rust-src`.
    Rustup,
}

impl Toolchain {
    /// The installed toolchain. If there is none, it is installed from Debian's packages.
    pub(super) fn find_or_install() -> anyhow::Result<Self> {
        let toolchain = match Self::find() {
            Some(toolchain) => toolchain,
            None => Self::install()?,
        };
        ensure_bpf_linker()?;
        Ok(toolchain)
    }

    fn find() -> Option<Self> {
        if let Some(llvm) = debian_llvm() {
            return Some(Self::Debian { llvm });
        }
        let mut rustc = Command::new("rustup");
        rustc.args(["run", RUST, "rustc", "--print", "sysroot"]);
        let sources = Path::new(&output_of(&mut rustc)?).join("lib/rustlib/src/rust/library/core");
        sources.is_dir().then_some(Self::Rustup)
    }

    fn install() -> anyhow::Result<Self> {
        if !debian_has_it()? {
            bail!(
                "the eBPF programs are built by Rust {RUST} with its sources, which this system does not package. Run\n  \
                 rustup toolchain install {RUST} --profile minimal --component rust-src\nand try again"
            );
        }
        ensure_apt(&DEBIAN_PACKAGES)?;
        Self::find().with_context(|| {
            format!(
                "{} are installed, but {DEBIAN_RUSTC} is not Rust {RUST}, which built the committed object. Run\n  \
                 rustup toolchain install {RUST} --profile minimal --component rust-src\nand try again",
                DEBIAN_PACKAGES.join(" and ")
            )
        })
    }

    /// A cargo command that uses this compiler.
    pub(super) fn cargo(&self) -> Command {
        let mut cargo = Command::new("cargo");
        // `-Z build-std` is unstable. The variables that `cargo xtask` sets for its own toolchain must not reach this one.
        cargo
            .env("RUSTC_BOOTSTRAP", "1")
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        match self {
            Self::Debian { .. } => cargo.env("RUSTC", DEBIAN_RUSTC),
            Self::Rustup => cargo.arg(format!("+{RUST}")).env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN"),
        };
        cargo
    }

    pub(super) fn sysroot(&self) -> anyhow::Result<PathBuf> {
        let mut rustc = match self {
            Self::Debian { .. } => Command::new(DEBIAN_RUSTC),
            Self::Rustup => {
                let mut rustup = Command::new("rustup");
                rustup.args(["run", RUST, "rustc"]);
                rustup
            }
        };
        output_of(rustc.args(["--print", "sysroot"])).map(PathBuf::from).context("rustc does not name its sysroot")
    }

    /// The linker for cargo. The linker generates the code with the first libLLVM in LD_LIBRARY_PATH. Under rustup's cargo that is the libLLVM
    /// of rustup's default toolchain, which changes. Therefore Debian's compiler is used with its own LLVM.
    pub(super) fn linker(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let Self::Debian { llvm } = self else {
            return Ok(PathBuf::from("bpf-linker"));
        };
        let libraries = folder.join("llvm");
        fs::create_dir_all(&libraries)?;
        let library = libraries.join("libLLVM.so");
        let _ = fs::remove_file(&library);
        std::os::unix::fs::symlink(debian_libllvm(llvm)?, &library)?;

        let script = folder.join("bpf-linker.sh");
        fs::write(&script, format!("#!/bin/sh\nLD_LIBRARY_PATH='{}' exec bpf-linker \"$@\"\n", libraries.display()))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        Ok(script)
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian { llvm } => write!(f, "Debian's rustc {RUST} with LLVM {llvm}")?,
            Self::Rustup => write!(f, "rustup's rustc {RUST}")?,
        }
        write!(f, " and bpf-linker {BPF_LINKER}")
    }
}

/// The version of LLVM in Debian's compiler, if the compiler has the right version and its sources are installed.
fn debian_llvm() -> Option<String> {
    let version = output_of(Command::new(DEBIAN_RUSTC).arg("-vV"))?;
    let field = |name| version.lines().find_map(|line| line.strip_prefix(name));
    let sources = Path::new("/usr/lib/rustlib/src/rust/library/core");
    (field("release: ") == Some(RUST) && sources.is_dir()).then(|| field("LLVM version: ")).flatten().map(str::to_owned)
}

/// The path of LLVM's library, which Debian names by the first two numbers of its version.
fn debian_libllvm(version: &str) -> anyhow::Result<PathBuf> {
    let short: Vec<&str> = version.split('.').take(2).collect();
    let name = format!("libLLVM.so.{}", short.join("."));
    let machine = std::env::consts::ARCH;
    let path = Path::new("/usr/lib").join(format!("{machine}-linux-gnu")).join(name);
    anyhow::ensure!(path.exists(), "{} is missing: {DEBIAN_RUSTC} does not come from Debian's package", path.display());
    Ok(path)
}

/// Whether apt can install the right version, by its current package lists.
fn debian_has_it() -> anyhow::Result<bool> {
    if !in_path("apt-get") {
        return Ok(false);
    }
    update_apt()?;
    let packages = output_of(Command::new("apt-cache").args(["show", DEBIAN_PACKAGES[0]]));
    Ok(packages.is_some_and(|packages| packages.contains(&format!("Version: {RUST}+"))))
}

fn ensure_bpf_linker() -> anyhow::Result<()> {
    let installed = output_of(Command::new("bpf-linker").arg("--version"));
    if installed.as_deref() == Some(&format!("bpf-linker {BPF_LINKER}")) {
        return Ok(());
    }
    run(Command::new("cargo").args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"]))
}
