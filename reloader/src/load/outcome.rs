//! Defines the result of one connection, and the trait of a sink that takes the results.

use std::fmt;
use std::time::{Duration, Instant};

use nix::errno::Errno;

/// A slower connection has lost a packet: a lost SYN is sent again after one second.
pub const SLOW_THRESHOLD: Duration = Duration::from_millis(900);

/// How a connection, or a request on a kept connection, failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The port has no listener, or the path of the unix socket does not exist.
    Refused,
    /// The accept queue of the unix socket is full. The kernel refuses the connection at once, and does not try again: a server that connects
    /// without waiting, as nginx and HAProxy do, has lost its client there.
    BacklogFull,
    /// Reset before the client saw the connection established.
    ResetBeforeConnect,
    /// Reset once established, before or during the reply.
    ResetAfterConnect,
    /// Closed with a FIN, without a byte.
    Empty,
    /// Closed with a FIN during a reply or a TLS handshake.
    CutShort,
    /// Not finished within the timeout.
    Timeout,
    /// An HTTP reply whose status is neither 2xx nor 3xx.
    Status(u16),
    /// A reply that is not HTTP.
    NotHttp,
    /// The TLS handshake failed, or the encrypted stream broke.
    Tls(TlsFailure),
    /// The client's machine has no port, descriptor or memory left for another connection. It says nothing about the server.
    /// The value is the errno.
    Local(i32),
    /// All connections of the pool were busy until the timeout. It is the load's own limit and says nothing about the server.
    NoFreeConnection,
    /// A whole reply to a request whose body had not ended. Only a long session can fail so.
    AnsweredEarly,
    /// Another error. The value is the errno.
    Other(i32),
}

/// Why TLS failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsFailure {
    /// The server sent this alert (RFC 8446, section 6).
    Alert(u8),
    /// The server sent bytes that are not TLS.
    NotTls,
    /// The server and the client have no version, cipher or key exchange in common.
    Incompatible,
    /// Any other error.
    Other,
}

impl Failure {
    /// Makes a failure from an errno. `is_established` says which of the two kinds of reset it was.
    pub(super) fn from_errno(number: i32, is_established: bool) -> Failure {
        match Errno::from_raw(number) {
            // A missing path is to a unix socket what a closed port is to TCP.
            Errno::ECONNREFUSED | Errno::ENOENT => Failure::Refused,
            Errno::ECONNRESET | Errno::EPIPE if is_established => Failure::ResetAfterConnect,
            Errno::ECONNRESET | Errno::EPIPE => Failure::ResetBeforeConnect,
            Errno::ETIMEDOUT => Failure::Timeout,
            Errno::EMFILE | Errno::ENFILE | Errno::EADDRNOTAVAIL | Errno::ENOBUFS | Errno::ENOMEM => {
                Failure::Local(number)
            }
            _ => Failure::Other(number),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused => out.write_str("refused"),
            Failure::BacklogFull => out.write_str("unix backlog full"),
            Failure::ResetBeforeConnect => out.write_str("reset before connect"),
            Failure::ResetAfterConnect => out.write_str("reset after connect"),
            Failure::Empty => out.write_str("empty reply"),
            Failure::CutShort => out.write_str("reply cut short"),
            Failure::Timeout => out.write_str("timeout"),
            Failure::Status(status) => write!(out, "HTTP {status}"),
            Failure::NotHttp => out.write_str("reply that is not HTTP"),
            Failure::Tls(TlsFailure::Alert(number)) => {
                write!(out, "TLS alert {:?}", rustls::AlertDescription::from(*number))
            }
            Failure::Tls(TlsFailure::NotTls) => out.write_str("reply that is not TLS"),
            Failure::Tls(TlsFailure::Incompatible) => out.write_str("no TLS version or cipher in common"),
            Failure::Tls(TlsFailure::Other) => out.write_str("TLS failure"),
            Failure::AnsweredEarly => out.write_str("answered before the end of the request"),
            Failure::NoFreeConnection => out.write_str("no connection was free"),
            Failure::Local(errno) | Failure::Other(errno) => write!(out, "{}", Errno::from_raw(*errno)),
        }
    }
}

/// The result of one connection, or of one request on a kept connection.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// When the connection was due to start.
    pub scheduled: Instant,
    /// How long after `scheduled` it started. The generator causes this delay, not the server.
    pub lag: Duration,
    /// The time from `scheduled` to its end.
    pub latency: Duration,
    /// The index of its target in the list that the load was given.
    pub target: u32,
    /// Whether its SYN was sent more than once. `None` for a unix socket, and where the kernel does not tell. False for a
    /// request on a connection that was open already.
    pub syn_resent: Option<bool>,
    /// Number of segments sent more than once, the SYN included; `None` as above.
    pub segments_resent: Option<u32>,
    /// Whether it was served, or why not.
    pub result: Result<(), Failure>,
}

impl Outcome {
    /// Whether it was served, but took more than [`SLOW_THRESHOLD`]. The delay of its start does not count.
    pub fn is_slow(&self) -> bool {
        self.result.is_ok() && self.latency.saturating_sub(self.lag) > SLOW_THRESHOLD
    }

    /// Whether it was served, but only after its SYN was sent more than once. That need not take a second: a SYN that meets
    /// the remains of an earlier connection from the same port is sent again within milliseconds
    /// (`tcp_rcv_synsent_state_process`).
    pub fn is_served_after_resent_syn(&self) -> bool {
        self.result.is_ok() && self.syn_resent == Some(true)
    }
}

/// Takes the outcomes of a load, on the generator's thread. The memory that a long load needs depends on what the sink
/// keeps of each outcome.
pub trait Sink: Send + 'static {
    /// Called once before the first outcome, with the time at which the first connection is due.
    fn begin(&mut self, _begin: Instant) {}

    /// Takes one outcome. Outcomes come in the order in which the connections end.
    fn record(&mut self, outcome: &Outcome);
}

impl Sink for Vec<Outcome> {
    fn record(&mut self, outcome: &Outcome) {
        self.push(*outcome);
    }
}
