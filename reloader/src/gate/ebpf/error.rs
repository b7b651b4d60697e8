//! The errors of the eBPF gate, in the sentences that the operator reads.

use std::io;

use aya::maps::MapError;

use crate::gate::attachment::AttachError;
use crate::gate::contract::GateError;
use crate::gate::failures::ErrorList;
use crate::gate::programs::ProgramsError;
use crate::kernel::bpf::{denial, error_chain};

/// Why the eBPF gate cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    /// The programs cannot be loaded.
    #[error("cannot hold SYNs by eBPF, which takes Linux 5.8: {0}. Or hold by qdisc (kernel-fallback)")]
    Programs(#[from] ProgramsError),
    /// A map could not be read or written.
    #[error("the hold failed: the map {what} of the eBPF gate: {source}. Its ports may be held for half a second more")]
    Map {
        /// The map.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refuses a socket by which SYNs are delivered.
    #[error(
        "cannot hold SYNs by eBPF: the kernel refuses a socket to deliver them by: {source}. Give this process CAP_NET_RAW and \
         CAP_NET_ADMIN, and load the module af_packet, or hold by qdisc (kernel-fallback)"
    )]
    Socket {
        /// What the kernel said.
        source: io::Error,
    },
    /// A device refused a program.
    #[error("cannot hold SYNs on {device} by eBPF: {reason}. Take the device down or hold by qdisc (kernel-fallback)")]
    Attach {
        /// The device's name.
        device: String,
        /// What the kernel said.
        reason: String,
    },
    /// The devices could not be listed.
    #[error("cannot hold SYNs: the kernel does not list its network devices: {source}")]
    Devices {
        /// What the kernel said.
        source: io::Error,
    },
    /// A program could not be detached.
    #[error(
        "could not take the hold off {device}: {reason}. `tc filter show dev {device} ingress` and `egress` show what is left; \
         `reloader release` tries again"
    )]
    Detach {
        /// The device's name.
        device: String,
        /// What the kernel said.
        reason: String,
    },
    /// The kernel refused SYNs that were parked.
    #[error("{count} parked SYNs could not be delivered ({source}): their clients try again after a second")]
    Undelivered {
        /// How many.
        count: u64,
        /// What the kernel said about the first one.
        source: io::Error,
    },
    /// What the guard was given does not describe an eBPF gate.
    #[error(
        "the guard cannot take the hold over: {reason}. Its SYNs are lost, and its port is free after half a second"
    )]
    Handover {
        /// What is missing.
        reason: String,
    },
    /// Several of these.
    #[error(transparent)]
    Several(#[from] ErrorList<EbpfError>),
}

impl EbpfError {
    pub(super) fn attach(error: AttachError) -> Self {
        match denial(error.source.as_ref()) {
            Some(_) => ProgramsError::from_error(error.source.as_ref()).into(),
            None => Self::Attach { reason: error_chain(error.source.as_ref()), device: error.device },
        }
    }

    pub(super) fn detach(error: AttachError) -> Self {
        Self::Detach { reason: error_chain(error.source.as_ref()), device: error.device }
    }

    pub(super) fn map(what: &'static str, error: MapError) -> Self {
        Self::Map { what, source: io::Error::other(error) }
    }

    pub(super) fn handover(reason: impl ToString) -> Self {
        Self::Handover { reason: reason.to_string() }
    }
}

impl From<EbpfError> for GateError {
    fn from(error: EbpfError) -> GateError {
        GateError::new(error)
    }
}
