//! A long session: a connection that stays open until its client ends it.

use super::{Advance, Connection, MAX_READS_PER_TURN, Phase, READ_BUFFER_BYTES};
use crate::load::exchange::{Exchange, SessionContent};
use crate::load::http::{HttpReply, NotHttp};
use crate::load::outcome::Failure;
use crate::load::tls::StreamError;

/// One byte of the body of a request, and the end of the body (RFC 9112, section 7.1).
pub(super) const ONE_BYTE_CHUNK: &[u8] = b"1\r\n.\r\n";
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Connection {
    /// Whether it is a long session that has begun and not ended.
    pub(in crate::load) fn is_open_session(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Sends the next byte of the body of a session's request.
    pub(in crate::load) fn continue_session(&mut self) -> Advance {
        let has_body = matches!(self.options.exchange, Exchange::Session(SessionContent::Request(_)));
        if self.phase != Phase::Open || !has_body {
            return Advance::WaitForSocket;
        }
        let sent = self.stream.flush().map_err(StreamError::Io).and_then(|()| match self.stream.has_unsent() {
            // A server that does not read for a while has the bytes that it needs. One chunk is kept for it at most.
            true => Ok(()),
            false => self.stream.send(ONE_BYTE_CHUNK),
        });
        self.advance_to(sent.map(|()| Advance::WaitForSocket))
    }

    /// Ends a long session that is open, as its client does.
    pub(in crate::load) fn end_session(&mut self) -> Advance {
        let ended = match &self.options.exchange {
            Exchange::Session(SessionContent::Request(_)) => {
                self.phase = Phase::Receiving;
                self.stream.send(LAST_CHUNK)
            }
            _ => {
                self.phase = Phase::AwaitingClose;
                self.stream.close_tls().map_err(StreamError::Io)
            }
        };
        match ended {
            Ok(()) => self.drive(),
            Err(error) => self.advance_to(Err(error)),
        }
    }

    /// Reads what a server has to say in the middle of a session.
    pub(super) fn watch_session(&mut self) -> Result<Advance, StreamError> {
        let has_request = matches!(self.options.exchange, Exchange::Session(SessionContent::Request(_)));
        let mut buffer = [0; READ_BUFFER_BYTES];
        for _ in 0..MAX_READS_PER_TURN {
            let count = self.stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(Advance::Done(Err(self.early_end())));
            }
            match self.reply.feed(&buffer[..count]) {
                Err(NotHttp) if has_request => return Ok(Advance::Done(Err(Failure::NotHttp))),
                // The greeting of another protocol.
                Err(NotHttp) => self.reply = HttpReply::default(),
                Ok(()) if self.reply.is_complete() => return Ok(Advance::Done(Err(self.early_end()))),
                Ok(()) => {}
            }
        }
        Ok(Advance::RunAgain)
    }

    /// How the server ended a session before its client did.
    fn early_end(&self) -> Failure {
        self.check_reply().err().unwrap_or(Failure::AnsweredEarly)
    }
}
