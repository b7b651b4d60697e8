//! Why the qdisc gate cannot hold, in the sentences that the operator reads.

use std::io;

use rustix::io::Errno;

/// Why the qdisc gate cannot hold, or not as it should.
#[derive(Debug, thiserror::Error)]
pub enum QdiscError {
    /// EPERM.
    #[error("cannot hold SYNs by qdisc: the process lacks CAP_NET_ADMIN. Give it that capability, or run it as root")]
    Denied,
    /// The kernel does not have it, and could not load it.
    #[error(
        "cannot hold SYNs by qdisc: this kernel has no {module}. `modprobe {module}` says why; on a machine without modules, \
         use a kernel that has it built in"
    )]
    NoModule {
        /// The module's name.
        module: &'static str,
    },
    /// The root qdisc of `lo` is not the kernel's default.
    #[error(
        "cannot hold SYNs of local clients: lo has the root qdisc {kind} {major:x}:, which is not ours to replace. Remove it \
         (`tc qdisc del dev lo root`), or use the eBPF gate"
    )]
    LoopbackTaken {
        /// Its kind.
        kind: String,
        /// The upper half of its handle.
        major: u16,
    },
    /// All bands of the prio on `lo` are other holds'.
    #[error("cannot hold SYNs of local clients: 15 other holds are on lo already. Wait for one of them to end")]
    TooManyHolds,
    /// An id that is in use.
    #[error(
        "cannot hold SYNs by qdisc: hold {id} is there already. End it, or let `reloader release` remove what is left of it"
    )]
    IdTaken {
        /// The id.
        id: u16,
    },
    /// A u32 table has no more entries.
    #[error("cannot hold SYNs by qdisc: {what} {number}, and a u32 table takes 4095. Hold fewer, or use the eBPF gate")]
    TooMany {
        /// `ports` or `addresses`.
        what: &'static str,
        /// How many there are.
        number: usize,
    },
    /// The filters of the device are a block that several devices share.
    #[error(
        "cannot hold SYNs that arrive on {device}: its ingress filters are a block shared with other devices. Give it an \
         ingress qdisc of its own, or use the eBPF gate"
    )]
    SharedBlock {
        /// The device's name.
        device: String,
    },
    /// Anything else that the kernel refuses.
    #[error("cannot hold SYNs by qdisc: {what} on {device} failed: {source}")]
    Device {
        /// The device's name.
        device: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A list that the kernel does not give.
    #[error("cannot hold SYNs by qdisc: the kernel does not list {what}: {source}")]
    List {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Parked SYNs that the kernel does not deliver.
    #[error(
        "{packets} parked SYNs of hold {id} were not delivered within {seconds} s; their qdisc is open and left in place. \
         `tc -s qdisc` shows it, `reloader release` removes it"
    )]
    NotDelivered {
        /// The hold.
        id: u16,
        /// How many.
        packets: u64,
        /// How long was waited.
        seconds: u64,
    },
    /// Something stayed behind.
    #[error("could not remove {what} of hold {id}: {source}. `tc qdisc` and `ip link` show what is left")]
    LeftBehind {
        /// The hold.
        id: u16,
        /// What.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A manifest that no gate of this kind has written.
    #[error("cannot release a hold by qdisc: its manifest is {manifest}, where {{\"hold\": ID}} is expected")]
    Manifest {
        /// What was given.
        manifest: serde_json::Value,
    },
}

impl QdiscError {
    /// What the kernel said when `what` was tried. `module` is what ENOENT (for a device's kind: EOPNOTSUPP) means.
    pub(super) fn adding(device: &str, what: &'static str, module: &'static str, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(Errno::PERM) => Self::Denied,
            Some(Errno::NOENT) => Self::NoModule { module },
            Some(Errno::OPNOTSUPP) if module == "ifb" => Self::NoModule { module },
            Some(Errno::OPNOTSUPP) => Self::SharedBlock { device: device.into() },
            _ => Self::Device { device: device.into(), what, source },
        }
    }

    pub(super) fn list(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::List { what, source }
    }
}

/// Whether there was nothing to do, or no longer.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::INVAL))
}

/// Whether the same may succeed a moment later.
pub(super) fn is_busy(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::BUSY)
}

pub(super) fn is_taken(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::EXIST | Errno::NOSPC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_module_is_named() {
        let error = |errno: Errno, module| QdiscError::adding("eth0", "the plug", module, errno.into());
        assert!(error(Errno::NOENT, "sch_plug").to_string().contains("modprobe sch_plug"));
        assert!(matches!(error(Errno::OPNOTSUPP, "ifb"), QdiscError::NoModule { module: "ifb" }));
        assert!(matches!(error(Errno::OPNOTSUPP, "cls_u32"), QdiscError::SharedBlock { .. }));
        assert!(error(Errno::PERM, "ifb").to_string().contains("CAP_NET_ADMIN"));
    }
}
