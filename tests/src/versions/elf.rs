//! Makes an executable of another suite run on this host, with the loader and the libraries of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::run;

/// Point the interpreter and the library path of `executable` into `tree`.
pub(super) fn settle(executable: &Path, tree: &Path) -> Result<()> {
    let wanted = Command::new("patchelf").arg("--print-interpreter").arg(executable).output();
    let wanted = wanted.context("running patchelf (package patchelf)")?;
    let wanted = String::from_utf8(wanted.stdout)?;
    let loader = inside(tree, Path::new(wanted.trim())).with_context(|| format!("no {} unpacked", wanted.trim()))?;
    let libraries = library_folders(tree).iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>();
    let mut patch = Command::new("patchelf");
    patch.arg("--set-interpreter").arg(&loader);
    // RPATH, not RUNPATH: the libraries' own dependencies must be found by it as well.
    patch.args(["--force-rpath", "--set-rpath", &libraries.join(":")]);
    run(patch.arg(executable))
}

/// Where `path` lies in a tree whose /lib64 may be part of /usr (the symlink comes with a package that is not needed).
fn inside(tree: &Path, path: &Path) -> Option<PathBuf> {
    let relative = path.strip_prefix("/").ok()?;
    [tree.join(relative), tree.join("usr").join(relative)].into_iter().find_map(|path| resolved(tree, path))
}

/// A symlink to an absolute path means one in the tree.
fn resolved(tree: &Path, path: PathBuf) -> Option<PathBuf> {
    match fs::read_link(&path) {
        Ok(target) if target.is_absolute() => inside(tree, &target),
        _ => path.exists().then_some(path),
    }
}

/// lib and usr/lib, and the folder per architecture in each.
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
