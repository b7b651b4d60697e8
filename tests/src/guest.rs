//! A test inside a virtual machine: what the guest was told, and how it speaks to the host.

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
