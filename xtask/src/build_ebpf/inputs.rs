//! Computes the digest of the objects and of everything that they are built from. It is committed beside the objects.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use ring::digest::{Context, SHA256};

use super::{OBJECTS, PROFILE};
use crate::content;

/// The file of the digest, written by `cargo xtask build-ebpf`.
pub(super) const FILE: &str = "reloader/src/gate/programs/inputs.sha256";

/// The sources of the crate, and of the task that calls the compiler with its version and flags.
const SOURCES: [&str; 5] = [
    ".cargo/config.toml",
    "reloader-ebpf/Cargo.toml",
    "reloader-ebpf/src",
    "xtask/src/build_ebpf/mod.rs",
    "xtask/src/build_ebpf/toolchain.rs",
];

const CRATE: &str = "reloader-ebpf";

/// Whether the objects and their inputs have the committed digest.
pub(super) fn are_unchanged(root: &Path) -> Result<bool> {
    let committed = fs::read_to_string(root.join(FILE)).unwrap_or_default();
    Ok(committed == digest(root)?)
}

/// The digest of the inputs and the objects. It includes the objects, so that a change of an object alone is noticed.
pub(super) fn digest(root: &Path) -> Result<String> {
    let mut context = Context::new(&SHA256);
    for path in SOURCES.into_iter().chain(OBJECTS.map(|(_, object)| object)) {
        content::add(&mut context, &root.join(path))?;
    }
    let read = |name: &str| fs::read_to_string(root.join(name)).with_context(|| name.to_owned());
    let manifest: toml::Table = read("Cargo.toml")?.parse()?;
    for profile in ["release", PROFILE] {
        context.update(manifest["profile"][profile].to_string().as_bytes());
    }
    // The crate inherits its edition.
    context.update(manifest["workspace"]["package"].to_string().as_bytes());
    for package in packages(&read("Cargo.lock")?.parse()?) {
        context.update(package.as_bytes());
    }
    Ok(content::hexadecimal(context))
}

/// The crate and all its transitive dependencies in the lock file, each with name, version and checksum.
fn packages(lock: &toml::Table) -> BTreeSet<String> {
    let all: Vec<&toml::Table> = lock
        .get("package")
        .and_then(|packages| packages.as_array())
        .into_iter()
        .flatten()
        .filter_map(|p| p.as_table())
        .collect();
    let text =
        |package: &toml::Table, key: &str| package.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let (mut found, mut waiting) = (BTreeSet::new(), vec![CRATE.to_owned()]);
    while let Some(name) = waiting.pop() {
        // A dependency is `name`, or `name version` if the lock file has several versions.
        let (name, version) =
            name.split_once(' ').map_or((name.as_str(), None), |(name, version)| (name, Some(version)));
        let fits =
            |p: &&&toml::Table| text(p, "name") == name && version.is_none_or(|version| text(p, "version") == version);
        for package in all.iter().filter(fits) {
            let line = ["name", "version", "checksum"].map(|key| text(package, key)).join(" ");
            if found.insert(line) {
                let dependencies = package.get("dependencies").and_then(|list| list.as_array()).into_iter().flatten();
                waiting.extend(dependencies.filter_map(|name| name.as_str()).map(str::to_owned));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_the_transitive_dependencies_of_the_crate() {
        let lock = "[[package]]\nname = \"reloader-ebpf\"\nversion = \"1\"\ndependencies = [\"a\"]\n\
                    [[package]]\nname = \"a\"\nversion = \"2\"\nchecksum = \"x\"\ndependencies = [\"b 3\"]\n\
                    [[package]]\nname = \"b\"\nversion = \"3\"\n[[package]]\nname = \"b\"\nversion = \"4\"\n\
                    [[package]]\nname = \"c\"\nversion = \"5\"\n";
        let found: Vec<String> = packages(&lock.parse().unwrap()).into_iter().collect();
        assert_eq!(found, ["a 2 x", "b 3 ", "reloader-ebpf 1 "]);
    }

    #[test]
    fn changed_source_object_or_flag_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let manifest =
            "[workspace.package]\nedition = \"2024\"\n[profile.release]\nlto = \"thin\"\n[profile.ebpf]\nlto = true\n";
        write("Cargo.toml", manifest);
        write("Cargo.lock", "");
        write("reloader-ebpf/src/hold.rs", "one");
        for name in [SOURCES[0], SOURCES[1], SOURCES[3], SOURCES[4]].into_iter().chain(OBJECTS.map(|(_, o)| o)) {
            write(name, "");
        }
        assert!(!are_unchanged(root.path()).unwrap());
        write(FILE, &digest(root.path()).unwrap());
        assert!(are_unchanged(root.path()).unwrap());
        for (name, before, after) in [
            ("reloader-ebpf/src/hold.rs", "one", "two"),
            (OBJECTS[1].1, "", "other"),
            (SOURCES[4], "", "other"),
            ("Cargo.toml", manifest, &manifest.replace("lto = true", "lto = false")),
            ("Cargo.toml", manifest, &manifest.replace("2024", "2021")),
        ] {
            write(name, after);
            assert!(!are_unchanged(root.path()).unwrap(), "{name}");
            write(name, before);
            assert!(are_unchanged(root.path()).unwrap(), "{name}");
        }
    }
}
