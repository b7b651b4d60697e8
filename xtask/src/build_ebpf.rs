//! Builds the eBPF programs. The object is committed, so that nobody else needs the BPF toolchain, and it is the same bytes
//! wherever it is built: `--check` holds the project to that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::packages::run as run_command;

mod toolchain;

use toolchain::Toolchain;

/// The object that `reloader` includes, from the workspace's root.
const OBJECT: &str = "reloader/src/gate/programs/reloader.o";

const TARGET: &str = "bpfel-unknown-none";
const PROFILE: &str = "ebpf";

/// What `cargo xtask build-ebpf` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Build aside and compare with the committed object byte for byte, changing nothing
    #[arg(long)]
    check: bool,
}

/// Builds, and writes or compares the object.
///
/// # Errors
/// Where the toolchain is missing and cannot be installed, where the build fails, and where `--check` finds a difference.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let root = workspace_root()?;
    let toolchain = Toolchain::find_or_install()?;
    let object = root.join(OBJECT);
    if arguments.check {
        // A folder of its own, so that nothing built before can hide a difference.
        let target = root.join("target/ebpf-check");
        remove(&target)?;
        let built = build(&root, &target, &toolchain)?;
        remove(&target)?;
        compare(&built, &object, &toolchain)
    } else {
        let built = build(&root, &root.join("target/ebpf"), &toolchain)?;
        fs::create_dir_all(object.parent().context("the object has no folder")?)?;
        fs::write(&object, &built).with_context(|| format!("could not write {OBJECT}"))?;
        println!("{OBJECT}: {} bytes, by {toolchain}", built.len());
        Ok(())
    }
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

fn build(root: &Path, target: &Path, toolchain: &Toolchain) -> anyhow::Result<Vec<u8>> {
    fs::create_dir_all(target)?;
    let linker = toolchain.linker(target)?;
    let mut cargo = toolchain.cargo();
    cargo
        .current_dir(root)
        .args(["build", "--locked", "--package", "reloader-ebpf"])
        .args(["--bin", "reloader-ebpf", "--features", "program"])
        .args(["-Z", "build-std=core", "--target", TARGET])
        .args(["--profile", PROFILE, "--target-dir"])
        .arg(target)
        .arg("--config")
        .arg(format!("target.{TARGET}.linker={:?}", linker.display().to_string()))
        .env("CARGO_ENCODED_RUSTFLAGS", flags(root, target, toolchain)?);
    run_command(&mut cargo)?;
    let built = target.join(TARGET).join(PROFILE).join("reloader-ebpf");
    fs::read(&built).with_context(|| format!("cargo built no {}", built.display()))
}

/// Without debug info and with every folder's name replaced, nothing in the object tells where it was built.
fn flags(root: &Path, target: &Path, toolchain: &Toolchain) -> anyhow::Result<String> {
    let mut flags = vec![
        // Which machine's registers aya's tracing programs read. We have none, so that one object serves every architecture.
        r#"--cfg=bpf_target_arch="x86_64""#.to_owned(),
        "-Cdebuginfo=0".to_owned(),
        // Else to zero a structure is a call of memset, and the verifier allows its loop over a pointer only to those who have
        // CAP_PERFMON: the programs must load with CAP_BPF and CAP_NET_ADMIN.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
    ];
    let folders = [
        (root.to_path_buf(), "/reloader"),
        (cargo_home()?, "/cargo"),
        (toolchain.sysroot()?, "/rust"),
        // rustc takes the last that fits: the target folder is usually inside the root.
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
        .context("there is neither CARGO_HOME nor HOME")
}

fn compare(built: &[u8], object: &Path, toolchain: &Toolchain) -> anyhow::Result<()> {
    let committed = fs::read(object).with_context(|| format!("there is no {OBJECT}: run `cargo xtask build-ebpf`"))?;
    let difference = first_difference(&committed, built);
    ensure!(
        difference.is_none(),
        "{OBJECT} is not what its source builds: {} bytes are committed, {toolchain} built {}, and they differ from byte {} on. \
         Where the source was changed, run `cargo xtask build-ebpf` and commit the object",
        committed.len(),
        built.len(),
        difference.unwrap_or_default()
    );
    println!("{OBJECT}: its {} bytes are what {toolchain} builds", built.len());
    Ok(())
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    (common < a.len().max(b.len())).then_some(common)
}

/// What a command prints, without the line's end.
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
