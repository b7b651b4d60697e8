//! What a machine shows of reloader from outside: taken before and after, it must be the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::poll::satisfied_within;
use crate::process::{cmdline, guards, mentioning};

/// Links, qdiscs and filters of the calling thread's namespace, guards of holds there, and processes that mention a directory.
pub struct Footprint {
    dir: PathBuf,
    bpf: bool,
    lines: BTreeSet<String>,
}

impl Footprint {
    /// Take it; `dir` is the one that the processes in question mention.
    pub fn take(dir: &Path) -> Footprint {
        Footprint::taken(dir, false)
    }

    /// With reloader's BPF programs and maps on the whole machine: only for a test that is alone with them.
    pub fn take_with_bpf(dir: &Path) -> Footprint {
        Footprint::taken(dir, true)
    }

    fn taken(dir: &Path, bpf: bool) -> Footprint {
        let mut lines: BTreeSet<String> = said("ip", &["-oneline", "link", "show"]).into_iter().collect();
        lines.extend(said("tc", &["qdisc", "show"]).into_iter().map(|line| format!("qdisc: {line}")));
        lines.extend(filters());
        let process = |pid| format!("process {pid}: {}", cmdline(pid));
        lines.extend(mentioning(dir).iter().chain(&guards()).map(|found| process(found.pid)));
        if bpf {
            lines.extend(bpf_objects());
        }
        Footprint { dir: dir.to_owned(), bpf, lines }
    }

    /// What has come and what has gone since.
    pub fn changes(&self) -> Vec<String> {
        let now = Footprint::taken(&self.dir, self.bpf).lines;
        let come = now.difference(&self.lines).map(|line| format!("+ {line}"));
        let gone = self.lines.difference(&now).map(|line| format!("- {line}"));
        come.chain(gone).collect()
    }

    /// What is there now and was not, looked at for as long as the kernel may take to free it. What has gone is somebody
    /// else's affair: only a test that is alone on the machine can say more.
    pub fn left_behind(&self) -> Vec<String> {
        let mut left = Vec::new();
        satisfied_within(Duration::from_secs(5), || {
            left = self.changes();
            left.retain(|change| change.starts_with('+'));
            left.is_empty()
        });
        left
    }

    /// Panics, naming them, if there are changes. The kernel frees BPF objects and ended processes a little later, so it
    /// is looked at for a while. For the same reason maps of an earlier test may still have been there when it was taken (a
    /// program that is let go of is gone at once, and its maps after it): that one of reloader's has gone is no change.
    #[track_caller]
    pub fn assert_unchanged(&self) {
        let mut changes = Vec::new();
        let unchanged = satisfied_within(Duration::from_secs(5), || {
            changes = self.changes();
            changes.retain(|change| !change.starts_with("- bpf map "));
            changes.is_empty()
        });
        assert!(unchanged, "left behind or taken away:\n{}", changes.join("\n"));
    }
}

fn filters() -> Vec<String> {
    let mut found = Vec::new();
    for link in said("ip", &["-oneline", "link", "show"]) {
        // "2: eth0@if3: <…>"
        let Some(name) = link.split(": ").nth(1).and_then(|name| name.split('@').next()) else {
            continue;
        };
        for place in ["root", "ingress", "egress"] {
            let lines = said("tc", &["filter", "show", "dev", name, place]);
            found.extend(lines.into_iter().map(|line| format!("filter on {name} {place}: {line}")));
        }
    }
    found
}

/// Those of reloader by their names: Cilium's and systemd's come and go as well.
fn is_ours(name: &str) -> bool {
    const MAPS: [&str; 12] = [
        "ABI",
        "SYNS",
        "HELD",
        "SETTLE_KEY",
        "CONTROL",
        "COUNTS",
        "SCRATCH",
        "RING",
        "GROUPS",
        "SOCKETS",
        "LEASE",
        "LEFT",
    ];
    name.starts_with("reloader_") || MAPS.contains(&name)
}

/// TCX programs do not show in tc, but here.
fn bpf_objects() -> Vec<String> {
    let programs = aya::programs::loaded_programs().flatten();
    let programs = programs
        .filter(|info| info.name_as_str().is_some_and(is_ours))
        .map(|info| format!("bpf program {} {}", info.id(), info.name_as_str().unwrap_or("")));
    let maps = aya::maps::loaded_maps().flatten();
    let maps = maps
        .filter(|info| info.name_as_str().is_some_and(is_ours))
        .map(|info| format!("bpf map {} {}", info.id(), info.name_as_str().unwrap_or("")));
    programs.chain(maps).collect()
}

/// A command's lines; asking for filters where there can be none is answered with an error, which is an answer.
fn said(program: &str, args: &[&str]) -> Vec<String> {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("running {program} (package iproute2): {error}"));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().to_owned()).collect()
}
