//! Finds the end of an HTTP/1 reply (RFC 9112, section 6.3). It does no I/O: the caller feeds it the bytes that arrive.

/// The limit of a head. A longer one is an error, because no working server sends it.
const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 100;

/// One reply, as far as it has arrived.
#[derive(Debug, Default)]
pub(super) struct HttpReply {
    status: Option<u16>,
    keeps_connection: bool,
    position: Position,
    /// The bytes of an incomplete head.
    head: Vec<u8>,
    has_begun: bool,
}

/// Which part of the reply comes next.
#[derive(Debug, Default, PartialEq, Eq)]
enum Position {
    #[default]
    Head,
    /// This many bytes of the body are missing.
    Length(u64),
    /// The body ends when the connection does.
    Close,
    Chunks(ChunkPosition),
    Complete,
}

/// Which part of a chunked body comes next.
#[derive(Debug, PartialEq, Eq)]
enum ChunkPosition {
    /// The part of the chunk size that was read so far, and whether all its digits were read.
    Size(u64, bool),
    /// This many bytes of the chunk are missing.
    Data(u64),
    /// The line break after a chunk.
    DataEnd,
    /// How long the current line of the trailer is so far.
    Trailer(usize),
}

/// The bytes are not an HTTP/1 reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotHttp;

impl HttpReply {
    /// Takes the bytes that have arrived. Bytes after the end of the reply are ignored.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), NotHttp> {
        self.has_begun |= !bytes.is_empty();
        if self.position != Position::Head {
            return self.feed_body(bytes);
        }
        self.head.extend_from_slice(bytes);
        while self.position == Position::Head {
            match self.parse_head()? {
                None if self.head.len() > MAX_HEAD_BYTES => return Err(NotHttp),
                None => return Ok(()),
                Some(length) => drop(self.head.drain(..length)),
            }
        }
        let body = std::mem::take(&mut self.head);
        self.feed_body(&body)
    }

    /// Whether any byte has arrived.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether the reply has ended, independently of the end of the connection.
    pub(super) fn is_complete(&self) -> bool {
        self.position == Position::Complete
    }

    /// Whether the reply is complete, given that the connection has ended.
    pub(super) fn is_complete_at_close(&self) -> bool {
        matches!(self.position, Position::Complete | Position::Close)
    }

    /// Whether the reply is complete and the server keeps the connection open after it.
    pub(super) fn keeps_connection(&self) -> bool {
        self.keeps_connection && self.is_complete()
    }

    /// The status code, once the head is complete.
    pub(super) fn status(&self) -> Option<u16> {
        self.status
    }

    /// The length of the head in bytes; `None` where it is incomplete.
    fn parse_head(&mut self) -> Result<Option<usize>, NotHttp> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(&self.head).map_err(|_| NotHttp)? else {
            return Ok(None);
        };
        let status = response.code.ok_or(NotHttp)?;
        // An interim reply. The final one follows.
        if (100..200).contains(&status) {
            return Ok(Some(length));
        }
        let values_of = |name: &'static str| {
            let named = response.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
            named.filter_map(|header| std::str::from_utf8(header.value).ok()).flat_map(|value| value.split(','))
        };
        let has_word =
            |name: &'static str, word: &str| values_of(name).any(|value| value.trim().eq_ignore_ascii_case(word));
        self.status = Some(status);
        self.keeps_connection = match response.version {
            Some(1) => !has_word("connection", "close"),
            _ => has_word("connection", "keep-alive"),
        };
        self.position = match values_of("content-length").next().map(|value| value.trim().parse()) {
            _ if matches!(status, 204 | 304) => Position::Complete,
            _ if has_word("transfer-encoding", "chunked") => Position::Chunks(ChunkPosition::Size(0, false)),
            Some(Ok(0)) => Position::Complete,
            Some(Ok(length)) => Position::Length(length),
            Some(Err(_)) => return Err(NotHttp),
            None => Position::Close,
        };
        Ok(Some(length))
    }

    fn feed_body(&mut self, bytes: &[u8]) -> Result<(), NotHttp> {
        match &mut self.position {
            Position::Length(missing) => {
                *missing = missing.saturating_sub(bytes.len() as u64);
                if *missing == 0 {
                    self.position = Position::Complete;
                }
            }
            Position::Chunks(chunks) => {
                if chunks.feed(bytes)? {
                    self.position = Position::Complete;
                }
            }
            Position::Head | Position::Close | Position::Complete => {}
        }
        Ok(())
    }
}

