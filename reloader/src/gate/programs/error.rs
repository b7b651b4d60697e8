//! The errors of the eBPF programs. Their words stand inside the sentences of the programs' users.

use std::error::Error;
use std::io;

use aya::maps::MapError;
use reloader_ebpf::ABI_VERSION;
use rustix::io::Errno;

use crate::kernel::bpf::{denial, error_chain, shorten_verifier_log};

/// Why an eBPF program cannot be loaded. The error of the user adds what can be done without the program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// bpf(2) answered EPERM or EACCES.
    #[error(
        "the kernel denies bpf(2) to this process. Give it CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW (before Linux 5.8: CAP_SYS_ADMIN, and \
         before 5.11 LimitMEMLOCK=infinity)"
    )]
    Denied,
    /// bpf(2) answered ENOSYS.
    #[error(
        "bpf(2) is missing (ENOSYS): this kernel is built without it, or a seccomp filter (a container's, or \
         SystemCallFilter=) hides it. Allow bpf in the filter"
    )]
    Missing,
    /// The object was built for another version of this program.
    #[error(
        "the eBPF object has ABI version {found}, and this reloader needs {ABI_VERSION}. Run `cargo xtask build-ebpf` and build again"
    )]
    Abi {
        /// The version of the object.
        found: u32,
    },
    /// The object lacks something.
    #[error("the eBPF object has no {what}. Run `cargo xtask build-ebpf` and build again")]
    Damaged {
        /// The name of the map or program.
        what: &'static str,
    },
    /// The kernel does not take the program or its maps.
    #[error("this kernel refuses the eBPF program: {reason}")]
    Refused {
        /// What aya and the verifier say.
        reason: String,
    },
    /// A map could not be read or written.
    #[error("the eBPF map {what} failed: {source}")]
    Map {
        /// The map.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ProgramsError {
    /// The error for a failure to load.
    pub(crate) fn from_error(error: &(dyn Error + 'static)) -> Self {
        match denial(error) {
            Some(Errno::NOSYS) => Self::Missing,
            Some(_) => Self::Denied,
            None => Self::Refused { reason: shorten_verifier_log(&error_chain(error)) },
        }
    }

    pub(crate) fn map(what: &'static str, error: MapError) -> Self {
        Self::Map { what, source: io::Error::other(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_remedy() {
        let denied = ProgramsError::from_error(&io::Error::from(Errno::PERM));
        assert!(denied.to_string().contains("CAP_BPF"), "{denied}");
        let missing = ProgramsError::from_error(&io::Error::from(Errno::NOSYS));
        assert!(missing.to_string().contains("seccomp"), "{missing}");
        let refused = ProgramsError::from_error(&io::Error::from(Errno::INVAL));
        assert!(matches!(refused, ProgramsError::Refused { .. }), "{refused}");
    }
}
