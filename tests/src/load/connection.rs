use std::io::{self, ErrorKind};

use nix::errno::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::outcome::Failure;

const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
/// `HTTP/1.0 200`
const STATUS_LINE: usize = 12;

/// What a connection wants next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Call again when the socket has something to say.
    Wait,
    /// A unix listener's backlog is full: a blocking client would sleep here, and no event tells when it may go on.
    Again,
    Done(Result<(), Failure>),
}

/// One connection: connect, send, read until the other side closes.
pub(super) struct Connection {
    pub(super) socket: Socket,
    address: SockAddr,
    request: bool,
    connecting: bool,
    connected: bool,
    heard: usize,
    head: [u8; STATUS_LINE],
}

impl Connection {
    pub(super) fn open(domain: Domain, address: &SockAddr, request: bool) -> Result<Connection, Failure> {
        // One system call; `Socket::new` would take three.
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new_raw(domain, kind, None).map_err(|error| Failure::Other(errno(&error)))?;
        Ok(Connection {
            socket,
            address: address.clone(),
            request,
            connecting: false,
            connected: false,
            heard: 0,
            head: [0; STATUS_LINE],
        })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Go on as far as possible without waiting.
    pub(super) fn drive(&mut self) -> Step {
        if !self.connecting {
            match self.connect() {
                Ok(true) => self.connecting = true,
                Ok(false) => return Step::Again,
                Err(error) => return Step::Done(Err(self.classify(&error))),
            }
        }
        match self.greet().and_then(|ready| if ready { self.listen() } else { Ok(false) }) {
            Ok(true) => Step::Done(self.verdict()),
            Ok(false) => Step::Wait,
            Err(error) => Step::Done(Err(self.classify(&error))),
        }
    }

    /// False: try again later.
    fn connect(&mut self) -> io::Result<bool> {
        match self.socket.connect(&self.address) {
            Ok(()) => self.connected = true,
            Err(error) if errno(&error) == Errno::EINPROGRESS as i32 => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// On loopback the handshake is over when connect returns, so sending at once saves a turn of the loop. A socket
    /// that is still connecting answers EAGAIN.
    fn greet(&mut self) -> io::Result<bool> {
        if !self.request {
            // Only an established socket has a peer.
            self.connected = self.connected || self.socket.peer_addr().is_ok();
            return Ok(true);
        }
        match self.socket.send(REQUEST) {
            Ok(_) => {
                self.connected = true;
                self.request = false;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// True at the end of the reply.
    fn listen(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        loop {
            match io::Read::read(&mut &self.socket, &mut buffer) {
                Ok(0) => return Ok(true),
                Ok(count) => self.keep(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let known = self.heard.min(STATUS_LINE);
        let more = bytes.len().min(STATUS_LINE - known);
        self.head[known..known + more].copy_from_slice(&bytes[..more]);
        self.heard += bytes.len();
    }

    fn verdict(&self) -> Result<(), Failure> {
        if self.heard == 0 {
            return Err(Failure::Empty);
        }
        // A 503 is a reply, and a lost connection for whoever waited for the 200.
        match std::str::from_utf8(&self.head).ok().and_then(|head| head.strip_prefix("HTTP/1.")) {
            Some(rest) if !rest.ends_with("200") => Err(Failure::Status(rest[2..].parse().unwrap_or(0))),
            _ => Ok(()),
        }
    }

    fn classify(&self, error: &io::Error) -> Failure {
        match Errno::from_raw(errno(error)) {
            // A unix path that is not there is what a closed port is to TCP.
            Errno::ECONNREFUSED | Errno::ENOENT => Failure::Refused,
            Errno::ECONNRESET | Errno::EPIPE if self.connected => Failure::ResetAfterConnect,
            Errno::ECONNRESET | Errno::EPIPE => Failure::ResetBeforeConnect,
            Errno::ETIMEDOUT => Failure::Timeout,
            other => Failure::Other(other as i32),
        }
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
        let mut connection = Connection::open(Domain::IPV4, &address, true).unwrap();
        connection.connect().unwrap();
        connection.connecting = true;
        let accepted = Socket::from(listener.accept().unwrap().0);
        accepted.set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(accepted);
        assert_eq!(connection.drive(), Step::Done(Err(Failure::ResetBeforeConnect)));
    }
}
