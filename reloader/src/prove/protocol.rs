//! Defines the protocol of a run: TCP, TLS, HTTP or HTTPS, on new or on kept connections.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::target_spec::TargetSpec;
use crate::load::{ClientCertificate, Exchange, Load, LoadError, LongSessions, SessionContent, Target, Tls};

/// What a client does on each connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protocol {
    /// Whether connections use TLS.
    pub tls: bool,
    /// The path of the HTTP request. `None`: the client sends nothing, and expects the service to close with a FIN.
    pub http: Option<String>,
    /// The number of connections that are kept and carry the requests. `None`: a new connection each time.
    pub keep_alive: Option<usize>,
    /// Further header lines of the request, `NAME: VALUE` each.
    pub headers: Vec<String>,
    /// Whether each connection begins with a PROXY header.
    pub proxy_protocol: bool,
    /// The files of the client's certificate and of its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
}

/// What the operator asked for by `--hold`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSettings {
    /// The number of sessions.
    pub count: usize,
    /// The path of the POST requests that are held. `None`: GET requests for the path of `--http`, or nothing but connections.
    pub post: Option<String>,
}

/// Why a protocol is not valid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// HTTP cannot carry the path. The option comes first.
    #[error("{0}={1}: a path begins with `/` and has neither spaces nor control characters; write them as %20")]
    Path(&'static str, String),
    /// HTTP cannot carry the header, or it would change what a run counts.
    #[error("--header `{}`: {}", .0.escape_debug(), .1)]
    Header(String, &'static str),
}

impl SessionSettings {
    /// Checks that HTTP can carry the path.
    ///
    /// # Errors
    /// [`ProtocolError::Path`].
    pub fn check(&self) -> Result<(), ProtocolError> {
        self.post.as_ref().map_or(Ok(()), |path| check_path("--hold-post", path))
    }
}

impl Protocol {
    /// Checks that HTTP can carry the path and the headers.
    ///
    /// # Errors
    /// [`ProtocolError::Path`] or [`ProtocolError::Header`].
    pub fn check(&self) -> Result<(), ProtocolError> {
        self.http.as_ref().map_or(Ok(()), |path| check_path("--http", path))?;
        self.headers
            .iter()
            .try_for_each(|header| check_header(header).map_err(|remedy| ProtocolError::Header(header.clone(), remedy)))
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
        let load = self.load_of(self.exchange(target), target, address)?;
        Ok(match self.keep_alive {
            Some(connections) => load.keep_alive(connections),
            None => load,
        })
    }

    /// The long sessions beside a load, each of which has `timeout` to begin, and to end.
    ///
    /// # Errors
    /// As for [`Protocol::load`].
    pub fn sessions(
        &self,
        settings: &SessionSettings,
        target: &TargetSpec,
        address: &Target,
        timeout: Duration,
    ) -> Result<LongSessions, LoadError> {
        let head = settings.post.as_ref().map(|path| ("POST", path)).or(self.http.as_ref().map(|path| ("GET", path)));
        let content = head.map_or(SessionContent::Nothing, |(method, path)| {
            SessionContent::Request(self.request(method, path, target, &["Transfer-Encoding: chunked"]))
        });
        self.load_of(Exchange::Session(content), target, address)?.timeout(timeout).into_sessions(settings.count)
    }

    fn load_of(&self, exchange: Exchange, target: &TargetSpec, address: &Target) -> Result<Load, LoadError> {
        let mut load = Load::new(vec![address.clone()]).exchange(exchange);
        if self.tls {
            let files = self.client_certificate.as_ref();
            let certificate = files.map(|(certificate, key)| ClientCertificate::read(certificate, key)).transpose()?;
            let host = target.host.as_deref().unwrap_or("localhost");
            load = load.tls(Tls::with_certificate(host, self.http.is_some(), certificate)?);
        }
        if self.proxy_protocol {
            load = load.proxy_protocol();
        }
        Ok(load)
    }

    fn exchange(&self, target: &TargetSpec) -> Exchange {
        match &self.http {
            Some(path) => Exchange::Http(self.request("GET", path, target, &[])),
            None => Exchange::Close,
        }
    }

    /// The head of a request. `own` are header lines that the operator's do not replace.
    fn request(&self, method: &str, path: &str, target: &TargetSpec, own: &[&str]) -> Arc<[u8]> {
        let host = if target.host.is_some() { target.text.as_str() } else { "localhost" };
        let host = host.strip_suffix(if self.tls { ":443" } else { ":80" }).unwrap_or(host);
        let connection = if self.keep_alive.is_some() && own.is_empty() { "keep-alive" } else { "close" };
        let given = |name: &str| self.headers.iter().any(|header| name_of(header).eq_ignore_ascii_case(name));
        let defaults = [
            ("Host", host.to_owned()),
            ("User-Agent", format!("reloader-prove/{}", env!("CARGO_PKG_VERSION"))),
            ("Accept", "*/*".into()),
            ("Connection", connection.into()),
        ];
        let defaults = defaults.into_iter().filter(|(name, _)| !given(name));
        let lines = defaults.map(|(name, value)| format!("{name}: {value}")).chain(self.headers.iter().cloned());
        let lines = lines.chain(own.iter().map(|line| (*line).to_owned()));
        let lines: String = lines.map(|line| format!("{line}\r\n")).collect();
        format!("{method} {path} HTTP/1.1\r\n{lines}\r\n").into_bytes().into()
    }
}

/// Checks that HTTP can carry the path that this option gives.
pub(super) fn check_path(option: &'static str, path: &str) -> Result<(), ProtocolError> {
    match path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(ProtocolError::Path(option, path.to_owned())),
    }
}

