//! Tests inside a virtual machine: what the guest was told, what its kernel must be able to do, and what it carries.

use std::io::Write;

mod feature;
mod rate;

pub use feature::Feature;
pub use rate::{CARRIED, carried, rate};

/// The last line of a guest.
pub const END: &str = "guest: end";

/// The line that says how a command has ended.
pub fn verdict_line(status: i32) -> String {
    format!("guest: exit status {status}")
}

/// The exit status in such a line.
pub fn verdict(line: &str) -> Option<i32> {
    line.strip_prefix("guest: exit status ")?.parse().ok()
}

/// What a skipped test says.
pub const SKIPPED: &str = "skipped: ";

/// Which gate a row of the kernel matrix is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// The row in which eBPF holds.
    Ebpf,
    /// The row in which eBPF is denied, or not asked for.
    Qdisc,
}

/// Whether this process runs in a guest.
pub fn is_guest() -> bool {
    std::env::var_os("RELOADER_GUEST").is_some()
}

/// The gate of this row; none on the host, where a test takes the one that it is about.
pub fn gate() -> Option<Gate> {
    match std::env::var("RELOADER_GATE").ok()?.as_str() {
        "ebpf" => Some(Gate::Ebpf),
        "qdisc" => Some(Gate::Qdisc),
        other => panic!("RELOADER_GATE={other} is neither ebpf nor qdisc"),
    }
}

/// Whether this machine must have the feature: its kernel is young enough, and the row does not deny it.
pub fn expects(feature: Feature) -> bool {
    feature::expected(feature, feature::kernel(), &denied(), is_guest())
}

/// The system calls that this row denies to all its processes.
pub fn denied() -> Vec<String> {
    let names = std::env::var("RELOADER_DENIED").unwrap_or_default();
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// For a test that has found the feature absent and returns: panics where it must be there, else says why nothing was tested.
#[track_caller]
pub fn skip(feature: Feature, reason: &str) {
    assert!(!expects(feature), "{feature:?} must be here: {reason}");
    report_skipped(reason);
}

/// For a test that guests lack a tool for: the host runs it.
pub fn report_skipped(reason: &str) {
    // Not print!, whose words libtest keeps to itself when a test passes.
    let _ = writeln!(std::io::stderr(), "{SKIPPED}{reason}");
}
