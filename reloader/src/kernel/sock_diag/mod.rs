//! Reads the kernel's socket tables (sock_diag(7)): listeners with their queues, half-open and open connections.
//!
//! Every answer is of the network namespace of the calling thread.

mod inet;
mod table;
mod unanswered;
mod unix;

pub use inet::{connections, half_open, tcp_listeners, time_wait, time_wait_count, unanswered};
pub use table::{BoundFile, Connection, Endpoints, ListenSocket, SockDiagError};
pub use unix::{bound_file, unix_connections, unix_listeners};

/// All listening sockets, TCP and unix.
///
/// # Errors
/// Where the kernel does not list its sockets.
pub fn listeners() -> Result<Vec<ListenSocket>, SockDiagError> {
    let mut all = tcp_listeners()?;
    all.extend(unix_listeners()?);
    Ok(all)
}
