//! Provides a non-blocking stream, plain or encrypted, to one connection of a load.

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;

use nix::errno::Errno;
use socket2::Socket;

use super::tls::{StreamError, TlsSession};

/// A connected socket, with TLS on it where the load asks for it. No call blocks: a call that would have to wait returns
/// [`ErrorKind::WouldBlock`]. What a full buffer does not take is kept, for [`Stream::flush`].
pub(super) struct Stream {
    pub(super) socket: Socket,
    session: Option<Box<TlsSession>>,
    /// What is not sent yet. TLS keeps its own.
    unsent: Vec<u8>,
}

impl Stream {
    pub(super) fn new(socket: Socket, session: Option<TlsSession>) -> Stream {
        Stream { socket, session: session.map(Box::new), unsent: Vec::new() }
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

    /// Sends these bytes, after those that are kept. Keeps what the buffer of the socket does not take.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        match &mut self.session {
            Some(session) => session.write(bytes)?,
            // The usual case copies nothing.
            None if self.unsent.is_empty() => {
                let sent = send_some(&self.socket, bytes)?;
                self.unsent.extend_from_slice(&bytes[sent..]);
            }
            None => self.unsent.extend_from_slice(bytes),
        }
        Ok(self.flush()?)
    }

    /// Sends what is kept, as far as the buffer of the socket takes it.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let Some(session) = &mut self.session else {
            if !self.unsent.is_empty() {
                let sent = send_some(&self.socket, &self.unsent)?;
                self.unsent.drain(..sent);
            }
            return Ok(());
        };
        match session.flush(&self.socket) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }

    /// Whether bytes are kept that the buffer of the socket did not take.
    pub(super) fn has_unsent(&self) -> bool {
        self.session.as_ref().map_or(!self.unsent.is_empty(), |session| session.has_unsent())
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
        if let Some(session) = &mut self.session {
            session.write_close_notify();
        }
        self.flush()
    }

    /// Closes the sending side. It may be called more than once.
    pub(super) fn close_sending(&self) -> io::Result<()> {
        match self.socket.shutdown(Shutdown::Write) {
            Err(error) if error.raw_os_error() != Some(Errno::ENOTCONN as i32) => Err(error),
            _ => Ok(()),
        }
    }
}

/// The number of bytes that the buffer of the socket takes, 0 where it is full.
fn send_some(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    match socket.send(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}
