//! Asks a HAProxy for its listeners over a stats socket.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::SendFlags;

use super::codec::{self, CodecError};
use crate::kernel::scm_rights::{self, Descriptors};
use crate::model::SocketMetadata;

/// Why the listeners could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The stats socket cannot be reached.
    #[error("cannot reach the stats socket {path}: {source}")]
    Connect {
        /// The socket.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The server closed the connection without a byte.
    #[error(
        "the stats socket closed without an answer: it has no listeners to pass, lacks `expose-fd listeners`, or belongs to a HAProxy before 1.8"
    )]
    NotExposed,
    /// The server stopped in the middle.
    #[error("the socket transfer stopped after {received} of {announced} sockets: {source}")]
    Interrupted {
        /// Sockets received.
        received: usize,
        /// Sockets announced.
        announced: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// More descriptors than this process may hold.
    #[error(
        "the kernel cut the socket transfer short: this process may not hold that many descriptors (RLIMIT_NOFILE)"
    )]
    DescriptorLimit,
    /// The bytes are not `_getsocks`.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// How long one answer may take. HAProxy itself waits one second for its peer.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns duplicates of all listeners that the HAProxy at the stats socket `path` exports. Each descriptor is close-on-exec.
///
/// # Errors
/// The socket cannot be reached, it exports nothing, or the transfer stops before its end.
pub fn get_sockets(path: &Path) -> Result<Vec<(OwnedFd, SocketMetadata)>, ClientError> {
    let connected = || {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(TRANSFER_TIMEOUT))?;
        stream.set_write_timeout(Some(TRANSFER_TIMEOUT))?;
        Ok(stream)
    };
    let stream = connected().map_err(|source| ClientError::Connect { path: path.display().to_string(), source })?;
    if io::Write::write_all(&mut &stream, codec::REQUEST).is_err() {
        return Err(ClientError::NotExposed);
    }
    receive(&stream)
}

fn receive(stream: &UnixStream) -> Result<Vec<(OwnedFd, SocketMetadata)>, ClientError> {
    let mut count = [0; 4];
    let announced = match scm_rights::receive(stream, &mut count) {
        Ok((0, _)) => return Err(ClientError::NotExposed),
        Ok((length, _)) => codec::decode_count(&count[..length])?,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(ClientError::NotExposed),
        Err(source) => return Err(ClientError::Interrupted { received: 0, announced: 0, source }),
    };
    let mut sockets = Vec::with_capacity(announced);
    // Room for the longest record of 253 descriptors (MAX_SEND_FD of HAProxy 1.8), all names at their longest.
    let mut buffer = vec![0; 253 * (2 * (1 + 255) + 4)];
    while sockets.len() < announced {
        let received = sockets.len();
        let interrupted = |source| ClientError::Interrupted { received, announced, source };
        let (length, descriptors) = scm_rights::receive(stream, &mut buffer).map_err(interrupted)?;
        if length == 0 {
            return Err(interrupted(io::ErrorKind::UnexpectedEof.into()));
        }
        let records = codec::decode_batch(&buffer[..length])?;
        match descriptors {
            Descriptors::Truncated => return Err(ClientError::DescriptorLimit),
            Descriptors::All(all) if all.len() != records.len() => {
                return Err(CodecError::Mismatch { descriptors: all.len(), records: records.len() }.into());
            }
            Descriptors::All(all) => sockets.extend(all.into_iter().zip(records)),
        }
        // A server before 3.2 does not read the last acknowledgement and may be gone.
        let _ = io::Write::write_all(&mut &*stream, &0i32.to_ne_bytes());
    }
    Ok(sockets)
}

/// Sends descriptors and their records: the server's side of one transfer.
///
/// Returns when the receiver has acknowledged the last batch, or closed after it.
///
/// # Errors
/// Where the receiver does not take a batch, or a name is too long for it.
pub fn send_sockets<'a>(
    stream: &UnixStream,
    sockets: &[(std::os::fd::BorrowedFd<'a>, SocketMetadata)],
) -> io::Result<()> {
    if sockets.is_empty() {
        return Ok(());
    }
    send_message(stream, &codec::encode_count(sockets.len()), &[])?;
    for batch in sockets.chunks(codec::BATCH) {
        let data = codec::encode_batch(batch.iter().map(|(_, record)| record)).map_err(io::Error::other)?;
        let descriptors: Vec<_> = batch.iter().map(|(fd, _)| *fd).collect();
        send_message(stream, &data, &descriptors)?;
        let mut ack = [0; 4];
        io::Read::read_exact(&mut &*stream, &mut ack)?;
    }
    Ok(())
}

fn send_message(stream: &UnixStream, data: &[u8], descriptors: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
    let sent = scm_rights::send(stream, data, descriptors, SendFlags::empty())?;
    if sent != data.len() {
        // The receiver reads a batch with one recvmsg: half a batch is useless to it.
        return Err(io::Error::new(io::ErrorKind::WriteZero, "the receiver took only part of a batch"));
    }
    Ok(())
}
