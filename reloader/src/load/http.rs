//! Where a reply in HTTP/1 ends (RFC 9112, section 6.3). Pure: it is fed what arrives.

/// More than this before the body is no reply that anybody meant.
const LONGEST_HEAD: usize = 64 << 10;
const MOST_HEADERS: usize = 100;

/// One reply, as far as it has arrived.
#[derive(Debug, Default)]
pub(super) struct Reply {
    status: Option<u16>,
    may_stay: bool,
    at: At,
    head: Vec<u8>,
    heard: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Head,
    /// So many bytes of the body are missing.
    Length(u64),
    /// The body ends when the connection does.
    Close,
    Chunks(Chunks),
    Complete,
}

#[derive(Debug, PartialEq, Eq)]
enum Chunks {
    /// The size read so far, and whether its digits are over.
    Size(u64, bool),
    Data(u64),
    /// The line's end behind a chunk.
    DataEnd,
    /// How much of the present line of the trailer there is.
    Trailer(usize),
}

/// What arrived is not HTTP/1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotHttp;

impl Reply {
    /// Takes what has arrived. Bytes behind the end are ignored.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), NotHttp> {
        self.heard |= !bytes.is_empty();
        if self.at != At::Head {
            return self.body(bytes);
        }
        self.head.extend_from_slice(bytes);
        while self.at == At::Head {
            match self.parse_head()? {
                None if self.head.len() > LONGEST_HEAD => return Err(NotHttp),
                None => return Ok(()),
                Some(length) => drop(self.head.drain(..length)),
            }
        }
        let body = std::mem::take(&mut self.head);
        self.body(&body)
    }

    /// Whether anything has arrived.
    pub(super) fn was_heard(&self) -> bool {
        self.heard
    }

    /// Whether its end is known to be there, without the end of the connection.
    pub(super) fn is_complete(&self) -> bool {
        self.at == At::Complete
    }

    /// Whether it is whole, now that the connection has ended.
    pub(super) fn is_whole_at_close(&self) -> bool {
        matches!(self.at, At::Complete | At::Close)
    }

    /// Whether the server lets the connection stay open behind it.
    pub(super) fn may_stay(&self) -> bool {
        self.may_stay && self.is_complete()
    }

    /// The status, once its line is there.
    pub(super) fn status(&self) -> Option<u16> {
        self.status
    }

    /// The length of the head, where all of it is there.
    fn parse_head(&mut self) -> Result<Option<usize>, NotHttp> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(&self.head).map_err(|_| NotHttp)? else {
            return Ok(None);
        };
        let status = response.code.ok_or(NotHttp)?;
        // An interim reply: the real one follows.
        if (100..200).contains(&status) {
            return Ok(Some(length));
        }
        let values = |name: &'static str| {
            let named = response.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
            named.filter_map(|header| std::str::from_utf8(header.value).ok()).flat_map(|value| value.split(','))
        };
        let says = |name: &'static str, word: &str| values(name).any(|value| value.trim().eq_ignore_ascii_case(word));
        self.status = Some(status);
        self.may_stay = match response.version {
            Some(1) => !says("connection", "close"),
            _ => says("connection", "keep-alive"),
        };
        self.at = match values("content-length").next().map(|value| value.trim().parse()) {
            _ if matches!(status, 204 | 304) => At::Complete,
            _ if says("transfer-encoding", "chunked") => At::Chunks(Chunks::Size(0, false)),
            Some(Ok(0)) => At::Complete,
            Some(Ok(length)) => At::Length(length),
            Some(Err(_)) => return Err(NotHttp),
            None => At::Close,
        };
        Ok(Some(length))
    }

    fn body(&mut self, bytes: &[u8]) -> Result<(), NotHttp> {
        match &mut self.at {
            At::Length(missing) => {
                *missing = missing.saturating_sub(bytes.len() as u64);
                if *missing == 0 {
                    self.at = At::Complete;
                }
            }
            At::Chunks(chunks) => {
                if chunks.feed(bytes)? {
                    self.at = At::Complete;
                }
            }
            At::Head | At::Close | At::Complete => {}
        }
        Ok(())
    }
}

