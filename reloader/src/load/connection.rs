use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::http::Reply;
use super::outcome::Failure;
use super::tls::{Session, Tls, Trouble};
use crate::sys::{TcpInfo, tcp_info};

/// `net/tcp_states.h`
const TCP_SYN_SENT: u8 = 2;
const TCP_CLOSE: u8 = 7;

/// Reads of one connection in a turn: an endless reply must not keep the loop from all others, and from its deadline.
const READS: usize = 16;

/// What is done on a connection once it is there.
#[derive(Debug, Clone)]
pub enum Exchange {
    /// Nothing is sent: our side is closed, and the server must close its own in good order. One that loses its accept queue
    /// resets instead.
    Close,
    /// This HTTP/1 request is sent; the reply's status must be 2xx or 3xx, and the connection ends in good order unless it
    /// is kept.
    Http(Arc<[u8]>),
}

/// What a connection wants next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Call again when the socket has something to say.
    Wait,
    /// Call again soon: no event tells when. A unix listener's backlog is full, where a blocking client would sleep; or there
    /// is more to read than one turn may take.
    Again,
    Done(Result<(), Failure>),
}

/// How a connection is made and used.
#[derive(Clone)]
pub(super) struct Manner {
    pub(super) exchange: Exchange,
    pub(super) tls: Option<Tls>,
    /// A reply that is whole ends the exchange, not the connection.
    pub(super) keep: bool,
}

/// One connection, from the socket to the end of its exchange, or of several in turn.
pub(super) struct Connection {
    pub(super) socket: Socket,
    address: SockAddr,
    manner: Arc<Manner>,
    phase: Phase,
    session: Option<Box<Session>>,
    reply: Reply,
    established: bool,
    syn_resent: Option<bool>,
    resent_before: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    Connecting,
    ShakingHands,
    Sending,
    Receiving,
    /// Our side is closed.
    Leaving,
    /// Between two requests.
    Idle,
}

/// What TCP had to send again since it was last asked.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Resent {
    pub(super) syn: Option<bool>,
    pub(super) segments: Option<u32>,
}

impl Connection {
    pub(super) fn open(domain: Domain, address: &SockAddr, manner: Arc<Manner>) -> Result<Connection, Failure> {
        // One system call; `Socket::new` would take three.
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new_raw(domain, kind, None).map_err(|error| Failure::of_errno(errno(&error), false))?;
        let session = manner.tls.as_ref().map(Tls::session).transpose()?.map(Box::new);
        Ok(Connection {
            socket,
            address: address.clone(),
            manner,
            phase: Phase::New,
            session,
            reply: Reply::default(),
            established: false,
            syn_resent: None,
            resent_before: 0,
        })
    }

    pub(super) fn is_established(&self) -> bool {
        self.established
    }

    /// Go on as far as possible without waiting.
    pub(super) fn drive(&mut self) -> Step {
        match self.advance() {
            Ok(step) => step,
            Err(Trouble::Io(error)) if error.kind() == ErrorKind::WouldBlock => Step::Wait,
            Err(Trouble::Io(error)) => Step::Done(Err(Failure::of_errno(errno(&error), self.established))),
            Err(Trouble::Tls(failure)) => Step::Done(Err(failure)),
        }
    }

    /// Begins the next exchange on a connection that was kept.
    pub(super) fn again(&mut self) {
        self.reply = Reply::default();
        self.phase = Phase::Sending;
    }

