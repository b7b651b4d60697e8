//! Why SYNs cannot be counted, in the sentences that the operator reads.

use std::error::Error;
use std::io;

use aya::maps::MapError;
use rustix::io::Errno;

use crate::gate::attachment::AttachError;
use crate::kernel::bpf::{chain, denial, errno, verdict};

/// Why SYNs cannot be counted.
#[derive(Debug, thiserror::Error)]
pub enum CounterError {
    /// bpf(2) answered EPERM or EACCES.
    #[error(
        "cannot count SYNs: the kernel denies bpf(2) to this process. Give it CAP_BPF and CAP_NET_ADMIN (before Linux 5.8: \
         CAP_SYS_ADMIN, and before 5.11 LimitMEMLOCK=infinity), or set count-syns = false"
    )]
    Denied,
    /// bpf(2) answered ENOSYS.
    #[error(
        "cannot count SYNs: bpf(2) is not there (ENOSYS). Either this kernel is built without it, or a seccomp filter (a \
         container's, or SystemCallFilter=) hides it: allow bpf in the filter, or set count-syns = false"
    )]
    Missing,
    /// The object does not fit to this program.
    #[error(
        "cannot count SYNs: the eBPF object has ABI version {found}, and this reloader needs {expected}. Run \
         `cargo xtask build-ebpf` and build again"
    )]
    Abi {
        /// The object's version.
        found: u32,
        /// What this program was built for.
        expected: u32,
    },
    /// The object lacks something.
    #[error("cannot count SYNs: the eBPF object has no {what}. Run `cargo xtask build-ebpf` and build again")]
    Damaged {
        /// The name of the map or program.
        what: &'static str,
    },
    /// The kernel does not take the program.
    #[error(
        "cannot count SYNs: this kernel (it takes Linux 4.18) refuses the eBPF program: {reason}. Set count-syns = false"
    )]
    Refused {
        /// What aya and the verifier say.
        reason: String,
    },
    /// The map has no room, or no memory could be had for it.
    #[error("cannot count SYNs for {listeners} listeners: {source}. Set count-syns = false")]
    TooMany {
        /// How many were to be watched.
        listeners: usize,
        /// E2BIG or ENOMEM.
        source: io::Error,
    },
    /// A map could not be read or written.
    #[error("cannot count SYNs: the map {what} failed: {source}")]
    Map {
        /// The map, or the file that says how many CPUs there are.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A device refused the program.
    #[error("cannot count SYNs on {device}: {reason}. Take the device down or set count-syns = false")]
    Attach {
        /// The device's name.
        device: String,
        /// What the kernel said.
        reason: String,
    },
    /// Something stayed behind.
    #[error(
        "could not take the SYN counter off {device}: {reason}. `tc filter show dev {device} ingress` shows what is left"
    )]
    Detach {
        /// The device's name.
        device: String,
        /// What the kernel said.
        reason: String,
    },
    /// The devices could not be listed.
    #[error("could not look for SYN counters of a daemon that died: {source}")]
    Stale {
        /// What the kernel said.
        source: io::Error,
    },
}

impl CounterError {
    pub(super) fn load(error: &(dyn Error + 'static)) -> Self {
        match denial(error) {
            Some(Errno::NOSYS) => Self::Missing,
            Some(_) => Self::Denied,
            None => Self::Refused { reason: verdict(&chain(error)) },
        }
    }

    pub(super) fn attach(error: AttachError) -> Self {
        match denial(error.source.as_ref()) {
            Some(_) => Self::Denied,
            None => Self::Attach { reason: chain(error.source.as_ref()), device: error.device },
        }
    }

    pub(super) fn detach(error: AttachError) -> Self {
        Self::Detach { reason: chain(error.source.as_ref()), device: error.device }
    }

    pub(super) fn map(what: &'static str, error: MapError) -> Self {
        Self::Map { what, source: io::Error::other(error) }
    }

    pub(super) fn watching(listeners: usize, error: MapError) -> Self {
        match errno(&error) {
            Some(errno @ (Errno::TOOBIG | Errno::NOMEM)) => Self::TooMany { listeners, source: errno.into() },
            _ => Self::map(super::SYNS, error),
        }
    }
}