impl ChunkPosition {
    /// True at the end of the last chunk.
    fn feed(&mut self, mut bytes: &[u8]) -> Result<bool, NotHttp> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self {
                ChunkPosition::Data(missing) => {
                    let taken = (*missing).min(bytes.len() as u64);
                    *missing -= taken;
                    bytes = &bytes[taken as usize..];
                    if *missing == 0 {
                        *self = ChunkPosition::DataEnd;
                    }
                    continue;
                }
                ChunkPosition::Size(size, _) if byte == b'\n' => {
                    *self = if *size == 0 { ChunkPosition::Trailer(0) } else { ChunkPosition::Data(*size) };
                }
                ChunkPosition::Size(size, is_over) => match (byte as char).to_digit(16) {
                    Some(digit) if !*is_over => {
                        *size = size.checked_mul(16).ok_or(NotHttp)? + u64::from(digit);
                    }
                    None if matches!(byte, b'\r' | b';' | b' ' | b'\t') => *is_over = true,
                    // A chunk extension may hold any byte.
                    _ if *is_over => {}
                    _ => return Err(NotHttp),
                },
                ChunkPosition::DataEnd if byte == b'\n' => *self = ChunkPosition::Size(0, false),
                ChunkPosition::DataEnd if byte == b'\r' => {}
                ChunkPosition::DataEnd => return Err(NotHttp),
                ChunkPosition::Trailer(0) if byte == b'\n' => return Ok(true),
                ChunkPosition::Trailer(length) if byte == b'\n' => *length = 0,
                ChunkPosition::Trailer(_) if byte == b'\r' => {}
                ChunkPosition::Trailer(length) => *length += 1,
            }
            bytes = rest;
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the whole text in one call, then byte by byte. Checks that both results are the same.
    fn fed(text: &str) -> HttpReply {
        let (mut whole, mut bytewise) = (HttpReply::default(), HttpReply::default());
        whole.feed(text.as_bytes()).unwrap();
        text.as_bytes().chunks(1).for_each(|byte| bytewise.feed(byte).unwrap());
        assert_eq!(
            (&whole.position, whole.status, whole.keeps_connection),
            (&bytewise.position, bytewise.status, bytewise.keeps_connection)
        );
        whole
    }

    #[test]
    fn reply_with_a_length_ends_after_that_many_bytes() {
        let reply = fed("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n");
        assert!(reply.is_complete() && reply.keeps_connection());
        assert_eq!(reply.status(), Some(200));
        let half = fed("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok");
        assert!(!half.is_complete() && !half.is_complete_at_close() && half.has_begun());
    }

    #[test]
    fn chunked_reply_ends_after_the_empty_chunk_and_the_trailer() {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked\r\n\r\n";
        let most = format!("{head}5;name=\"v\"\r\nhello\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX-Sum: 1\r\n");
        assert!(!fed(&most).is_complete_at_close());
        assert!(fed(&format!("{most}\r\n")).keeps_connection());
        let mut wrong = HttpReply::default();
        assert_eq!(wrong.feed(format!("{head}xyz\r\n").as_bytes()), Err(NotHttp));
        let mut endless = HttpReply::default();
        assert_eq!(endless.feed(format!("{head}{}\r\n", "f".repeat(40)).as_bytes()), Err(NotHttp));
    }

    #[test]
    fn reply_without_a_length_ends_with_the_connection() {
        let reply = fed("HTTP/1.0 200 OK\r\n\r\nok\n");
        assert!(reply.is_complete_at_close() && !reply.is_complete() && !reply.keeps_connection());
        assert!(!fed("HTTP/1.0 200 OK\r\n").is_complete_at_close());
    }

    #[test]
    fn version_and_connection_header_decide_keep_alive() {
        let keeps = |head: &str| fed(&format!("{head}\r\nContent-Length: 0\r\n\r\n")).keeps_connection();
        assert!(keeps("HTTP/1.1 200 OK") && !keeps("HTTP/1.0 200 OK"));
        assert!(!keeps("HTTP/1.1 200 OK\r\nConnection: foo, Close"));
        assert!(keeps("HTTP/1.0 200 OK\r\nconnection: Keep-Alive"));
        assert!(fed("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n").keeps_connection());
    }

    #[test]
    fn interim_reply_is_skipped() {
        let reply = fed("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
        assert_eq!((reply.status(), reply.is_complete()), (Some(503), true));
    }

    #[test]
    fn bytes_that_are_not_http_are_rejected_at_once() {
        assert_eq!(HttpReply::default().feed(b"SSH-2.0-OpenSSH_9.2\r\n"), Err(NotHttp));
        assert_eq!(HttpReply::default().feed(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), Err(NotHttp));
        let mut endless = HttpReply::default();
        let head = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD_BYTES));
        assert_eq!(endless.feed(head.as_bytes()), Err(NotHttp));
    }
}