    /// Whether it can be kept for another exchange.
    pub(super) fn can_stay(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// Whether the server still has it open, between two exchanges.
    pub(super) fn is_still_open(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.read(&mut buffer) {
            Err(Trouble::Io(error)) => error.kind() == ErrorKind::WouldBlock,
            // What nobody asked for cannot belong to the next reply.
            _ => false,
        }
    }

    pub(super) fn resent(&mut self) -> Resent {
        let Some(TcpInfo { total_retrans, .. }) = self.info() else { return Resent::default() };
        let segments = total_retrans.saturating_sub(self.resent_before);
        self.resent_before = total_retrans;
        // What a connection that never stood has sent again was its SYN.
        let syn = self.syn_resent.take().or((!self.established).then_some(segments > 0));
        Resent { syn: syn.or(Some(false)), segments: Some(segments) }
    }

    fn advance(&mut self) -> Result<Step, Trouble> {
        loop {
            match self.phase {
                Phase::New => match self.connect()? {
                    true => self.phase = Phase::Connecting,
                    false => return Ok(Step::Again),
                },
                Phase::Connecting => match self.is_there()? {
                    true => self.phase = self.after_connect(),
                    false => return Ok(Step::Wait),
                },
                Phase::ShakingHands => match self.shake_hands()? {
                    true => self.phase = self.after_handshake(),
                    false => return Ok(Step::Wait),
                },
                Phase::Sending => self.send()?,
                Phase::Receiving => return self.receive(),
                Phase::Leaving => return self.await_close(),
                Phase::Idle => return Ok(Step::Wait),
            }
        }
    }

    /// False: try again later.
    fn connect(&mut self) -> io::Result<bool> {
        match self.socket.connect(&self.address) {
            Ok(()) => self.established = true,
            Err(error) if errno(&error) == Errno::EINPROGRESS as i32 => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// On loopback the handshake is over when connect returns, so looking at once saves a turn of the loop.
    fn is_there(&mut self) -> io::Result<bool> {
        match self.info() {
            _ if self.established => {}
            Some(TcpInfo { state: TCP_SYN_SENT, .. }) => return Ok(false),
            Some(TcpInfo { state: TCP_CLOSE, .. }) => return Err(self.pending_error()),
            // Everything that was sent by now was a SYN: from here on the two cannot be told apart.
            Some(TcpInfo { total_retrans, .. }) => self.syn_resent = Some(total_retrans > 0),
            // Only an established socket has a peer.
            None => match self.socket.take_error()? {
                Some(error) => return Err(error),
                None if self.socket.peer_addr().is_err() => return Ok(false),
                None => {}
            },
        }
        // Where nobody listens on a port that clients are given, one may be given the very port that it connects to.
        if self.socket.local_addr().is_ok_and(|own| !own.is_unix() && own == self.address) {
            return Err(Errno::ECONNREFUSED.into());
        }
        self.established = true;
        Ok(true)
    }

    fn pending_error(&self) -> io::Error {
        let pending = self.socket.take_error().ok().flatten();
        pending.unwrap_or_else(|| Errno::ECONNRESET.into())
    }

    fn info(&self) -> Option<TcpInfo> {
        match self.address.is_unix() {
            true => None,
            false => tcp_info(self.socket.as_fd()).ok(),
        }
    }

    fn after_connect(&self) -> Phase {
        if self.session.is_some() { Phase::ShakingHands } else { self.after_handshake() }
    }

    fn after_handshake(&self) -> Phase {
        match self.manner.exchange {
            Exchange::Close => Phase::Leaving,
            Exchange::Http(_) => Phase::Sending,
        }
    }

    fn shake_hands(&mut self) -> Result<bool, Trouble> {
        let done = match &mut self.session {
            Some(session) => session.shake_hands(&self.socket)?,
            None => true,
        };
        if let (true, Exchange::Close, Some(session)) = (done, &self.manner.exchange, &mut self.session) {
            session.say_goodbye(&self.socket)?;
        }
        Ok(done)
    }

    fn send(&mut self) -> Result<(), Trouble> {
        if let Exchange::Http(request) = &self.manner.exchange {
            match &mut self.session {
                Some(session) => session.send(&self.socket, request)?,
                None => drop(self.socket.send(request)?),
            }
        }
        self.phase = Phase::Receiving;
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Trouble> {
        loop {
            let count = match &mut self.session {
                Some(session) => session.read(&self.socket, buffer),
                None => (&self.socket).read(buffer).map_err(Trouble::Io),
            };
            match count {
                Err(Trouble::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn receive(&mut self) -> Result<Step, Trouble> {
        let mut buffer = [0; 4096];
        for _ in 0..READS {
            let count = self.read(&mut buffer)?;
            if count == 0 {
                return Ok(Step::Done(self.verdict()));
            }
            if self.reply.feed(&buffer[..count]).is_err() {
                return Ok(Step::Done(Err(Failure::NotHttp)));
            }
            if self.manner.keep && self.reply.is_complete() {
                if self.reply.may_stay() {
                    self.phase = Phase::Idle;
                }
                return Ok(Step::Done(self.verdict()));
            }
        }
        Ok(Step::Again)
    }

    fn verdict(&self) -> Result<(), Failure> {
        if !self.reply.was_heard() {
            return Err(Failure::Empty);
        }
        if !self.reply.is_whole_at_close() {
            return Err(Failure::CutShort);
        }
        // A 503 is a reply, and a lost connection for whoever waited for the 200.
        match self.reply.status() {
            Some(status) if !(200..400).contains(&status) => Err(Failure::Status(status)),
            _ => Ok(()),
        }
    }

    fn await_close(&mut self) -> Result<Step, Trouble> {
        // Calling it twice changes nothing.
        match self.socket.shutdown(Shutdown::Write) {
            Err(error) if errno(&error) != Errno::ENOTCONN as i32 => return Err(error.into()),
            _ => {}
        }
        let mut buffer = [0; 4096];
        for _ in 0..READS {
            if self.read(&mut buffer)? == 0 {
                return Ok(Step::Done(Ok(())));
            }
        }
        Ok(Step::Again)
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// The reset must arrive before the generator looks, which in a running load is a matter of luck.
    #[test]
    fn a_reset_that_comes_before_the_connection_was_seen_is_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = SockAddr::from(listener.local_addr().unwrap());
        let manner = Manner { exchange: Exchange::Http(b"GET / HTTP/1.0\r\n\r\n"[..].into()), tls: None, keep: false };
        let mut connection = Connection::open(Domain::IPV4, &address, Arc::new(manner)).unwrap();
        connection.connect().unwrap();
        connection.phase = Phase::Connecting;
        let accepted = Socket::from(listener.accept().unwrap().0);
        accepted.set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(accepted);
        assert_eq!(connection.drive(), Step::Done(Err(Failure::ResetBeforeConnect)));
    }

    fn manner(exchange: Exchange) -> Arc<Manner> {
        Arc::new(Manner { exchange, tls: None, keep: false })
    }

    #[test]
    fn a_client_that_reaches_itself_has_reached_nobody() {
        let any = SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut connection = Connection::open(Domain::IPV4, &any, manner(Exchange::Close)).unwrap();
        connection.socket.bind(&any).unwrap();
        connection.address = connection.socket.local_addr().unwrap();
        assert_eq!(connection.drive(), Step::Done(Err(Failure::Refused)));
    }

    #[test]
    fn a_turn_ends_though_there_is_more_to_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        for exchange in [Exchange::Close, Exchange::Http(b"GET / HTTP/1.0\r\n\r\n"[..].into())] {
            let address = SockAddr::unix(&path).unwrap();
            let mut connection = Connection::open(Domain::UNIX, &address, manner(exchange)).unwrap();
            connection.connect().unwrap();
            connection.phase = Phase::Connecting;
            let mut accepted = listener.accept().unwrap().0;
            io::Write::write_all(&mut accepted, b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
            io::Write::write_all(&mut accepted, &[b'x'; (READS + 1) * 4096]).unwrap();
            assert_eq!(connection.drive(), Step::Again);
            assert_eq!(connection.drive(), Step::Wait);
        }
    }
}
