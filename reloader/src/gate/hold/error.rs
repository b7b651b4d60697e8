//! The errors of a hold.

use std::io;

use super::registry::RegistryError;
use crate::gate::contract::GateError;
use crate::gate::ebpf::EbpfError;
use crate::gate::failures::ErrorList;
use crate::gate::qdisc::QdiscError;

/// Why SYNs cannot be held, or not as they should.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The gate failed.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// Neither gate works here.
    #[error("no gate can hold here.\n  eBPF: {ebpf}\n  qdisc: {qdisc}")]
    Neither {
        /// Why not the eBPF gate.
        ebpf: EbpfError,
        /// Why not the qdisc gate.
        qdisc: QdiscError,
    },
    /// The hold could not be registered.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// There is no guard. Without one, a killed holder would lose what is parked.
    #[error("cannot hold: the guard process failed: {0}")]
    Guard(io::Error),
    /// A descriptor or the holder's thread failed.
    #[error("cannot hold: {0}")]
    Io(#[from] io::Error),
    /// A cleanup cannot begin.
    #[error("cannot clean up after a dead hold: {0}")]
    CleanUp(io::Error),
    /// A persistent qdisc could not be removed.
    #[error("an empty qdisc stays in the packet path: {0}")]
    PersistentQdisc(io::Error),
    /// A qdisc without filters, which a dead hold may have added, could not be removed.
    #[error("the unused ingress or clsact of device {device} stays: {source}")]
    UnusedQdisc {
        /// The index of the device.
        device: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// Several steps of a cleanup failed.
    #[error(transparent)]
    Several(#[from] ErrorList<HoldError>),
}