impl Chunks {
    /// True at the end of the last one.
    fn feed(&mut self, mut bytes: &[u8]) -> Result<bool, NotHttp> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self {
                Chunks::Data(missing) => {
                    let taken = (*missing).min(bytes.len() as u64);
                    *missing -= taken;
                    bytes = &bytes[taken as usize..];
                    if *missing == 0 {
                        *self = Chunks::DataEnd;
                    }
                    continue;
                }
                Chunks::Size(size, _) if byte == b'\n' => {
                    *self = if *size == 0 { Chunks::Trailer(0) } else { Chunks::Data(*size) };
                }
                Chunks::Size(size, is_over) => match (byte as char).to_digit(16) {
                    Some(digit) if !*is_over => {
                        *size = size.checked_mul(16).ok_or(NotHttp)? + u64::from(digit);
                    }
                    None if matches!(byte, b'\r' | b';' | b' ' | b'\t') => *is_over = true,
                    // An extension may be anything.
                    _ if *is_over => {}
                    _ => return Err(NotHttp),
                },
                Chunks::DataEnd if byte == b'\n' => *self = Chunks::Size(0, false),
                Chunks::DataEnd if byte == b'\r' => {}
                Chunks::DataEnd => return Err(NotHttp),
                Chunks::Trailer(0) if byte == b'\n' => return Ok(true),
                Chunks::Trailer(length) if byte == b'\n' => *length = 0,
                Chunks::Trailer(_) if byte == b'\r' => {}
                Chunks::Trailer(length) => *length += 1,
            }
            bytes = rest;
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same whether it arrives at once or byte by byte.
    fn fed(text: &str) -> Reply {
        let (mut whole, mut bytewise) = (Reply::default(), Reply::default());
        whole.feed(text.as_bytes()).unwrap();
        text.as_bytes().chunks(1).for_each(|byte| bytewise.feed(byte).unwrap());
        assert_eq!((&whole.at, whole.status, whole.may_stay), (&bytewise.at, bytewise.status, bytewise.may_stay));
        whole
    }

    #[test]
    fn a_length_says_where_the_reply_ends() {
        let reply = fed("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n");
        assert!(reply.is_complete() && reply.may_stay());
        assert_eq!(reply.status(), Some(200));
        let half = fed("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok");
        assert!(!half.is_complete() && !half.is_whole_at_close() && half.was_heard());
    }

    #[test]
    fn chunks_end_with_an_empty_one() {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked\r\n\r\n";
        let most = format!("{head}5;name=\"v\"\r\nhello\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX-Sum: 1\r\n");
        assert!(!fed(&most).is_whole_at_close());
        assert!(fed(&format!("{most}\r\n")).may_stay());
        let mut wrong = Reply::default();
        assert_eq!(wrong.feed(format!("{head}xyz\r\n").as_bytes()), Err(NotHttp));
        let mut endless = Reply::default();
        assert_eq!(endless.feed(format!("{head}{}\r\n", "f".repeat(40)).as_bytes()), Err(NotHttp));
    }

    #[test]
    fn without_a_length_the_close_ends_it() {
        let reply = fed("HTTP/1.0 200 OK\r\n\r\nok\n");
        assert!(reply.is_whole_at_close() && !reply.is_complete() && !reply.may_stay());
        assert!(!fed("HTTP/1.0 200 OK\r\n").is_whole_at_close());
    }

    #[test]
    fn whether_the_connection_may_stay() {
        let stays = |head: &str| fed(&format!("{head}\r\nContent-Length: 0\r\n\r\n")).may_stay();
        assert!(stays("HTTP/1.1 200 OK") && !stays("HTTP/1.0 200 OK"));
        assert!(!stays("HTTP/1.1 200 OK\r\nConnection: foo, Close"));
        assert!(stays("HTTP/1.0 200 OK\r\nconnection: Keep-Alive"));
        assert!(fed("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n").may_stay());
    }

    #[test]
    fn an_interim_reply_is_not_the_reply() {
        let reply = fed("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
        assert_eq!((reply.status(), reply.is_complete()), (Some(503), true));
    }

    #[test]
    fn what_is_not_http_is_said_at_once() {
        assert_eq!(Reply::default().feed(b"SSH-2.0-OpenSSH_9.2\r\n"), Err(NotHttp));
        assert_eq!(Reply::default().feed(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), Err(NotHttp));
        let mut endless = Reply::default();
        let head = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(LONGEST_HEAD));
        assert_eq!(endless.feed(head.as_bytes()), Err(NotHttp));
    }
}
