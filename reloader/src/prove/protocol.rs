//! How the service is spoken to.

use std::fmt;

use super::Place;
use crate::load::{Exchange, Load, LoadError, Target, Tls};

/// What is done on each connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protocol {
    /// TLS is spoken.
    pub tls: bool,
    /// This path is asked for by HTTP; `None`: connected, and closed in good order.
    pub http: Option<String>,
    /// So many connections are kept, and carry the requests.
    pub keep_alive: Option<usize>,
}

/// What cannot be spoken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A path that HTTP cannot carry.
    #[error("--http={0}: a path begins with `/` and has neither spaces nor control characters; write them as %20")]
    Path(String),
}

impl Protocol {
    /// Whether HTTP can carry it.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), ProtocolError> {
        match &self.http {
            Some(path) if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err(ProtocolError::Path(path.clone()))
            }
            _ => Ok(()),
        }
    }

    /// `tcp`, `tls`, `http`, `https`: what scripts read.
    pub fn word(&self) -> &'static str {
        match (self.tls, &self.http) {
            (false, None) => "tcp",
            (true, None) => "tls",
            (false, Some(_)) => "http",
            (true, Some(_)) => "https",
        }
    }

    /// What is counted: `connections`, or `requests` where connections are kept.
    pub fn unit(&self) -> &'static str {
        if self.keep_alive.is_some() { "requests" } else { "connections" }
    }

    /// A load that speaks so to one address of the place.
    ///
    /// # Errors
    /// Where TLS cannot ask for the host.
    pub fn load(&self, place: &Place, address: &Target) -> Result<Load, LoadError> {
        let mut load = Load::new(vec![address.clone()]).exchange(self.exchange(place));
        if self.tls {
            load = load.tls(Tls::new(place.host.as_deref().unwrap_or("localhost"), self.http.is_some())?);
        }
        if let Some(connections) = self.keep_alive {
            load = load.keep_alive(connections);
        }
        Ok(load)
    }

    fn exchange(&self, place: &Place) -> Exchange {
        let Some(path) = &self.http else { return Exchange::Close };
        let host = if place.host.is_some() { place.text.as_str() } else { "localhost" };
        let host = host.strip_suffix(if self.tls { ":443" } else { ":80" }).unwrap_or(host);
        let connection = if self.keep_alive.is_some() { "keep-alive" } else { "close" };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: reloader-prove/{}\r\nAccept: */*\r\nConnection: {connection}\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        Exchange::Http(request.into_bytes().into())
    }
}

/// In a sentence.
impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.tls, &self.http) {
            (false, None) => write!(out, "TCP connections, closed in good order")?,
            (true, None) => write!(out, "TLS handshakes")?,
            (false, Some(path)) => write!(out, "HTTP requests for {path}")?,
            (true, Some(path)) => write!(out, "HTTPS requests for {path}")?,
        }
        match self.keep_alive {
            Some(connections) => write!(out, " on {connections} connections that are kept"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(protocol: &Protocol, target: &str) -> String {
        match protocol.exchange(&Place::parse(target).unwrap()) {
            Exchange::Http(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Exchange::Close => String::new(),
        }
    }

    #[test]
    fn a_request_names_the_host_as_a_browser_would() {
        let http = Protocol { http: Some("/health".into()), ..Protocol::default() };
        assert!(asked(&http, "127.0.0.1:80").starts_with("GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"));
        assert!(asked(&http, "[::1]:8080").contains("\r\nHost: [::1]:8080\r\n"));
        assert!(asked(&http, "unix@/run/a.sock").contains("\r\nHost: localhost\r\n"));
        let kept = Protocol { tls: true, keep_alive: Some(5), ..http };
        assert!(asked(&kept, "127.0.0.1:443").contains("\r\nHost: 127.0.0.1\r\n"));
        assert!(asked(&kept, "127.0.0.1:443").contains("\r\nConnection: keep-alive\r\n"));
        assert_eq!((kept.word(), kept.unit()), ("https", "requests"));
    }

    #[test]
    fn a_path_that_would_split_the_request_is_refused() {
        for path in ["health", "/a b", "/a\r\nX: y", "/é"] {
            let http = Protocol { http: Some(path.into()), ..Protocol::default() };
            assert_eq!(http.check(), Err(ProtocolError::Path(path.into())));
        }
    }
}
