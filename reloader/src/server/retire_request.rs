//! Says how a generation is asked to end.

use crate::config::Stop;
use crate::process::Handle;

/// Which generation is to end, and how it is asked to.
#[derive(Debug, Clone)]
pub(crate) struct RetireRequest {
    /// The root process.
    pub(crate) process: Handle,
    /// The inodes of its listeners.
    pub(crate) sockets: Vec<u64>,
    /// `None` for a HAProxy.
    pub(crate) stop: Option<Stop>,
}
