//! The errors of the qdisc gate, in the sentences that the operator reads.

use std::io;

use rustix::io::Errno;

use crate::gate::contract::GateError;
use crate::gate::failures::ErrorList;

/// Why the qdisc gate cannot hold, or not as it should.
#[derive(Debug, thiserror::Error)]
pub enum QdiscError {
    /// The kernel says EPERM.
    #[error("cannot hold SYNs by qdisc: the process lacks CAP_NET_ADMIN. Give it that capability, or run it as root")]
    Denied,
    /// The kernel does not have a module, and could not load it.
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
    /// All bands of the prio on `lo` are taken by other holds.
    #[error("cannot hold SYNs of local clients: {most} other holds are on lo already. Wait for one of them to end")]
    TooManyHolds {
        /// How many there is room for.
        most: usize,
    },
    /// The id is in use.
    #[error(
        "cannot hold SYNs by qdisc: hold {id} exists already. End it, or let `reloader release` remove what is left of it"
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
    /// The filters of the device are a block that it shares with other devices.
    #[error(
        "cannot hold SYNs that arrive on {device}: its ingress filters are a block shared with other devices. Give it an \
         ingress qdisc of its own, or use the eBPF gate"
    )]
    SharedBlock {
        /// The device's name.
        device: String,
    },
    /// The kernel refuses something else.
    #[error("cannot hold SYNs by qdisc: {what} on {device} failed: {source}")]
    Device {
        /// The device's name.
        device: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not give a list.
    #[error("cannot hold SYNs by qdisc: the kernel does not list {what}: {source}")]
    List {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel does not deliver parked SYNs.
    #[error(
        "{packets} parked SYNs of hold {id} were not delivered within {seconds} s; their qdisc is open and left in place. \
         `tc -s qdisc` shows it, `reloader release` removes it"
    )]
    NotDelivered {
        /// The hold.
        id: u16,
        /// The number of SYNs that are still parked.
        packets: u64,
        /// How long they were waited for.
        seconds: u64,
    },
    /// Something of a hold could not be removed.
    #[error("could not remove {what} of hold {id}: {source}. `tc qdisc` and `ip link` show what is left")]
    LeftBehind {
        /// The hold.
        id: u16,
        /// The thing.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The prio that holds share could not be removed.
    #[error("could not remove the prio on lo: {source}. `tc qdisc show dev lo` shows it")]
    PrioStays {
        /// What the kernel said.
        source: io::Error,
    },
    /// The manifest is not that of a qdisc gate.
    #[error("cannot release a hold by qdisc: its manifest is {manifest}, where {{\"hold\": ID}} is expected")]
    Manifest {
        /// What was given.
        manifest: serde_json::Value,
    },
    /// Several of these.
    #[error(transparent)]
    Several(#[from] ErrorList<QdiscError>),
}

impl QdiscError {
    /// The error for what the kernel said when `what` was tried. ENOENT means that `module` is missing; for the kind of a device
    /// EOPNOTSUPP means it.
    pub(super) fn adding(device: &str, what: &'static str, module: &'static str, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(Errno::PERM) => Self::Denied,
            Some(Errno::NOENT) => Self::NoModule { module },
            Some(Errno::OPNOTSUPP) if module == "ifb" => Self::NoModule { module },
            Some(Errno::OPNOTSUPP) => Self::SharedBlock { device: device.into() },
            _ => Self::Device { device: device.into(), what, source },
        }
    }

    pub(super) fn prio_stays(source: io::Error) -> Self {
        Self::PrioStays { source }
    }

    pub(super) fn list(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::List { what, source }
    }
}

impl From<QdiscError> for GateError {
    fn from(error: QdiscError) -> GateError {
        GateError::new(error)
    }
}

/// Whether there was nothing to do, or there is nothing left to do.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::INVAL))
}

/// Whether the same request may succeed a moment later.
pub(super) fn is_busy(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::BUSY)
}

/// Whether another hold has it already.
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
