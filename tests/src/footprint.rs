//! Records what a machine shows of reloader from outside. Taken before and after a test, it must be the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::poll::satisfied_within;
use crate::process::{cmdline, guards, mentioning};

/// Links, qdiscs and filters of the calling thread's namespace, guards of holds in it, and processes that mention a
/// directory.
pub struct Footprint {
    dir: PathBuf,
    bpf: bool,
    lines: BTreeSet<String>,
}

impl Footprint {
    /// Takes a footprint. `dir` is the directory that the processes in question mention.
    pub fn take(dir: &Path) -> Footprint {
        Footprint::record(dir, false)
    }

    /// Takes a footprint with reloader's BPF programs, maps and control groups on the whole machine. Only for a test that runs alone.
    pub fn take_with_bpf(dir: &Path) -> Footprint {
        Footprint::record(dir, true)
    }

    fn record(dir: &Path, bpf: bool) -> Footprint {
        let mut lines: BTreeSet<String> = lines_of("ip", &["-oneline", "link", "show"]).into_iter().collect();
        lines.extend(lines_of("tc", &["qdisc", "show"]).into_iter().map(|line| format!("qdisc: {line}")));
        lines.extend(filters());
        let process = |pid| format!("process {pid}: {}", cmdline(pid));
        lines.extend(mentioning(dir).iter().chain(&guards()).map(|found| process(found.pid)));
        if bpf {
            lines.extend(bpf_objects());
            lines.extend(control_groups());
        }
        Footprint { dir: dir.to_owned(), bpf, lines }
    }

    /// The differences between then and now: added lines with `+`, removed lines with `-`.
    pub fn changes(&self) -> Vec<String> {
        let now = Footprint::record(&self.dir, self.bpf).lines;
        let added = now.difference(&self.lines).map(|line| format!("+ {line}"));
        let removed = self.lines.difference(&now).map(|line| format!("- {line}"));
        added.chain(removed).collect()
    }

    /// What was added since, after the time that the kernel may take to free it. What was removed may belong to another
    /// test: only a test that is alone on the machine can judge that.
    pub fn left_behind(&self) -> Vec<String> {
        let mut left = Vec::new();
        satisfied_within(Duration::from_secs(5), || {
            left = self.changes();
            left.retain(|change| change.starts_with('+'));
            left.is_empty()
        });
        left
    }

    /// Panics with the changes, if there are any. The kernel frees BPF objects and ended processes a little later, so
    /// the check is repeated for a while. For the same reason maps of an earlier test may have been in the footprint:
    /// the kernel removes a program at once, and its maps after it. A map of reloader that was removed is
    /// therefore not a change.
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
    for link in lines_of("ip", &["-oneline", "link", "show"]) {
        // "2: eth0@if3: <…>"
        let Some(name) = link.split(": ").nth(1).and_then(|name| name.split('@').next()) else {
            continue;
        };
        for place in ["root", "ingress", "egress"] {
            let lines = lines_of("tc", &["filter", "show", "dev", name, place]);
            found.extend(lines.into_iter().map(|line| format!("filter on {name} {place}: {line}")));
        }
    }
    found
}

/// Whether a BPF object has a name that reloader uses: Cilium's and systemd's objects come and go as well.
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

/// The control groups in which generations start.
fn control_groups() -> Vec<String> {
    let script = "find /sys/fs/cgroup -type d -name 'reloader-start-*'";
    lines_of("sh", &["-c", script]).into_iter().map(|path| format!("control group: {path}")).collect()
}

/// tc does not list TCX programs, but the kernel's list of BPF programs has them.
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

/// The lines that a command prints. tc answers with an error if a device can have no filters of that kind, which is
/// ignored.
fn lines_of(program: &str, args: &[&str]) -> Vec<String> {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("running {program} (package iproute2): {error}"));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().to_owned()).collect()
}
