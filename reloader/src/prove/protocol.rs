//! Defines the protocol of a run: TCP, TLS, HTTP or HTTPS, on new or on kept connections.

use std::fmt;

use super::target_spec::TargetSpec;
use crate::load::{Exchange, Load, LoadError, Target, Tls};

/// What a client does on each connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protocol {
    /// Whether connections use TLS.
    pub tls: bool,
    /// The path of the HTTP request. `None`: the client sends nothing, and expects the service to close with a FIN.
    pub http: Option<String>,
    /// The number of connections that are kept and carry the requests. `None`: a new connection each time.
    pub keep_alive: Option<usize>,
}

/// Why a protocol is not valid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// HTTP cannot carry the path.
    #[error("--http={0}: a path begins with `/` and has neither spaces nor control characters; write them as %20")]
    Path(String),
}

impl Protocol {
    /// Checks that HTTP can carry the path.
    ///
    /// # Errors
    /// [`ProtocolError::Path`].
    pub fn check(&self) -> Result<(), ProtocolError> {
        match &self.http {
            Some(path) if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err(ProtocolError::Path(path.clone()))
            }
            _ => Ok(()),
        }
    }

    /// The word for the protocol in the JSON object: `tcp`, `tls`, `http` or `https`.
    pub fn word(&self) -> &'static str {
        match (self.tls, &self.http) {
            (false, None) => "tcp",
            (true, None) => "tls",
            (false, Some(_)) => "http",
            (true, Some(_)) => "https",
        }
    }

    /// What a run counts: `connections`, or `requests` where connections are kept.
    pub fn unit(&self) -> &'static str {
        if self.keep_alive.is_some() { "requests" } else { "connections" }
    }

    /// A load with this protocol on one address of the target.
    ///
    /// # Errors
    /// [`LoadError::InvalidHostName`] where TLS cannot ask for the target's host.
    pub fn load(&self, target: &TargetSpec, address: &Target) -> Result<Load, LoadError> {
        let mut load = Load::new(vec![address.clone()]).exchange(self.exchange(target));
        if self.tls {
            load = load.tls(Tls::new(target.host.as_deref().unwrap_or("localhost"), self.http.is_some())?);
        }
        if let Some(connections) = self.keep_alive {
            load = load.keep_alive(connections);
        }
        Ok(load)
    }

    fn exchange(&self, target: &TargetSpec) -> Exchange {
        let Some(path) = &self.http else { return Exchange::Close };
        let host = if target.host.is_some() { target.text.as_str() } else { "localhost" };
        let host = host.strip_suffix(if self.tls { ":443" } else { ":80" }).unwrap_or(host);
        let connection = if self.keep_alive.is_some() { "keep-alive" } else { "close" };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: reloader-prove/{}\r\nAccept: */*\r\nConnection: {connection}\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        Exchange::Http(request.into_bytes().into())
    }
}

/// Writes the protocol for a sentence: `HTTP requests for /health`.
impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.tls, &self.http) {
            (false, None) => write!(out, "TCP connections, closed without a request")?,
            (true, None) => write!(out, "TLS handshakes")?,
            (false, Some(path)) => write!(out, "HTTP requests for {path}")?,
            (true, Some(path)) => write!(out, "HTTPS requests for {path}")?,
        }
        match self.keep_alive {
            Some(connections) => write!(out, " on {connections} kept connections"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(protocol: &Protocol, target: &str) -> String {
        match protocol.exchange(&TargetSpec::parse(target).unwrap()) {
            Exchange::Http(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Exchange::Close => String::new(),
        }
    }

    #[test]
    fn request_names_the_host_as_a_browser_does() {
        let http = Protocol { http: Some("/health".into()), ..Protocol::default() };
        assert!(request(&http, "127.0.0.1:80").starts_with("GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"));
        assert!(request(&http, "[::1]:8080").contains("\r\nHost: [::1]:8080\r\n"));
        assert!(request(&http, "unix@/run/a.sock").contains("\r\nHost: localhost\r\n"));
        let kept = Protocol { tls: true, keep_alive: Some(5), ..http };
        assert!(request(&kept, "127.0.0.1:443").contains("\r\nHost: 127.0.0.1\r\n"));
        assert!(request(&kept, "127.0.0.1:443").contains("\r\nConnection: keep-alive\r\n"));
        assert_eq!((kept.word(), kept.unit()), ("https", "requests"));
    }

    #[test]
    fn path_that_would_split_the_request_is_refused() {
        for path in ["health", "/a b", "/a\r\nX: y", "/é"] {
            let http = Protocol { http: Some(path.into()), ..Protocol::default() };
            assert_eq!(http.check(), Err(ProtocolError::Path(path.into())));
        }
    }
}
