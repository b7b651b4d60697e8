//! Makes a load of HTTP/3 connections with the clients of aioquic, a Python package that is independent of HAProxy.

mod outcome;
mod package;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::haproxy::HaproxyBinary;
use crate::netns;
use crate::poll::until;
use crate::versions::cache_dir;

pub use outcome::Outcomes;
pub use package::fetch;

/// Whether this HAProxy was built with QUIC.
pub fn speaks_quic(binary: &HaproxyBinary) -> bool {
    let features = Command::new(&binary.path).arg("-vv").output().expect("running haproxy -vv").stdout;
    String::from_utf8_lossy(&features).contains("+QUIC")
}

/// Creates a certificate with its key in one file, as HAProxy expects it.
pub fn certificate(dir: &Path) -> PathBuf {
    certificate_for("reloader.test", dir)
}

/// Creates a certificate for this host name, as [`certificate`] does.
pub fn certificate_for(name: &str, dir: &Path) -> PathBuf {
    let (key, pem) = (dir.join("key.pem"), dir.join("site.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-subj", &format!("/CN={name}"), "-days", "30", "-keyout"]).arg(&key).arg("-out").arg(&pem);
    assert!(openssl.output().expect("running openssl").status.success());
    let both = [fs::read(&pem), fs::read(&key)].map(|part| part.expect("openssl wrote it")).concat();
    fs::write(&pem, both).expect("writing the certificate");
    pem
}

const CLIENT: &str = include_str!("client.py");

/// A load that has not been started.
pub struct Load {
    host: String,
    port: u16,
    rate: u32,
    long_lived: u32,
    request_timeout: u32,
}

impl Load {
    /// New connections to one address, 20 per second, each with one request.
    pub fn to(host: &str, port: u16) -> Load {
        Load { host: host.into(), port, rate: 20, long_lived: 0, request_timeout: 10 }
    }

    /// Adds this many connections that stay open, with ten requests per second each.
    pub fn long_lived(mut self, number: u32) -> Load {
        self.long_lived = number;
        self
    }

    /// Sets how many seconds a request may take.
    pub fn request_timeout(mut self, seconds: u32) -> Load {
        self.request_timeout = seconds;
        self
    }

    /// Starts the load in the calling thread's namespace.
    pub fn start(self) -> Running {
        let packages = netns::outside(|| fetch(&cache_dir())).unwrap_or_else(|error| panic!("{error:#}"));
        let numbers = [u32::from(self.port), self.rate, self.long_lived, self.request_timeout];
        let mut command = Command::new("python3");
        command.args(["-c", CLIENT, &self.host]).args(numbers.map(|number| number.to_string()));
        command.env("PYTHONPATH", packages).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("running python3");
        let output = child.stdout.take().expect("it is piped");
        let started = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&started);
        let reader = std::thread::spawn(move || read(output, &count));
        Running { child, started, reader: Some(reader) }
    }
}

fn read(output: ChildStdout, started: &AtomicU64) -> Vec<Value> {
    let lines = BufReader::new(output).lines().map(|line| line.expect("the client's output"));
    let reports = lines.map(|line| serde_json::from_str::<Value>(&line).expect("JSON"));
    let count = |report: &Value| {
        let is_start = report["kind"] == "started";
        started.fetch_add(u64::from(is_start), Relaxed);
        !is_start
    };
    reports.filter(count).collect()
}

/// A running load. When it is dropped without `stop`, it is killed.
pub struct Running {
    child: Child,
    started: Arc<AtomicU64>,
    reader: Option<JoinHandle<Vec<Value>>>,
}

impl Running {
    /// Waits until this many further connections have been started.
    pub fn until_further(&self, more: u64) {
        let count = self.started.load(Relaxed) + more;
        until(Duration::from_secs(60), "the QUIC clients to get that far", || self.started.load(Relaxed) >= count);
    }

    /// Starts no further connection, and waits for the open ones.
    pub fn stop(mut self) -> Outcomes {
        drop(self.child.stdin.take());
        let reports = self.reader.take().expect("stopped only once").join().expect("the reader panicked");
        let status = self.child.wait().expect("waiting for python3");
        assert!(status.success(), "the QUIC clients: {status}");
        Outcomes::from_reports(&reports)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
