//! Reloads HAProxy without reloader, under the same load. It shows what such a reload costs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::config::Config;
use crate::haproxy::{Haproxy, HaproxyBinary};
use crate::load::{Load, Outcomes, Span, Window};
use crate::process::Process;

/// A way to reload HAProxy by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `-sf`: the new process binds beside the old one, which closes its sockets with the connections queued on them.
    SoftStop,
    /// `-x SOCKET -sf`: the new process takes the sockets over.
    PassSockets,
    /// `kill -9`, then start.
    KillAndStart,
    /// `-sf` with `noreuseport`: the old process must close its sockets before the new one can bind, as on a kernel
    /// before 3.9.
    NoReusePort,
}

impl Method {
    /// All methods, the gentlest first.
    pub const ALL: [Method; 4] = [Method::PassSockets, Method::SoftStop, Method::NoReusePort, Method::KillAndStart];
}

/// A load with reloads.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// New connections per second.
    pub rate: u32,
    /// The number of connections.
    pub connections: u64,
    /// The number of reloads, spread evenly over the connections.
    pub reloads: u32,
    /// The number of ports that HAProxy listens on. The load goes to the first.
    pub ports: u16,
}

/// The results of a trial.
pub struct Report {
    /// The outcome of each connection.
    pub outcomes: Outcomes,
    /// The time of each reload, from the call until the new process has bound all sockets.
    pub reloads: Vec<Window>,
}

/// Runs one trial in the calling thread's namespace, on 127.0.0.1 from port 8000 on.
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

/// A HAProxy that can be reloaded without reloader.
pub struct Plain {
    binary: HaproxyBinary,
    method: Method,
    dir: tempfile::TempDir,
    serving: Haproxy,
    draining: Vec<Haproxy>,
}

impl Plain {
    /// Starts HAProxy with `ports` binds from 127.0.0.1:8000 on.
    pub fn start(binary: &HaproxyBinary, method: Method, ports: u16) -> Plain {
        Plain::start_at(binary, method, &format!("127.0.0.1:8000-{}", 7999 + ports))
    }

    /// Starts HAProxy with this bind.
    pub fn start_at(binary: &HaproxyBinary, method: Method, bind: &str) -> Plain {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut config = Config::web(bind).exposing_stats_socket(&dir.path().join("stats.sock"));
        if method == Method::NoReusePort {
            config = config.global("noreuseport");
        }
        let file = dir.path().join("haproxy.cfg");
        config.write(&file);
        let serving = binary.daemonize(&file, &[]).unwrap_or_else(|error| panic!("{binary}: {error:#}"));
        Plain { binary: binary.clone(), method, dir, serving, draining: Vec::new() }
    }

    /// The serving process.
    pub fn process(&self) -> Process {
        self.serving.process
    }

    /// Reloads once. Gives the time until the new process had bound all sockets.
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
