//! One connection of a load, as a state machine that never blocks.

mod proxy_header;
mod session;

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use self::proxy_header::proxy_header;
use super::exchange::{ConnectionOptions, Exchange, SessionContent};
use super::http::HttpReply;
use super::outcome::Failure;
use super::stream::Stream;
use super::tls::{StreamError, Tls};
use crate::sys::{TcpInfo, tcp_info};

/// `net/tcp_states.h`
const TCP_SYN_SENT: u8 = 2;
const TCP_CLOSE: u8 = 7;

/// The largest number of reads from one connection in a turn of the loop. An endless reply must not delay the other
/// connections or its own deadline.
const MAX_READS_PER_TURN: usize = 16;
const READ_BUFFER_BYTES: usize = 4096;

/// What a connection needs next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Advance {
    /// An event of its socket.
    WaitForSocket,
    /// Another call soon, because no event will come. Either there is more to read than one turn may read. Or a long session meets the full
    /// backlog of a unix listener.
    RunAgain,
    /// Nothing: its exchange has ended.
    Done(Result<(), Failure>),
}

/// One connection, from the socket to the end of its exchange, or of several exchanges in turn.
pub(super) struct Connection {
    stream: Stream,
    address: SockAddr,
    options: Arc<ConnectionOptions>,
    phase: Phase,
    reply: HttpReply,
    is_established: bool,
    /// Set when the connection is established, and taken by the first [`Connection::take_retransmissions`].
    syn_resent: Option<bool>,
    /// The kernel's count of resent segments at the last [`Connection::take_retransmissions`].
    resent_before: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    Connecting,
    TlsHandshake,
    Sending,
    Receiving,
    /// The client's side is closed. The server has to close its own.
    AwaitingClose,
    /// Between two requests on a kept connection.
    Idle,
    /// A long session between its beginning and its end.
    Open,
}

/// What TCP had to send again since the last call of [`Connection::take_retransmissions`]. `None` where the kernel does not
/// tell, as for a unix socket.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Retransmissions {
    /// The SYN was sent more than once.
    pub(super) syn: Option<bool>,
    /// Number of segments, the SYN included.
    pub(super) segments: Option<u32>,
}

impl Connection {
    /// Makes the socket. The first call of [`Connection::drive`] connects it.
    pub(super) fn open(
        domain: Domain,
        address: &SockAddr,
        options: Arc<ConnectionOptions>,
    ) -> Result<Connection, Failure> {
        // This makes one system call, and `Socket::new` would make three.
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new_raw(domain, kind, None).map_err(|error| Failure::from_errno(errno(&error), false))?;
        let session = options.tls.as_ref().map(Tls::session).transpose()?;
        Ok(Connection {
            stream: Stream::new(socket, session),
            address: address.clone(),
            options,
            phase: Phase::New,
            reply: HttpReply::default(),
            is_established: false,
            syn_resent: None,
            resent_before: 0,
        })
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.stream.socket
    }

    pub(super) fn is_established(&self) -> bool {
        self.is_established
    }

    /// Goes on as far as possible without waiting.
    pub(super) fn drive(&mut self) -> Advance {
        // Before that the handshakes send for themselves.
        let sends_late = matches!(self.phase, Phase::Receiving | Phase::AwaitingClose);
        let flushed = if sends_late { self.stream.flush() } else { Ok(()) };
        let advance = flushed.map_err(StreamError::Io).and_then(|()| self.advance());
        match self.advance_to(advance) {
            // A socket that was connected at once is not watched for room in its buffer.
            Advance::WaitForSocket if self.waits_to_send() => Advance::RunAgain,
            other => other,
        }
    }

    /// Whether the server still lacks a part of what it has to answer. A session that stays open has time.
    fn waits_to_send(&self) -> bool {
        matches!(self.phase, Phase::Receiving | Phase::AwaitingClose) && self.stream.has_unsent()
    }

