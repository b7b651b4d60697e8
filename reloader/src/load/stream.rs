//! Provides a non-blocking stream, plain or encrypted, to one connection of a load.

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;

use nix::errno::Errno;
use socket2::Socket;

use super::tls::{StreamError, TlsSession};

/// A connected socket, with TLS on it where the load asks for it. No call blocks: a call that would have to wait returns
/// [`ErrorKind::WouldBlock`].
pub(super) struct Stream {
    pub(super) socket: Socket,
    session: Option<Box<TlsSession>>,
}

impl Stream {
    pub(super) fn new(socket: Socket, session: Option<TlsSession>) -> Stream {
        Stream { socket, session: session.map(Box::new) }
    }

    pub(super) fn has_tls(&self) -> bool {
        self.session.is_some()
    }

    /// Continues the TLS handshake. True when it is complete. Without TLS the first call returns true.
    pub(super) fn handshake(&mut self) -> Result<bool, StreamError> {
        match &mut self.session {
            Some(session) => session.handshake(&self.socket),
            None => Ok(true),
        }
    }

    /// Sends all bytes. A request fits into the empty buffer of a new or idle connection.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        match &mut self.session {
            Some(session) => session.send(&self.socket, bytes),
            None => {
                self.socket.send(bytes)?;
                Ok(())
            }
        }
    }

    /// Reads what has arrived. 0 is the end of the stream.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        loop {
            let count = match &mut self.session {
                Some(session) => session.read(&self.socket, buffer),
                None => (&self.socket).read(buffer).map_err(StreamError::Io),
            };
            match count {
                Err(StreamError::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Sends the TLS close_notify alert, where there is TLS.
    pub(super) fn close_tls(&mut self) -> io::Result<()> {
        self.session.as_mut().map_or(Ok(()), |session| session.send_close_notify(&self.socket))
    }

    /// Closes the sending side. It may be called more than once.
    pub(super) fn close_sending(&self) -> io::Result<()> {
        match self.socket.shutdown(Shutdown::Write) {
            Err(error) if error.raw_os_error() != Some(Errno::ENOTCONN as i32) => Err(error),
            _ => Ok(()),
        }
    }
}
