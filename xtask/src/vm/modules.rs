//! Lists the kernel's modules in the order in which they can be loaded.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use reloader_tests::kernels::Kernel;

/// The modules that reloader and its tests need. A kernel must have all of them, and may have some built in.
const NEEDED: [&str; 28] = [
    "sch_plug",
    "sch_prio",
    "sch_ingress",
    "sch_fq",
    "sch_fq_codel",
    "sch_netem",
    "cls_u32",
    "cls_bpf",
    "cls_matchall",
    "act_mirred",
    "act_gact",
    "ifb",
    "veth",
    "dummy",
    "bridge",
    "8021q",
    "macvlan",
    "ipvlan",
    "vrf",
    "tun",
    "af_packet",
    "tcp_diag",
    "inet_diag",
    "unix_diag",
    "nf_tables",
    "nft_redir",
    "nft_nat",
    "overlay",
];

/// Modules that are loaded if they exist: older kernels have the feature in other modules, or not at all.
const OPTIONAL: [&str; 7] =
    ["nft_chain_nat", "nft_ct", "nft_counter", "nft_reject_inet", "af_packet_diag", "tls", "act_police"];

/// A module's name and its uncompressed content.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) content: Vec<u8>,
}

/// The modules of a guest, each after those that it depends on.
pub(super) fn in_loading_order(kernel: &Kernel) -> Result<Vec<Module>> {
    let known = ModuleIndex::read(&kernel.modules)?;
    let mut order = Vec::new();
    for name in NEEDED {
        if !known.add(name, &mut order) {
            bail!("Linux {} does not have {name}", kernel.release);
        }
    }
    for name in OPTIONAL {
        known.add(name, &mut order);
    }
    order.iter().map(|path| content(&kernel.modules.join(path))).collect()
}

/// The modules that a kernel has.
struct ModuleIndex {
    /// By name, the module's file and the files that it depends on, all relative.
    files: HashMap<String, (PathBuf, Vec<PathBuf>)>,
    built_in: Vec<String>,
}

impl ModuleIndex {
    fn read(folder: &Path) -> Result<ModuleIndex> {
        let read = |name: &str| fs::read_to_string(folder.join(name)).with_context(|| format!("reading {name}"));
        let files = read("modules.dep")?.lines().filter_map(dependencies).collect();
        let built_in = read("modules.builtin")?.lines().map(|line| name_of(Path::new(line))).collect();
        Ok(ModuleIndex { files, built_in })
    }

    /// Adds a module after its dependencies. False if the kernel has none of this name.
    fn add(&self, name: &str, order: &mut Vec<PathBuf>) -> bool {
        let Some((file, depends)) = self.files.get(name) else {
            return self.built_in.iter().any(|built_in| built_in == name);
        };
        // depmod lists all dependencies, the nearest first.
        for path in depends.iter().rev().chain([file]) {
            if !order.contains(path) {
                order.push(path.clone());
            }
        }
        true
    }
}

/// Reads a line of modules.dep: `kernel/net/sched/sch_x.ko.xz: kernel/a.ko.xz kernel/b.ko.xz`.
fn dependencies(line: &str) -> Option<(String, (PathBuf, Vec<PathBuf>))> {
    let (file, depends) = line.split_once(':')?;
    let file = PathBuf::from(file);
    Some((name_of(&file), (file, depends.split_ascii_whitespace().map(PathBuf::from).collect())))
}

fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().replace('-', "_")
}

fn content(path: &Path) -> Result<Module> {
    let packed = path.extension().is_some_and(|extension| extension == "xz");
    let content = if packed {
        let output = Command::new("xz").arg("-dc").arg(path).output().context("running xz (package xz-utils)")?;
        ensure!(output.status.success(), "xz -dc {}: {}", path.display(), output.status);
        output.stdout
    } else {
        fs::read(path).with_context(|| path.display().to_string())?
    };
    Ok(Module { name: name_of(path), content })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_once() {
        let lines = ["k/a.ko.xz:", "k/b-c.ko: k/a.ko.xz", "k/d.ko: k/b-c.ko k/a.ko.xz"];
        let files = lines.iter().filter_map(|line| dependencies(line)).collect();
        let known = ModuleIndex { files, built_in: vec!["inside".into()] };
        let mut order = Vec::new();
        assert!(known.add("d", &mut order) && known.add("b_c", &mut order) && known.add("inside", &mut order));
        assert!(!known.add("absent", &mut order));
        assert_eq!(order, ["k/a.ko.xz", "k/b-c.ko", "k/d.ko"].map(PathBuf::from));
    }
}
