//! Tells a test about the guest that it runs in: what the row denies, what the kernel must support, and the rate that
//! it sustains.

use std::io::Write;

mod feature;
mod rate;

pub use feature::Feature;
pub use rate::{CARRIED, carried, rate};

/// The last line that a guest prints.
pub const END: &str = "guest: end";

/// The line that reports the exit status of a command.
pub fn verdict_line(status: i32) -> String {
    format!("guest: exit status {status}")
}

/// The exit status in such a line.
pub fn verdict(line: &str) -> Option<i32> {
    line.strip_prefix("guest: exit status ")?.parse().ok()
}

/// Precedes the reason in the output of a skipped test.
pub const SKIPPED: &str = "skipped: ";

/// The gate that a row of the kernel matrix is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Holds are made by eBPF.
    Ebpf,
    /// eBPF is denied, or the qdisc gate is asked for.
    Qdisc,
}

/// Whether this process runs in a guest.
pub fn is_guest() -> bool {
    std::env::var_os("RELOADER_GUEST").is_some()
}

/// The gate of this row. None on the host, where a test chooses the gate that it is about.
pub fn gate() -> Option<Gate> {
    match std::env::var("RELOADER_GATE").ok()?.as_str() {
        "ebpf" => Some(Gate::Ebpf),
        "qdisc" => Some(Gate::Qdisc),
        other => panic!("RELOADER_GATE={other} is neither ebpf nor qdisc"),
    }
}

/// Whether this machine must have the feature: its kernel is new enough, and the row does not deny it.
pub fn expects(feature: Feature) -> bool {
    feature::expected(feature, feature::kernel(), &denied(), is_guest())
}

/// The system calls that this row denies to all its processes.
pub fn denied() -> Vec<String> {
    let names = std::env::var("RELOADER_DENIED").unwrap_or_default();
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Reports that a test was skipped because a feature is absent. Panics if this machine must have it.
#[track_caller]
pub fn skip(feature: Feature, reason: &str) {
    assert!(!expects(feature), "{feature:?} must be available: {reason}");
    report_skipped(reason);
}

/// Reports that a test was skipped. For tests that need a tool which guests do not have: the host runs them.
pub fn report_skipped(reason: &str) {
    // Not print!: libtest hides its output when a test passes.
    let _ = writeln!(std::io::stderr(), "{SKIPPED}{reason}");
}
