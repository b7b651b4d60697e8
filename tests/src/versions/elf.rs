//! Makes an executable of another suite run on this host, with its own suite's loader and libraries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::run;

/// Points the interpreter and the library path of `executable` into `tree`.
pub(super) fn patch(executable: &Path, tree: &Path) -> Result<()> {
    let interpreter = Command::new("patchelf").arg("--print-interpreter").arg(executable).output();
    let interpreter = interpreter.context("running patchelf (package patchelf)")?;
    let interpreter = String::from_utf8(interpreter.stdout)?;
    let loader =
        inside(tree, Path::new(interpreter.trim())).with_context(|| format!("no {} unpacked", interpreter.trim()))?;
    let libraries = library_folders(tree).iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>();
    let mut patchelf = Command::new("patchelf");
    patchelf.arg("--set-interpreter").arg(&loader);
    // RPATH, not RUNPATH: only RPATH applies to the libraries' own dependencies as well.
    patchelf.args(["--force-rpath", "--set-rpath", &libraries.join(":")]);
    run(patchelf.arg(executable))
}

/// The place of `path` in a tree whose /lib64 may be part of /usr. The symlink comes with a package that is not needed.
fn inside(tree: &Path, path: &Path) -> Option<PathBuf> {
    let relative = path.strip_prefix("/").ok()?;
    [tree.join(relative), tree.join("usr").join(relative)].into_iter().find_map(|path| resolved(tree, path))
}

/// Follows a symlink to an absolute path within the tree.
fn resolved(tree: &Path, path: PathBuf) -> Option<PathBuf> {
    match fs::read_link(&path) {
        Ok(target) if target.is_absolute() => inside(tree, &target),
        _ => path.exists().then_some(path),
    }
}

/// lib and usr/lib, and the folder for each architecture in them.
fn library_folders(tree: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for base in ["lib", "usr/lib", "lib64", "usr/lib64"].map(|base| tree.join(base)) {
        let nested = fs::read_dir(&base).into_iter().flatten().flatten().map(|entry| entry.path());
        folders.extend(nested.filter(|path| path.to_string_lossy().ends_with("-linux-gnu")));
        folders.push(base);
    }
    folders.retain(|folder| folder.is_dir());
    folders
}
