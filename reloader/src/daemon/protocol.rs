//! Defines the control socket's protocol: frames of a 4-byte big-endian length and that many bytes of JSON.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::plan::Planned;
use crate::receipt::{GenerationId, Receipt};
use crate::supervision::status::Status;

/// The longest answer: a receipt of 3,000 listeners has about a megabyte.
pub const LONGEST_FRAME: u32 = 64 << 20;

/// Room for a frame before it is read. What is longer takes more reads.
const USUAL_FRAME: u32 = 1 << 20;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Reload a service, or with `dry_run` only tell the plan.
    Reload {
        /// Only tell the plan.
        dry_run: bool,
        /// Which service; HAProxy, or the only one, where none is named.
        #[serde(default)]
        service: Option<String>,
        /// Why, for the receipt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comment: Option<String>,
    },
    /// Retire the serving generation and end.
    Stop,
    /// Tell which generation serves.
    Status,
    /// Send a signal to the first processes of all generations of a service.
    Signal {
        /// Which service.
        service: String,
        /// The number of the signal.
        signal: i32,
    },
    /// A reload was wanted, and the check that comes first refused the configuration: `status` is to say so.
    Refused {
        /// A sentence.
        reason: String,
    },
}

/// What the daemon answers: any number of [`Reply::Progress`], then one other.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Reply {
    /// What happens at the moment.
    Progress {
        /// A few words.
        phase: String,
        /// Whether the reload has begun: the daemon ends it within its own limits. Before that it waits for something.
        #[serde(default)]
        begun: bool,
    },
    /// A reload is over.
    Receipt {
        /// Its record.
        receipt: Box<Receipt>,
        /// Whether the record is in the journal; the reason when it is not.
        not_stored: Option<String>,
        /// Whether a generation serves now.
        serving: bool,
    },
    /// The plan of a dry run.
    Plan {
        /// One entry for each listener.
        plan: Vec<Planned>,
        /// Whether something serves at all.
        serving: bool,
        /// The lines of the check where it refuses the configuration on disk; empty where it does not.
        refused: Vec<String>,
        /// The program that checked the configuration.
        checked_by: Option<String>,
        /// What else the operator should know, in sentences.
        notes: Vec<String>,
    },
    /// The answer to [`Request::Status`].
    Status(Box<Status>),
    /// A signal was sent to the first processes of these generations.
    Signalled {
        /// The serving one first.
        sent: Vec<GenerationId>,
    },
    /// The daemon has noted the refused reload.
    Noted,
    /// The daemon ends.
    Stopped {
        /// The retired processes that open connections keep.
        drains: Vec<u32>,
        /// The masters among them. Programs of the configuration keep a master alive after its last worker has ended.
        #[serde(default)]
        with_programs: Vec<u32>,
        /// HAProxy belongs to its own unit, and goes on.
        stays: bool,
    },
    /// The request was not carried out.
    Refused {
        /// A sentence.
        message: String,
        /// The exit status for it.
        exit: u8,
    },
}

/// Writes one frame.
///
/// # Errors
/// Where the message is longer than [`LONGEST_FRAME`], or the other side does not take it.
pub async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= LONGEST_FRAME);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the message is too long"))?;
    stream.write_all(&[&length.to_be_bytes()[..], &body].concat()).await?;
    stream.flush().await
}

/// Reads one frame of at most `longest` bytes; `None` when the other side has closed between frames.
///
/// # Errors
/// Where the frame is longer, is not JSON of this type, or ends early.
pub async fn read_frame<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    longest: u32,
) -> io::Result<Option<T>> {
    let body = read_body(stream, longest).await?;
    Ok(body.map(|body| serde_json::from_slice(&body)).transpose()?)
}

/// Reads one reply, as [`read_frame`] does.
///
/// # Errors
/// Those of [`read_frame`].
pub async fn read_reply(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Reply>> {
    let body = read_body(stream, LONGEST_FRAME).await?;
    Ok(body.map(|body| Reply::from_json(&body)).transpose()?)
}

async fn read_body(stream: &mut (impl AsyncRead + Unpin), longest: u32) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let length = u32::from_be_bytes(length);
    if length > longest {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes is not a message")));
    }
    let mut body = Vec::with_capacity(length.min(USUAL_FRAME) as usize);
    stream.take(length.into()).read_to_end(&mut body).await?;
    Ok(Some(body))
}

/// [`Reply::Receipt`] alone.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ReceiptReply {
    receipt: Box<Receipt>,
    not_stored: Option<String>,
    serving: bool,
}

impl Reply {
    /// Reads a reply. Serde keeps a whole message with an inner tag in memory before it reads any of its fields. With a receipt of thousands of
    /// listeners that takes longer than all else that a client does, so a receipt is read by itself.
    fn from_json(body: &[u8]) -> serde_json::Result<Reply> {
        if !body.starts_with(br#"{"reply":"receipt","#) {
            return serde_json::from_slice(body);
        }
        let ReceiptReply { receipt, not_stored, serving } = serde_json::from_slice(body)?;
        Ok(Reply::Receipt { receipt, not_stored, serving })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_round_trip_and_end_cleanly() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &Request::Reload { dry_run: true, service: None, comment: None }).await.unwrap();
        assert_eq!(bytes[..4], (bytes.len() as u32 - 4).to_be_bytes());
        let mut reader = &bytes[..];
        assert_eq!(
            read_frame(&mut reader, 4096).await.unwrap(),
            Some(Request::Reload { dry_run: true, service: None, comment: None })
        );
        assert_eq!(read_frame::<Request>(&mut reader, 4096).await.unwrap(), None);
    }

    #[tokio::test]
    async fn every_reply_is_read_as_it_was_written() {
        let receipt = crate::receipt::Recorder::begin(
            Some("haproxy"),
            crate::receipt::Kind::Reload,
            std::time::Instant::now(),
            3,
            None,
        );
        let receipt = Box::new(receipt.finish(Ok(())));
        let replies = [
            Reply::Receipt { receipt, not_stored: Some("the disk is full".into()), serving: true },
            Reply::Progress { phase: "waiting".into(), begun: true },
            Reply::Noted,
        ];
        for reply in replies {
            let mut bytes = Vec::new();
            write_frame(&mut bytes, &reply).await.unwrap();
            let read = read_reply(&mut &bytes[..]).await.unwrap().unwrap();
            assert_eq!(format!("{read:?}"), format!("{reply:?}"));
            // The short way is taken for a receipt alone.
            assert_eq!(bytes[4..].starts_with(br#"{"reply":"receipt","#), matches!(reply, Reply::Receipt { .. }));
        }
        assert!(read_reply(&mut &b"\0\0\0\x15{\"reply\":\"receipt\",}"[..]).await.is_err());
    }

    #[tokio::test]
    async fn malformed_frame_is_an_error_and_takes_no_memory() {
        assert!(read_frame::<Request>(&mut &b"\xff\xff\xff\xff"[..], 4096).await.is_err());
        assert!(read_frame::<Request>(&mut &b"\0\0\0\x02{}"[..], 4096).await.is_err());
        assert!(read_frame::<Request>(&mut &b"\0\0\0\x09{}"[..], 4096).await.is_err());
    }
}
