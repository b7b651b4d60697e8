//! Errors of a load as a whole. A single connection that fails is an outcome, not an error.

use std::io;

/// Why a load cannot be started or finished.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The list of targets is empty.
    #[error("a load needs a target")]
    NoTarget,
    /// The rate is 0.
    #[error("a rate of 0 would make no connection: give at least 1 a second")]
    ZeroRate,
    /// Connections are to be kept, but the number of kept connections is 0.
    #[error("keep at least one connection")]
    ZeroConnections,
    /// There are to be long sessions, but their number is 0.
    #[error("0 long sessions would show nothing: hold at least one")]
    ZeroSessions,
    /// The text of a target is not an address.
    #[error("{0} is not an address to connect to: write ADDR:PORT, [ADDR]:PORT for IPv6, or unix@/PATH")]
    InvalidAddress(String),
    /// The path or name does not fit into `sockaddr_un`.
    #[error("{0} is too long for a unix socket: the limit is 107 bytes")]
    AddressTooLong(String),
    /// The host cannot be used as a TLS server name.
    #[error("{0} cannot be a TLS server name: give a host name or an IP address")]
    InvalidHostName(String),
    /// The client's certificate or its key cannot be used.
    #[error("{0}")]
    ClientCertificate(String),
    /// The kernel or the TLS library refused a resource that the load needs.
    #[error("cannot start the load: {0}")]
    Unavailable(io::Error),
    /// The generator's thread panicked.
    #[error("the load generator panicked; please report the message above")]
    Panicked,
}
