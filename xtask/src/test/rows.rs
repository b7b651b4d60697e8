//! What runs where: the rows of the kernel matrix as data.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use reloader_tests::kernels;

/// What a row's processes are denied.
#[derive(Clone, Copy)]
pub(super) enum Denied {
    Nothing,
    /// These answer ENOSYS, to the tests as well.
    Syscalls(&'static str),
    /// Only reloader is without these: the tests need some of them for their network namespaces.
    Capabilities(&'static str),
}

/// A guest of its own.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) kernel: &'static str,
    pub(super) name: &'static str,
    /// The gate that a hold must end in.
    pub(super) gate: &'static str,
    pub(super) denied: Denied,
    /// Integration tests and their arguments; one that ends in `*` stands for all that begin so.
    pub(super) tests: &'static [&'static str],
}

/// The ladder reloads HAProxy in every way.
const EBPF: &[&str] = &[
    "kernel_row",
    "syn_counter",
    "hold_ebpf",
    "hold_standing",
    DEATHS,
    "hold_row",
    "steer_gate",
    "ladder --nocapture --skip qdisc",
];
const QDISC: &[&str] = &["kernel_row", "hold_qdisc", "hold_standing", DEATHS, "hold_row", "ladder --nocapture qdisc"];
/// Where a hold's traces outlive its processes: by clsact and by qdisc. (The host, which has TCX, runs all of them.)
const DEATHS: &str = "hold_faults the_holder_at_any_moment the_holder_with";
/// What a denied bpf(2) must end in.
const DENIED: &[&str] = &["kernel_row", "hold_standing", "hold_row"];
/// In kernel-fallback mode.
const SYSVINIT: &[&str] = &["sysv --nocapture"];
/// The daemon itself, without what it uses where it can.
const OLD: &[&str] = &["kernel_row", "reload", "custody", "crash", "hold_row"];

/// The one that brings a Debian to boot.
pub(super) const BOOTS_SYSVINIT: &str = "sysv";

const OLD_MACHINE: &str = "bpf,pidfd_open,pidfd_send_signal,pidfd_getfd,close_range,clone3,statx";

/// All of them; those that take longest first, so that none is left alone at the end.
pub(super) fn all() -> Vec<Row> {
    let denied = |kernel, name, denied, tests| Row { kernel, name, gate: "qdisc", denied, tests };
    let plain = |gate, tests| {
        move |kernel: &kernels::Wanted| Row { kernel: kernel.line, name: gate, gate, denied: Denied::Nothing, tests }
    };
    let mut rows = vec![denied("5.10", "old", Denied::Syscalls(OLD_MACHINE), OLD)];
    let sysvinit = Row { kernel: "6.1", name: "sysvinit", gate: "qdisc", denied: Denied::Nothing, tests: SYSVINIT };
    rows.push(sysvinit);
    rows.extend(kernels::WANTED.iter().map(plain("ebpf", EBPF)));
    rows.extend(kernels::WANTED.iter().map(plain("qdisc", QDISC)));
    rows.push(denied("6.1", "enosys", Denied::Syscalls("bpf"), DENIED));
    rows.push(denied("6.12", "eperm", Denied::Capabilities("BPF,SYS_ADMIN,PERFMON"), DENIED));
    rows
}

/// The integration tests of these rows, as cargo's `--test` takes them.
pub(super) fn needed<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<String> {
    let names = rows.into_iter().flat_map(|row| row.tests).filter_map(|test| test.split(' ').next());
    names.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
}

impl Row {
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.kernel, self.name)
    }

    /// What the tests are told.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let (denied, by) = match self.denied {
            Denied::Nothing => ("", ""),
            Denied::Syscalls(names) => (names, "syscalls"),
            Denied::Capabilities(_) => ("bpf", "capabilities"),
        };
        let told = [("RELOADER_GATE", self.gate), ("RELOADER_DENIED", denied), ("RELOADER_DENIED_BY", by)];
        told.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    /// Of the integration tests that cargo has built; an error where one that is named is not there.
    pub(super) fn chosen(&self, built: &[Built]) -> Result<Vec<Chosen>> {
        let mut chosen = Vec::new();
        for wanted in self.tests {
            let mut words = wanted.split(' ');
            let name = words.next().unwrap_or_default();
            let arguments: Vec<String> = words.map(str::to_owned).collect();
            let fits = |built: &&Built| match name.strip_suffix('*') {
                Some(beginning) => built.name.starts_with(beginning),
                None => built.name == name,
            };
            let found: Vec<_> = built.iter().filter(fits).cloned().collect();
            ensure!(!found.is_empty() || name.ends_with('*'), "there is no integration test {name}");
            chosen.extend(found.into_iter().map(|built| Chosen { built, arguments: arguments.clone() }));
        }
        Ok(chosen)
    }
}

/// An integration test as cargo has built it.
#[derive(Clone)]
pub(super) struct Built {
    pub(super) name: String,
    pub(super) path: PathBuf,
}

/// One that a row runs.
pub(super) struct Chosen {
    pub(super) built: Built,
    pub(super) arguments: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_its_tests_and_takes_those_that_begin_alike() {
        let built = ["reload", "hold_a", "hold_b", "other"];
        let built = built.map(|name| Built { name: name.into(), path: PathBuf::new() });
        let row = |tests| Row { kernel: "6.1", name: "row", gate: "ebpf", denied: Denied::Nothing, tests };
        let chosen = row(&["reload --skip x", "hold_*"]).chosen(&built).unwrap();
        let names: Vec<_> = chosen.iter().map(|chosen| chosen.built.name.as_str()).collect();
        assert_eq!(names, ["reload", "hold_a", "hold_b"]);
        assert_eq!(chosen[0].arguments, ["--skip", "x"]);
        let rows = [row(&["reload --skip x", "hold_*"]), row(&["reload"])];
        assert_eq!(needed(&rows), ["hold_*", "reload"]);
        assert!(row(&["absent"]).chosen(&built).is_err() && row(&["absent*"]).chosen(&built).unwrap().is_empty());
    }
}
