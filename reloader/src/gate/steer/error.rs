//! The errors of steering, in the sentences that the operator reads.

use std::io;
use std::net::SocketAddr;

use crate::gate::failures::ErrorList;
use crate::gate::programs::ProgramsError;

/// Why connections cannot be steered.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// The program cannot be loaded.
    #[error("cannot steer: {0}. Or hold SYNs (strategy = \"hold\")")]
    Programs(#[from] ProgramsError),
    /// The kernel does not take a socket into the array, or the program on the group.
    #[error("cannot steer {address}: the kernel refuses {what}: {source}")]
    Refused {
        /// The address of the group.
        address: SocketAddr,
        /// What the kernel refuses: a socket, or the program.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Old and new listener are not in one SO_REUSEPORT group.
    #[error(
        "cannot steer {address}: its old and new listeners are not in one SO_REUSEPORT group (another user, or one was bound without \
         SO_REUSEPORT)"
    )]
    Apart {
        /// The address of the group.
        address: SocketAddr,
    },
    /// Two groups would have the same key.
    #[error("cannot steer {address}: this kernel cannot tell its group from another one that is steered")]
    Ambiguous {
        /// The address of the group.
        address: SocketAddr,
    },
    /// More sockets than the array has room for.
    #[error("cannot steer {address}: there is room for {most} sockets to steer to, and it would need more")]
    TooMany {
        /// The address of the group.
        address: SocketAddr,
        /// How many there is room for.
        most: u32,
    },
    /// The program could not be detached.
    #[error(
        "the steering program could not be detached from {address}: {source}. It has no effect any more, and goes when the last of the \
         sockets is closed"
    )]
    Detach {
        /// The address of the group.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Several of these.
    #[error(transparent)]
    Several(#[from] ErrorList<SteerError>),
}
