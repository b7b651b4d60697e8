//! Builds the eBPF programs. The objects are committed, so that only a change of their sources needs the BPF toolchain. A build has the same
//! bytes on every machine; `--check` verifies this.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::packages::run as run_command;

mod inputs;
mod toolchain;

use toolchain::Toolchain;

/// The objects: cargo's name, and the path in the workspace from which `reloader`, or for `bench-flip` the benchmark, includes them.
const OBJECTS: [(&str, &str); 5] = [
    ("bench-flip", "tests/src/bench/flip.o"),
    ("reloader-bind", "reloader/src/gate/programs/bind.o"),
    ("reloader-ebpf", "reloader/src/gate/programs/reloader.o"),
    ("reloader-hold", "reloader/src/gate/programs/hold.o"),
    ("reloader-steer", "reloader/src/gate/programs/steer.o"),
];

/// The sources of the programs. They run in the kernel, where a mistake is costly, so they must stay small enough to be read at once. The
/// library beside them is tested on the host.
const PROGRAMS: [&str; 9] = [
    "reloader-ebpf/src/bind.rs",
    "reloader-ebpf/src/load.rs",
    "reloader-ebpf/src/object.rs",
    "reloader-ebpf/src/opaque.rs",
    "reloader-ebpf/src/packet.rs",
    "reloader-ebpf/src/main.rs",
    "reloader-ebpf/src/hold.rs",
    "reloader-ebpf/src/settle.rs",
    "reloader-ebpf/src/steer.rs",
];
const MAX_LINES: usize = 540;

const TARGET: &str = "bpfel-unknown-none";
const PROFILE: &str = "ebpf";

/// The arguments of `cargo xtask build-ebpf`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Compare the committed objects with a separate build, byte for byte, and change nothing
    #[arg(long)]
    check: bool,
}

/// Builds the objects, and writes or compares them.
///
/// # Errors
/// If the toolchain is missing and cannot be installed, if the build fails, if `--check` finds a difference, or if the programs have grown
/// too long.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let root = workspace_root()?;
    check_length(&root)?;
    build_or_compare(arguments, &root)?;
    if arguments.check {
        return Ok(());
    }
    fs::write(root.join(inputs::FILE), inputs::digest(&root)?).context(inputs::FILE)
}

/// Verifies that the committed objects are built from their sources. Unless `always` is set, the committed digest is enough if neither the
/// objects nor their inputs have changed since.
///
/// # Errors
/// As [`run`] with `--check`.
pub(crate) fn check(always: bool) -> anyhow::Result<()> {
    let root = workspace_root()?;
    if !always && inputs::are_unchanged(&root)? {
        check_length(&root)?;
        println!("the eBPF objects and their inputs are as committed: not built again");
        return Ok(());
    }
    run(&Arguments { check: true })?;
    ensure!(
        inputs::are_unchanged(&root)?,
        "{} does not fit the inputs of the objects, although the objects are the same: run `cargo xtask build-ebpf` and commit it",
        inputs::FILE
    );
    Ok(())
}

fn build_or_compare(arguments: &Arguments, root: &Path) -> anyhow::Result<()> {
    let toolchain = Toolchain::find_or_install()?;
    // The check builds in a separate folder, so that no earlier build can hide a difference.
    let target = root.join(if arguments.check { "target/ebpf-check" } else { "target/ebpf" });
    if arguments.check {
        remove(&target)?;
    }
    build(root, &target, &toolchain)?;
    for (name, object) in OBJECTS {
        let built = target.join(TARGET).join(PROFILE).join(name);
        let built = fs::read(&built).with_context(|| format!("cargo did not build {}", built.display()))?;
        if arguments.check {
            compare(&built, root, object, &toolchain)?;
        } else {
            fs::write(root.join(object), &built).with_context(|| format!("could not write {object}"))?;
            println!("{object}: {} bytes, by {toolchain}", built.len());
        }
    }
    if arguments.check { remove(&target) } else { Ok(()) }
}

