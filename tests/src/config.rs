//! Builds HAProxy configurations for tests, in the syntax of 2.2 and later.

use std::fmt;
use std::fs;
use std::path::Path;

/// Addresses that clients of [`Config::alternating_binds`] connect to.
pub const ALTERNATING: [&str; 3] = ["127.0.0.1:8000", "127.0.0.1:8001", "[::1]:8002"];

/// A configuration under construction.
#[derive(Debug, Clone)]
pub struct Config {
    global: Vec<String>,
    sections: Vec<String>,
}

impl Config {
    /// `global` and `defaults` only. Timeouts are long, so that idle connections do not end before the test ends them.
    pub fn new() -> Config {
        Config {
            // Without it HAProxy uses all the files that it may open, and memory in proportion.
            global: vec!["maxconn 4000".into()],
            sections: Vec::new(),
        }
    }

    /// One frontend that answers 200 by itself.
    pub fn web(bind: &str) -> Config {
        Config::new().frontend("web", &[bind])
    }

    /// One frontend whose binds change in every round: the number of shards, the interface and `v6only`. HAProxy's own reload
    /// loses connections over such changes.
    pub fn alternating_binds(round: usize) -> Config {
        let config = Config::new().global("nbthread 4");
        if round.is_multiple_of(2) {
            config.frontend("web", &["127.0.0.1:8000 shards 4", "127.0.0.1:8001", "[::]:8002"])
        } else {
            config.frontend("web", &["127.0.0.1:8000 shards 1", "127.0.0.1:8001 interface lo", "[::]:8002 v6only"])
        }
    }

    /// Adds a line to `global`: `noreuseport`, `master-worker`, `nbthread 1`.
    pub fn global(mut self, line: &str) -> Config {
        self.global.push(line.into());
        self
    }

    /// Adds the user's own stats socket, without `expose-fd`.
    pub fn stats_socket(self, path: &Path) -> Config {
        self.global(&format!("stats socket {} mode 600 level admin", path.display()))
    }

    /// Adds the user's own stats socket, from which another HAProxy can take the listeners.
    pub fn exposing_stats_socket(self, path: &Path) -> Config {
        self.global(&format!("stats socket {} mode 600 level admin expose-fd listeners", path.display()))
    }

    /// Adds a frontend that answers 200 by itself. A bind is `127.0.0.1:80`, a range `127.0.0.1:5000-7999`,
    /// `unix@/path` or `abns@name`. Options follow after a space.
    pub fn frontend(self, name: &str, binds: &[&str]) -> Config {
        self.section(&format!(
            "frontend {name}\n{}    http-request return status 200 content-type text/plain string ok\n",
            lines(binds)
        ))
    }

    /// Adds a TCP proxy to `server`. Connections through it stay idle for as long as both ends keep them.
    pub fn tcp_proxy(self, name: &str, binds: &[&str], server: &str) -> Config {
        self.section(&format!(
            "frontend {name}\n    mode tcp\n{}    default_backend {name}-servers\n\
             backend {name}-servers\n    mode tcp\n    server one {server}\n",
            lines(binds)
        ))
    }

    /// Adds a frontend that counts requests for each source in the stick table `seen`. A local peers section hands the
    /// table on.
    pub fn frontend_with_peers(self, name: &str, binds: &[&str], peers_bind: &str) -> Config {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("the host's name");
        self.section(&format!("peers local\n    peer {} {peers_bind}\n", host.trim()))
            .section("backend seen\n    stick-table type ip size 10k expire 1h store http_req_cnt peers local\n")
            .section(&format!(
                "frontend {name}\n{}    http-request track-sc0 src table seen\n    \
                 http-request return status 200 content-type text/plain string ok\n",
                lines(binds)
            ))
    }

    /// Adds any other section, or lines that are wrong on purpose.
    pub fn section(mut self, text: &str) -> Config {
        self.sections.push(text.into());
        self
    }

    /// Writes the configuration to a file.
    pub fn write(&self, path: &Path) {
        fs::write(path, self.to_string()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fn lines(binds: &[&str]) -> String {
    binds.iter().map(|bind| format!("    bind {bind}\n")).collect()
}

impl fmt::Display for Config {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "global")?;
        for line in &self.global {
            writeln!(out, "    {line}")?;
        }
        writeln!(out, "defaults\n    mode http")?;
        for kind in ["connect 5s", "client 1h", "server 1h", "http-request 1h"] {
            writeln!(out, "    timeout {kind}")?;
        }
        self.sections.iter().try_for_each(|section| writeln!(out, "{section}"))
    }
}