    fn advance_to(&self, advance: Result<Advance, StreamError>) -> Advance {
        match advance {
            Ok(advance) => advance,
            Err(StreamError::Io(error)) if error.kind() == ErrorKind::WouldBlock => Advance::WaitForSocket,
            Err(StreamError::Io(error)) => Advance::Done(Err(Failure::from_errno(errno(&error), self.is_established))),
            Err(StreamError::Tls(failure)) => Advance::Done(Err(failure)),
        }
    }

    /// Begins the next exchange on a kept connection.
    pub(super) fn begin_next_exchange(&mut self) {
        self.reply = HttpReply::default();
        self.phase = Phase::Sending;
    }

    /// Whether the connection can be kept for another exchange.
    pub(super) fn is_reusable(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// Whether the server still has the connection open between two exchanges. Bytes that no request asked for count as
    /// closed: they cannot belong to the next reply.
    pub(super) fn is_still_open(&mut self) -> bool {
        let mut buffer = [0; READ_BUFFER_BYTES];
        matches!(self.stream.read(&mut buffer), Err(StreamError::Io(error)) if error.kind() == ErrorKind::WouldBlock)
    }

    pub(super) fn take_retransmissions(&mut self) -> Retransmissions {
        let Some(TcpInfo { total_retrans, .. }) = self.tcp_info() else { return Retransmissions::default() };
        let segments = total_retrans.saturating_sub(self.resent_before);
        self.resent_before = total_retrans;
        // A connection that was never established has sent nothing but its SYN.
        let syn = self.syn_resent.take().or((!self.is_established).then_some(segments > 0));
        Retransmissions { syn: syn.or(Some(false)), segments: Some(segments) }
    }

    fn advance(&mut self) -> Result<Advance, StreamError> {
        loop {
            match self.phase {
                Phase::New => match self.connect()? {
                    true => self.phase = Phase::Connecting,
                    // Long sessions are opened all at once, and what happens to them before that does not count.
                    false if matches!(self.options.exchange, Exchange::Session(_)) => return Ok(Advance::RunAgain),
                    false => return Ok(Advance::Done(Err(Failure::BacklogFull))),
                },
                Phase::Connecting => match self.check_connected()? {
                    true => {
                        self.introduce()?;
                        self.phase = self.after_connect();
                    }
                    false => return Ok(Advance::WaitForSocket),
                },
                Phase::TlsHandshake => match self.handshake()? {
                    true => self.phase = self.after_handshake(),
                    false => return Ok(Advance::WaitForSocket),
                },
                Phase::Sending => self.send()?,
                Phase::Receiving => return self.receive(),
                Phase::AwaitingClose => return self.await_close(),
                Phase::Idle => return Ok(Advance::WaitForSocket),
                Phase::Open => return self.watch_session(),
            }
        }
    }

    /// False where the backlog of a unix listener is full.
    fn connect(&mut self) -> io::Result<bool> {
        match self.socket().connect(&self.address) {
            Ok(()) => self.is_established = true,
            Err(error) if errno(&error) == Errno::EINPROGRESS as i32 => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// On loopback the handshake is complete when connect(2) returns. This call, made at once, then saves a turn of the loop.
    fn check_connected(&mut self) -> io::Result<bool> {
        match self.tcp_info() {
            _ if self.is_established => {}
            Some(TcpInfo { state: TCP_SYN_SENT, .. }) => return Ok(false),
            Some(TcpInfo { state: TCP_CLOSE, .. }) => return Err(self.pending_error()),
            // Everything sent so far was a SYN. From here on the counter no longer tells SYNs and data apart.
            Some(TcpInfo { total_retrans, .. }) => self.syn_resent = Some(total_retrans > 0),
            // Only an established socket has a peer.
            None => match self.socket().take_error()? {
                Some(error) => return Err(error),
                None if self.socket().peer_addr().is_err() => return Ok(false),
                None => {}
            },
        }
        // A client of a closed port in the ephemeral range may get that very port as its own and connect to itself.
        if self.socket().local_addr().is_ok_and(|own| !own.is_unix() && own == self.address) {
            return Err(Errno::ECONNREFUSED.into());
        }
        self.is_established = true;
        Ok(true)
    }

    fn pending_error(&self) -> io::Error {
        let pending = self.socket().take_error().ok().flatten();
        pending.unwrap_or_else(|| Errno::ECONNRESET.into())
    }

    fn tcp_info(&self) -> Option<TcpInfo> {
        match self.address.is_unix() {
            true => None,
            false => tcp_info(self.socket().as_fd()).ok(),
        }
    }

    /// Sends the PROXY header, where the load has one. It fits into the empty buffer of a new connection.
    fn introduce(&self) -> io::Result<()> {
        if self.options.proxy_protocol {
            self.socket().send(proxy_header(&self.socket().local_addr()?, &self.address).as_bytes())?;
        }
        Ok(())
    }

    fn after_connect(&self) -> Phase {
        if self.stream.has_tls() { Phase::TlsHandshake } else { self.after_handshake() }
    }

    fn after_handshake(&self) -> Phase {
        match self.options.exchange {
            Exchange::Close => Phase::AwaitingClose,
            Exchange::Http(_) | Exchange::Session(SessionContent::Request(_)) => Phase::Sending,
            Exchange::Session(SessionContent::Nothing) => Phase::Open,
        }
    }

    fn handshake(&mut self) -> Result<bool, StreamError> {
        let is_complete = self.stream.handshake()?;
        if let (true, Exchange::Close) = (is_complete, &self.options.exchange) {
            self.stream.close_tls()?;
        }
        Ok(is_complete)
    }

    fn send(&mut self) -> Result<(), StreamError> {
        self.phase = match &self.options.exchange {
            Exchange::Session(SessionContent::Request(head)) => {
                self.stream.send(head)?;
                Phase::Open
            }
            Exchange::Http(request) => {
                self.stream.send(request)?;
                Phase::Receiving
            }
            Exchange::Close | Exchange::Session(SessionContent::Nothing) => Phase::Receiving,
        };
        Ok(())
    }

    fn receive(&mut self) -> Result<Advance, StreamError> {
        let mut buffer = [0; READ_BUFFER_BYTES];
        for _ in 0..MAX_READS_PER_TURN {
            let count = self.stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(Advance::Done(self.check_reply()));
            }
            if self.reply.feed(&buffer[..count]).is_err() {
                return Ok(Advance::Done(Err(Failure::NotHttp)));
            }
            if self.options.keep_alive && self.reply.is_complete() {
                if self.reply.keeps_connection() {
                    self.phase = Phase::Idle;
                }
                return Ok(Advance::Done(self.check_reply()));
            }
        }
        Ok(Advance::RunAgain)
    }

    fn check_reply(&self) -> Result<(), Failure> {
        if !self.reply.has_begun() {
            return Err(Failure::Empty);
        }
        if !self.reply.is_complete_at_close() {
            return Err(Failure::CutShort);
        }
        // A 503 is a reply, but the client needed a 200: for the client the connection is lost.
        match self.reply.status() {
            Some(status) if !(200..400).contains(&status) => Err(Failure::Status(status)),
            _ => Ok(()),
        }
    }

    fn await_close(&mut self) -> Result<Advance, StreamError> {
        if self.stream.has_unsent() {
            return Ok(Advance::WaitForSocket);
        }
        self.stream.close_sending()?;
        let mut buffer = [0; READ_BUFFER_BYTES];
        for _ in 0..MAX_READS_PER_TURN {
            if self.stream.read(&mut buffer)? == 0 {
                return Ok(Advance::Done(Ok(())));
            }
        }
        Ok(Advance::RunAgain)
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

#[cfg(test)]
mod tests;