fn name_of(header: &str) -> &str {
    header.split(':').next().unwrap_or_default()
}

fn check_header(header: &str) -> Result<(), &'static str> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let (name, value) = header.split_once(':').ok_or("write it as NAME: VALUE")?;
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err("its name has a character that a header's name cannot have");
    }
    if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err("its value has a control character");
    }
    let own = ["connection", "content-length", "transfer-encoding", "upgrade", "expect"];
    match own.contains(&name.to_ascii_lowercase().as_str()) {
        true => Err("it would change how the reply ends, by which prove counts; leave it out"),
        false => Ok(()),
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
        if let Some(connections) = self.keep_alive {
            write!(out, " on {connections} kept connections")?;
        }
        if self.client_certificate.is_some() {
            write!(out, " with a client certificate")?;
        }
        if self.proxy_protocol {
            write!(out, " behind a PROXY header")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(protocol: &Protocol, target: &str) -> String {
        match protocol.exchange(&TargetSpec::parse(target).unwrap()) {
            Exchange::Http(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Exchange::Close | Exchange::Session(_) => String::new(),
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
    fn given_header_replaces_the_default_one() {
        let headers = vec!["host: web.example".to_owned(), "X-Probe: 1".to_owned()];
        let http = Protocol { http: Some("/".into()), headers, ..Protocol::default() };
        assert_eq!(http.check(), Ok(()));
        let text = request(&http, "127.0.0.1:80");
        assert!(text.ends_with("\r\nhost: web.example\r\nX-Probe: 1\r\n\r\n") && !text.contains("Host:"), "{text}");
    }

    #[test]
    fn header_that_would_split_the_request_or_change_its_end_is_refused() {
        for header in ["X", ": y", "a b: c", "X: y\r\nZ: 1", "Connection: close", "transfer-encoding: chunked"] {
            let http = Protocol { headers: vec![header.into()], ..Protocol::default() };
            assert!(matches!(http.check(), Err(ProtocolError::Header(..))), "{header:?}");
        }
    }

    #[test]
    fn path_that_would_split_the_request_is_refused() {
        for path in ["health", "/a b", "/a\r\nX: y", "/é"] {
            let http = Protocol { http: Some(path.into()), ..Protocol::default() };
            assert_eq!(http.check(), Err(ProtocolError::Path("--http", path.into())));
        }
    }
}
