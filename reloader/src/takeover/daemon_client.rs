//! Defines the calls that a takeover makes to the daemon.

use crate::supervision::status::Status;

/// A connection to the daemon's control socket.
pub trait DaemonClient {
    /// The daemon's status.
    ///
    /// # Errors
    /// Returns a sentence where the daemon cannot be reached or gives another answer.
    fn status(&self) -> Result<Status, String>;

    /// Reloads HAProxy.
    ///
    /// # Errors
    /// Returns a sentence where the daemon cannot be reached, and where the reload is not proven.
    fn reload(&self) -> Result<(), String>;
}
