use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{exit, output};
use crate::config;
use crate::prove::{ProofSettings, Protocol, SessionSettings};

/// Arguments of `reloader prove`.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::PROVE)]
pub(in crate::cli) struct Arguments {
    /// Address that clients connect to: an address or a host name with a port, or unix@/PATH.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(super) target: String,
    /// New connections per second; with --keep-alive, requests per second.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = rate)]
    pub(super) rate: u32,
    /// Number of reloads.
    #[arg(long, value_name = "N", default_value = "10", value_parser = reloads)]
    pub(super) reloads: u32,
    /// Time from the beginning of one reload to the beginning of the next.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = config::parse_duration)]
    pub(super) interval: Duration,
    /// Command that reloads the service, for `sh -c`. Without it the daemon reloads, as for `reloader reload`.
    #[arg(long, value_name = "CMD")]
    pub(super) reload_command: Option<String>,
    /// Service of the daemon to reload [default: haproxy, or the only one].
    #[arg(long, value_name = "NAME", conflicts_with = "reload_command")]
    pub(super) service: Option<String>,
    /// Send an HTTP request for / or this path on each connection. A reply of 2xx or 3xx is a success.
    #[arg(long, value_name = "/PATH", num_args = 0..=1, require_equals = true, default_missing_value = "/")]
    pub(super) http: Option<String>,
    /// Use TLS, with --http inside it. The certificate is not verified: the run proves that there is service, not whose.
    #[arg(long)]
    pub(super) tls: bool,
    /// Keep 50 connections, or this many, and send the requests on them. A request is lost if the service closes or resets
    /// its connection.
    #[arg(
        long,
        value_name = "CONNECTIONS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "50",
        requires = "http",
        value_parser = connections
    )]
    pub(super) keep_alive: Option<usize>,
    /// Hold this many long sessions through all reloads: with --http requests in progress, otherwise connections on which nothing is sent. A
    /// session that dies is lost.
    #[arg(long, value_name = "N", value_parser = sessions)]
    pub(super) hold: Option<usize>,
    /// Hold POST requests for this path, and not GET requests for the path of --http.
    #[arg(long, value_name = "/PATH", requires_all = ["hold", "http"])]
    pub(super) hold_post: Option<String>,
    /// A header of the request, as `NAME: VALUE`. It may be given several times; one of prove's own is replaced.
    #[arg(long, value_name = "NAME: VALUE", requires = "http")]
    pub(super) header: Vec<String>,
    /// Begin each connection with a PROXY header of version 1, for a service behind a proxy (`accept-proxy`).
    #[arg(long)]
    pub(super) proxy_protocol: bool,
    /// Certificate (PEM, with its chain) for a service that asks its clients for one.
    #[arg(long, value_name = "FILE.pem", requires = "tls")]
    pub(super) client_cert: Option<PathBuf>,
    /// Private key of the certificate [default: in the file of the certificate].
    #[arg(long, value_name = "FILE.pem", requires = "client_cert")]
    pub(super) client_key: Option<PathBuf>,
    /// Longest time that a connection or request may take.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = timeout)]
    pub(super) timeout: Duration,
    /// Write a report: one HTML file that needs no other.
    #[arg(long, value_name = "FILE.html")]
    pub(super) report: Option<PathBuf>,
    #[command(flatten)]
    pub(super) format: output::Format,
}

impl Arguments {
    pub(super) fn protocol(&self) -> Protocol {
        let key = |certificate: &PathBuf| self.client_key.clone().unwrap_or_else(|| certificate.clone());
        Protocol {
            tls: self.tls,
            http: self.http.clone(),
            keep_alive: self.keep_alive,
            headers: self.header.clone(),
            proxy_protocol: self.proxy_protocol,
            client_certificate: self.client_cert.as_ref().map(|certificate| (certificate.clone(), key(certificate))),
        }
    }

    pub(super) fn sessions(&self) -> Option<SessionSettings> {
        self.hold.map(|count| SessionSettings { count, post: self.hold_post.clone() })
    }

    pub(super) fn settings(&self, doubt: Option<String>) -> ProofSettings {
        ProofSettings {
            target: self.target.clone(),
            protocol: self.protocol(),
            sessions: self.sessions(),
            rate: self.rate,
            reloads: self.reloads,
            interval: self.interval,
            command: self.reload_command.clone(),
            command_line: command_line(std::env::args_os()),
            doubt,
        }
    }
}

/// Reads a number from 1 up. `why_not_zero` is the message for 0.
fn positive<T: std::str::FromStr + PartialOrd + From<u8>>(text: &str, why_not_zero: &str) -> Result<T, String> {
    match text.parse::<T>() {
        Ok(number) if number >= T::from(1) => Ok(number),
        Ok(_) => Err(why_not_zero.into()),
        Err(_) => Err(format!("`{text}` is not a positive integer, or too large")),
    }
}

fn rate(text: &str) -> Result<u32, String> {
    positive(text, "a rate of 0 would make no connection")
}

fn reloads(text: &str) -> Result<u32, String> {
    positive(text, "without a reload nothing would be proven; give at least 1")
}

fn connections(text: &str) -> Result<usize, String> {
    positive(text, "keep at least one connection")
}

fn sessions(text: &str) -> Result<usize, String> {
    positive(text, "0 sessions would show nothing; leave out --hold")
}

fn timeout(text: &str) -> Result<Duration, String> {
    match config::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("nothing can be served within 0 s; give for example \"10s\"".into()),
        parsed => parsed,
    }
}

/// The command line, quoted for a shell. Bytes that are not UTF-8 are replaced. Values of headers, which may be secret, are left out: reports
/// are passed on.
fn command_line(words: impl Iterator<Item = OsString>) -> String {
    let mut is_header = false;
    let word = |word: OsString| {
        let word = word.to_string_lossy();
        let is_value = std::mem::replace(&mut is_header, word == "--header");
        match word.split_once(':').filter(|_| is_value || word.starts_with("--header=")) {
            Some((name, _)) => quoted(&format!("{name}: …")),
            None => quoted(&word),
        }
    };
    words.map(word).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_./:=@,+%[]".contains(character);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn command_line_is_quoted_for_a_shell() {
        assert_eq!(["--http=/a", "a b", "it's", ""].map(quoted), ["--http=/a", "'a b'", "'it'\\''s'", "''"]);
    }

    #[test]
    fn command_line_need_not_be_utf_8() {
        let words = [&b"reloader"[..], b"--report=/tmp/\xff.html"].map(|word| OsString::from_vec(word.to_vec()));
        assert_eq!(command_line(words.into_iter()), "reloader '--report=/tmp/\u{fffd}.html'");
    }

    #[test]
    fn values_of_headers_are_left_out_of_the_command_line() {
        let words = ["reloader", "--header", "Authorization: secret", "--header=Cookie: b", "a:b"].map(OsString::from);
        assert_eq!(command_line(words.into_iter()), "reloader --header 'Authorization: …' '--header=Cookie: …' a:b");
    }

    #[test]
    fn numbers_that_prove_nothing_are_refused_with_a_sentence() {
        assert!(reloads("0").unwrap_err().contains("nothing would be proven"));
        assert!(rate("-1").is_err() && rate("5000000000").is_err() && rate("1e3").is_err());
        assert_eq!((rate("8000"), connections("1")), (Ok(8000), Ok(1)));
    }
}
