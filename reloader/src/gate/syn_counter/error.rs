//! The errors of the SYN counter, in the sentences that the operator reads.

use std::io;

use aya::maps::MapError;
use rustix::io::Errno;

use crate::gate::attachment::AttachError;
use crate::gate::failures::ErrorList;
use crate::gate::programs::ProgramsError;
use crate::kernel::bpf::{denial, errno, error_chain};

/// Why SYNs cannot be counted.
#[derive(Debug, thiserror::Error)]
pub enum CounterError {
    /// The program cannot be loaded.
    #[error("cannot count SYNs: {0}. Or set count-syns = false")]
    Programs(#[from] ProgramsError),
    /// The map has no room, or the kernel has no memory for it.
    #[error("cannot count SYNs for {listeners} listeners: {source}. Set count-syns = false")]
    TooMany {
        /// How many were to be watched.
        listeners: usize,
        /// E2BIG or ENOMEM.
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
    /// The program could not be detached.
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
    /// Several of these.
    #[error(transparent)]
    Several(#[from] ErrorList<CounterError>),
}

impl CounterError {
    pub(super) fn attach(error: AttachError) -> Self {
        match denial(error.source.as_ref()) {
            Some(_) => ProgramsError::from_error(error.source.as_ref()).into(),
            None => Self::Attach { reason: error_chain(error.source.as_ref()), device: error.device },
        }
    }

    pub(super) fn detach(error: AttachError) -> Self {
        Self::Detach { reason: error_chain(error.source.as_ref()), device: error.device }
    }

    pub(super) fn watching(map: &'static str, listeners: usize, error: MapError) -> Self {
        match errno(&error) {
            Some(errno @ (Errno::TOOBIG | Errno::NOMEM)) => Self::TooMany { listeners, source: errno.into() },
            _ => ProgramsError::map(map, error).into(),
        }
    }
}
