//! HAProxy reloaded without reloader, under the same load: what a reload costs where nothing is done about it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::config::Config;
use crate::haproxy::{Haproxy, HaproxyBinary};
use crate::load::{Load, Outcomes, Span, Window};
use crate::process::Process;

/// How it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `-sf`: the new process binds beside the old one, the old one closes its sockets with what they have queued.
    SoftStop,
    /// `-x SOCKET -sf`: the sockets are handed over.
    PassSockets,
    /// `kill -9`, then start.
    KillAndStart,
    /// `-sf` with `noreuseport`: as on a kernel before 3.9, the old one must let go before the new one can bind.
    NoReusePort,
}

impl Method {
    /// All of them, the gentlest first.
    pub const ALL: [Method; 4] = [Method::PassSockets, Method::SoftStop, Method::NoReusePort, Method::KillAndStart];
}

/// What to put it through.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// New connections per second.
    pub rate: u32,
    /// How many in all.
    pub connections: u64,
    /// Spread evenly over them.
    pub reloads: u32,
    /// Ports that HAProxy listens on; the load goes to the first.
    pub ports: u16,
}

/// What came of it.
pub struct Report {
    /// Each connection.
    pub outcomes: Outcomes,
    /// Each reload: from the call until the new process has bound everything.
    pub reloads: Vec<Window>,
}

/// Run one trial in the calling thread's namespace, on 127.0.0.1 from port 8000 on.
pub fn run(binary: &HaproxyBinary, method: Method, trial: Trial) -> Report {
    let mut server = Plain::start(binary, method, trial.ports);
    let running = Load::to(["127.0.0.1:8000"]).rate(trial.rate).connections(trial.connections).start();
    let mut reloads = Vec::new();
    for round in 1..=u64::from(trial.reloads) {
        running.until_started(round * trial.connections / (u64::from(trial.reloads) + 1));
        let span = Span::begin("reload");
        server.reload();
        reloads.push(span.end());
    }
    Report { outcomes: running.wait(), reloads }
}

/// A plain HAProxy that can be reloaded.
pub struct Plain {
    binary: HaproxyBinary,
    method: Method,
    dir: tempfile::TempDir,
    serving: Haproxy,
    draining: Vec<Haproxy>,
}

impl Plain {
    /// Start it with `ports` binds from 127.0.0.1:8000 on.
    pub fn start(binary: &HaproxyBinary, method: Method, ports: u16) -> Plain {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let bind = format!("127.0.0.1:8000-{}", 7999 + ports);
        let mut config = Config::web(&bind).exposing_stats_socket(&dir.path().join("stats.sock"));
        if method == Method::NoReusePort {
            config = config.global("noreuseport");
        }
        let file = dir.path().join("haproxy.cfg");
        config.write(&file);
        let serving = binary.daemonize(&file, &[]).unwrap_or_else(|error| panic!("{binary}: {error:#}"));
        Plain { binary: binary.clone(), method, dir, serving, draining: Vec::new() }
    }

    /// The process that serves.
    pub fn process(&self) -> Process {
        self.serving.process
    }

    /// Reload it once; gives the time until the new process had bound everything.
    pub fn reload(&mut self) -> Duration {
        let began = Instant::now();
        let old = self.serving.process;
        let (pid, socket) = (old.pid.to_string(), self.dir.path().join("stats.sock").display().to_string());
        let args: &[&str] = match self.method {
            Method::SoftStop | Method::NoReusePort => &["-sf", &pid],
            Method::PassSockets => &["-x", &socket, "-sf", &pid],
            Method::KillAndStart => {
                old.signal(Signal::SIGKILL);
                old.until_gone(Duration::from_secs(5));
                &[]
            }
        };
        let new = self.binary.daemonize(&self.config(), args);
        let new = new.unwrap_or_else(|error| panic!("{:?}: {error:#}", self.method));
        let took = began.elapsed();
        self.draining.push(std::mem::replace(&mut self.serving, new));
        self.draining.retain(|haproxy| haproxy.process.is_alive());
        took
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("haproxy.cfg")
    }
}