fn check_length(root: &Path) -> anyhow::Result<()> {
    let mut lines = 0;
    for source in PROGRAMS {
        lines += lines_of_code(&fs::read_to_string(root.join(source)).with_context(|| source.to_owned())?);
    }
    ensure!(
        lines <= MAX_LINES,
        "the eBPF programs ({}) have {lines} lines of code, and {MAX_LINES} are the limit: move what can be tested on the host into the \
         library beside them",
        PROGRAMS.join(", ")
    );
    println!("the eBPF programs have {lines} lines of code; {MAX_LINES} are the limit");
    Ok(())
}

/// Counts lines without comments and empty lines, which make the code easier to read.
fn lines_of_code(source: &str) -> usize {
    source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

fn workspace_root() -> anyhow::Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).context("xtask is not in a workspace")
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn build(root: &Path, target: &Path, toolchain: &Toolchain) -> anyhow::Result<()> {
    fs::create_dir_all(target)?;
    let linker = toolchain.linker(target)?;
    let mut cargo = toolchain.cargo();
    cargo
        .current_dir(root)
        .args(["build", "--locked", "--package", "reloader-ebpf"])
        .args(["--bins", "--features", "program"])
        .args(["-Z", "build-std=core", "--target", TARGET])
        .args(["--profile", PROFILE, "--target-dir"])
        .arg(target)
        .arg("--config")
        .arg(format!("target.{TARGET}.linker={:?}", linker.display().to_string()))
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root, target, toolchain)?);
    run_command(&mut cargo)
}

/// The flags of rustc. Without debug information, and with the names of all folders replaced, an object does not depend on where it was built.
fn flags(root: &Path, target: &Path, toolchain: &Toolchain) -> anyhow::Result<String> {
    let mut flags = vec![
        // The machine whose registers aya's tracing programs read. Reloader has no such program, so one object fits every architecture.
        r#"--cfg=bpf_target_arch="x86_64""#.to_owned(),
        "-Cdebuginfo=0".to_owned(),
        // Otherwise a structure is zeroed by a call of memset, whose loop over a pointer the verifier allows only with CAP_PERFMON. The
        // programs must load with CAP_BPF and CAP_NET_ADMIN.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
    ];
    let folders = [
        (root.to_path_buf(), "/reloader"),
        (cargo_home()?, "/cargo"),
        (toolchain.sysroot()?, "/rust"),
        // The last prefix that fits wins: the target folder is usually inside the root.
        (target.to_path_buf(), "/target"),
    ];
    for (folder, name) in folders {
        flags.push(format!("--remap-path-prefix={}={name}", folder.display()));
    }
    Ok(flags.join("\x1f"))
}

fn cargo_home() -> anyhow::Result<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")
}

fn compare(built: &[u8], root: &Path, object: &str, toolchain: &Toolchain) -> anyhow::Result<()> {
    let committed =
        fs::read(root.join(object)).with_context(|| format!("{object} is missing: run `cargo xtask build-ebpf`"))?;
    let difference = first_difference(&committed, built);
    ensure!(
        difference.is_none(),
        "{object} was not built from its source: {} bytes are committed, {toolchain} built {}, and they differ from byte {} on. \
         If the source was changed, run `cargo xtask build-ebpf` and commit the object",
        committed.len(),
        built.len(),
        difference.unwrap_or_default()
    );
    println!("{object}: {toolchain} builds the same {} bytes", built.len());
    Ok(())
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    (common < a.len().max(b.len())).then_some(common)
}

/// The output of a command without the final line end; none if the command fails.
fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::first_difference;

    #[test]
    fn every_difference_is_found() {
        assert_eq!(first_difference(b"abc", b"abc"), None);
        assert_eq!(first_difference(b"abc", b"abd"), Some(2));
        assert_eq!(first_difference(b"abc", b"ab"), Some(2));
        assert_eq!(first_difference(b"ab", b"abc"), Some(2));
        assert_eq!(first_difference(b"", b""), None);
    }
}
