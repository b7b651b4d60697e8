//! Defines the rows of the kernel matrix: which tests run on which kernel, with which gate.

use anyhow::{Result, ensure};
use reloader_tests::kernels;

use super::programs::{Test, fits};

/// The system calls or capabilities that the processes of a row do not have.
#[derive(Clone, Copy)]
pub(super) enum Denied {
    Nothing,
    /// These system calls fail with ENOSYS, in the tests as well.
    Syscalls(&'static str),
    /// Reloader runs without these capabilities. The tests keep them, because they need some for their network namespaces.
    Capabilities(&'static str),
}

/// A row: the tests of one guest.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) kernel: &'static str,
    pub(super) name: &'static str,
    /// The gate that a hold must end in.
    pub(super) gate: &'static str,
    pub(super) denied: Denied,
    /// Patterns of integration tests: `a::*` stands for all tests that begin so, and `!a::b` is left out.
    pub(super) tests: &'static [&'static str],
}

/// The ladder reloads HAProxy in every way.
const EBPF: &[&str] = &[
    "kernel_row::*",
    "syn_counter::*",
    "hold_ebpf::*",
    "persistent_qdiscs::*",
    DEATHS[0],
    DEATHS[1],
    "hold_row::*",
    "services::overlap::haproxy_with_noreuseport*",
    "steer_gate::*",
    "ladder::*",
    "!ladder::changed::qdisc_hold*",
    "!ladder::kept::qdisc_hold*",
];
const QDISC: &[&str] = &[
    "kernel_row::*",
    "hold_qdisc::*",
    "persistent_qdiscs::*",
    DEATHS[0],
    DEATHS[1],
    "hold_row::*",
    "ladder::changed::qdisc_hold*",
    "ladder::kept::qdisc_hold*",
];
/// Where a hold's traces outlive its processes: by clsact and by qdisc. (The host, which has TCX, runs all of them.)
const DEATHS: [&str; 2] =
    ["hold_faults::deaths::holder_killed_at_any_moment*", "hold_faults::deaths::holder_killed_with*"];
/// The tests of rows without bpf(2).
const DENIED: &[&str] = &["kernel_row::*", "persistent_qdiscs::*", "hold_row::*"];
/// The init script, in kernel-fallback mode.
const SYSVINIT: &[&str] = &["sysv::*"];
/// The daemon without the newer system calls that it uses where it can.
const OLD: &[&str] = &["kernel_row::*", "reload::*", "custody::*", "crash::*", "hold_row::*"];

/// The prefix of the tests that boot a Debian with sysvinit.
pub(super) const BOOTS_SYSVINIT: &str = "sysv::";

const OLD_MACHINE: &str = "bpf,pidfd_open,pidfd_send_signal,pidfd_getfd,close_range,clone3,statx";

/// All rows. The longest come first, so that no long row is left over at the end: the oldest and the newest kernel have most tests.
pub(super) fn all() -> Vec<Row> {
    let denied = |kernel, name, denied, tests| Row { kernel, name, gate: "qdisc", denied, tests };
    let plain = |gate, tests| {
        move |kernel: &kernels::TestedKernel| Row {
            kernel: kernel.line,
            name: gate,
            gate,
            denied: Denied::Nothing,
            tests,
        }
    };
    let sysvinit = Row { kernel: "6.1", name: "sysvinit", gate: "qdisc", denied: Denied::Nothing, tests: SYSVINIT };
    let [oldest, between @ .., newest] = kernels::TESTED else { unreachable!("an oldest and a newest kernel") };
    let mut rows = vec![sysvinit];
    rows.extend([oldest, newest].map(plain("ebpf", EBPF)));
    rows.extend([oldest, newest].map(plain("qdisc", QDISC)));
    rows.push(denied("5.10", "old", Denied::Syscalls(OLD_MACHINE), OLD));
    rows.extend(between.iter().map(plain("ebpf", EBPF)));
    rows.extend(between.iter().map(plain("qdisc", QDISC)));
    rows.push(denied("6.1", "enosys", Denied::Syscalls("bpf"), DENIED));
    rows.push(denied("6.12", "eperm", Denied::Capabilities("BPF,SYS_ADMIN,PERFMON"), DENIED));
    rows
}

impl Row {
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.kernel, self.name)
    }

    /// The environment variables that tell the tests about their row.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let (denied, by) = match self.denied {
            Denied::Nothing => ("", ""),
            Denied::Syscalls(names) => (names, "syscalls"),
            Denied::Capabilities(_) => ("bpf", "capabilities"),
        };
        let variables = [("RELOADER_GATE", self.gate), ("RELOADER_DENIED", denied), ("RELOADER_DENIED_BY", by)];
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    /// The tests of this row.
    ///
    /// # Errors
    /// If a pattern fits no integration test.
    pub(super) fn chosen(&self, tests: &[Test]) -> Result<Vec<String>> {
        let (left_out, wanted): (Vec<&str>, Vec<&str>) = self.tests.iter().partition(|wanted| wanted.starts_with('!'));
        let mut chosen = Vec::new();
        for wanted in wanted {
            let names = tests.iter().map(|test| &test.name).filter(|name| fits(wanted, name));
            let names: Vec<String> = names.cloned().collect();
            ensure!(!names.is_empty(), "there is no integration test {wanted}");
            chosen.extend(names);
        }
        chosen.retain(|name| !left_out.iter().any(|left_out| fits(&left_out[1..], name)));
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_rows_are_those_that_run() {
        let page = "docs/reference/kernels.md";
        let mut documented = reloader_tests::documents::table(
            page,
            "Each row is one virtual machine. *Gate* is the gate in which a hold must end there.",
        );
        let denies = |row: &Row, words: &str| match row.denied {
            Denied::Nothing => words.starts_with("nothing"),
            Denied::Syscalls(names) | Denied::Capabilities(names) => {
                names.split(',').eq(words.split('`').skip(1).step_by(2))
            }
        };
        for row in all() {
            let found = documented.iter().position(|cells| cells[..3] == [row.kernel, row.name, row.gate]);
            let cells = documented.remove(found.unwrap_or_else(|| panic!("{page} has no row {}", row.title())));
            assert!(denies(&row, &cells[3]), "{}: {}", row.title(), cells[3]);
        }
        assert!(documented.is_empty(), "{documented:?}");
    }

    #[test]
    fn row_selects_tests_by_prefix_minus_exclusions() {
        let tests = ["hold::a", "hold::b", "hold::c::d", "other::x", "other::y"];
        let tests = tests.map(|name| Test { name: name.into(), is_alone: false });
        let row = |tests| Row { kernel: "6.1", name: "row", gate: "ebpf", denied: Denied::Nothing, tests };
        let chosen = row(&["hold::*", "other::y", "!hold::c::*"]).chosen(&tests).unwrap();
        assert_eq!(chosen, ["hold::a", "hold::b", "other::y"]);
        assert!(row(&["absent::*"]).chosen(&tests).is_err() && row(&["hold"]).chosen(&tests).is_err());
    }
}
