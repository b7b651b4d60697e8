use std::fmt;
use std::time::{Duration, Instant};

use nix::errno::Errno;

/// A lost SYN costs its sender a second.
pub const SLOW: Duration = Duration::from_millis(900);

/// How a connection, or a request on one that is kept, failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody listens there.
    Refused,
    /// Reset before the connection was seen to be established.
    ResetBeforeConnect,
    /// Reset once established, even in the middle of a reply.
    ResetAfterConnect,
    /// Closed in good order, without a byte.
    Empty,
    /// Closed in good order in the middle of a reply or of a TLS handshake.
    CutShort,
    /// Not finished in time.
    Timeout,
    /// A reply in HTTP whose status is neither 2xx nor 3xx.
    Status(u16),
    /// A reply that is not HTTP.
    NotHttp,
    /// The TLS handshake failed, or the encrypted stream broke.
    Tls(TlsTrouble),
    /// This machine has no port, descriptor or memory left for another connection: nothing about the server.
    Own(i32),
    /// All connections that may be kept were busy until the time was up: the load's own limit, and nothing about the server.
    NoConnection,
    /// Another error, by number.
    Other(i32),
}

/// What was wrong with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsTrouble {
    /// The server sent this alert (RFC 8446, section 6).
    Alert(u8),
    /// What the server sent is not TLS.
    NotTls,
    /// The server and we have no version, cipher or key exchange in common.
    Incompatible,
    /// Anything else.
    Other,
}

impl Failure {
    pub(super) fn of_errno(number: i32, established: bool) -> Failure {
        match Errno::from_raw(number) {
            // A unix path that is not there is what a closed port is to TCP.
            Errno::ECONNREFUSED | Errno::ENOENT => Failure::Refused,
            Errno::ECONNRESET | Errno::EPIPE if established => Failure::ResetAfterConnect,
            Errno::ECONNRESET | Errno::EPIPE => Failure::ResetBeforeConnect,
            Errno::ETIMEDOUT => Failure::Timeout,
            Errno::EMFILE | Errno::ENFILE | Errno::EADDRNOTAVAIL | Errno::ENOBUFS | Errno::ENOMEM => {
                Failure::Own(number)
            }
            _ => Failure::Other(number),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused => out.write_str("refused"),
            Failure::ResetBeforeConnect => out.write_str("reset before connect"),
            Failure::ResetAfterConnect => out.write_str("reset after connect"),
            Failure::Empty => out.write_str("empty reply"),
            Failure::CutShort => out.write_str("reply cut short"),
            Failure::Timeout => out.write_str("timeout"),
            Failure::Status(status) => write!(out, "HTTP {status}"),
            Failure::NotHttp => out.write_str("reply that is not HTTP"),
            Failure::Tls(TlsTrouble::Alert(number)) => {
                write!(out, "TLS alert {:?}", rustls::AlertDescription::from(*number))
            }
            Failure::Tls(TlsTrouble::NotTls) => out.write_str("reply that is not TLS"),
            Failure::Tls(TlsTrouble::Incompatible) => out.write_str("no TLS version or cipher in common"),
            Failure::Tls(TlsTrouble::Other) => out.write_str("TLS failure"),
            Failure::NoConnection => out.write_str("no connection was free"),
            Failure::Own(errno) | Failure::Other(errno) => write!(out, "{}", Errno::from_raw(*errno)),
        }
    }
}

/// What became of one connection, or of one request on a connection that is kept.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// When it was due.
    pub scheduled: Instant,
    /// How much later it was started: the generator's own fault.
    pub lag: Duration,
    /// From when it was due until its end.
    pub latency: Duration,
    /// Which of the load's targets.
    pub target: u32,
    /// Whether its SYN was sent more than once; unknown for a unix socket, and where the kernel does not tell. False for a
    /// request on a connection that was open already.
    pub syn_resent: Option<bool>,
    /// Segments sent more than once, its SYN among them; unknown as above.
    pub segments_resent: Option<u32>,
    /// Served, or why not.
    pub result: Result<(), Failure>,
}

impl Outcome {
    /// Served, but only after more than [`SLOW`]. A late start is the generator's fault, and does not count.
    pub fn is_slow(&self) -> bool {
        self.result.is_ok() && self.latency.saturating_sub(self.lag) > SLOW
    }

    /// Served, but only after its SYN was sent more than once. That need not take a second: a SYN that meets the remains of an
    /// earlier connection from its port is sent again within milliseconds (`tcp_rcv_synsent_state_process`).
    pub fn needed_another_syn(&self) -> bool {
        self.result.is_ok() && self.syn_resent == Some(true)
    }
}

/// Where outcomes go, on the load's own thread. What it keeps of each decides how much memory a long load takes.
pub trait Sink: Send + 'static {
    /// The first connection is due now.
    fn begin(&mut self, _now: Instant) {}

    /// Takes one, in the order in which they end.
    fn record(&mut self, outcome: &Outcome);
}

impl Sink for Vec<Outcome> {
    fn record(&mut self, outcome: &Outcome) {
        self.push(*outcome);
    }
}
