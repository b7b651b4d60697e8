//! The table `[service.NAME]`: how to run a server that is not HAProxy.

use std::collections::BTreeMap;

use rustix::process::Signal;
use serde::Deserialize;

use super::address::addresses;
use super::values::Strategy;
use crate::model::listener::Address;

/// The name of HAProxy among the services.
pub const HAPROXY: &str = "haproxy";

/// How to run a server that is not HAProxy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Service {
    /// The program and its arguments. The program stays in the foreground.
    pub start: Vec<String>,
    /// How to ask the server to finish its connections and to end.
    #[serde(default)]
    pub stop: Stop,
    /// How sockets reach the server.
    pub sockets: Sockets,
    /// The addresses on which the server serves.
    #[serde(deserialize_with = "addresses")]
    pub listen: Vec<Address>,
    /// How the server shows that it is ready.
    #[serde(default)]
    pub ready: Ready,
    /// A command that checks the server's configuration. Empty if there is none.
    #[serde(default)]
    pub check: Vec<String>,
    /// Additional variables of the server's environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The user as which the server runs. `None`: the daemon's user.
    #[serde(default)]
    pub user: Option<String>,
}

/// How sockets reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sockets {
    /// The daemon binds the sockets, keeps them, and passes them as sd_listen_fds(3) describes.
    ListenFds,
    /// The server binds the sockets with SO_REUSEPORT. Two generations overlap, and connections are steered.
    Reuseport,
    /// The server binds the sockets without SO_REUSEPORT. The server is replaced while SYNs are held.
    Replace,
}

/// How to ask a server to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// Send this signal to the server's first process.
    Signal(Signal),
    /// Run this command. It finds the pid of the server's first process in `$MAINPID`.
    Command(Vec<String>),
}

/// How a server shows that it is ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Ready {
    /// The server's processes listen on every address of `listen`. On sockets that were passed to them, they wait for connections.
    #[default]
    Listening,
    /// The server sends `READY=1` (sd_notify(3)).
    Notify,
    /// This command succeeds. The daemon repeats the command until then.
    Command(Vec<String>),
}

impl Default for Stop {
    fn default() -> Stop {
        Stop::Signal(Signal::TERM)
    }
}

impl Service {
    /// The strategy that follows from `sockets`, when `global` is the strategy of the `[reload]` table.
    pub fn strategy(&self, global: Strategy) -> Strategy {
        match (self.sockets, global) {
            (Sockets::ListenFds, _) => Strategy::FdPass,
            (_, Strategy::KernelFallback) => Strategy::KernelFallback,
            (Sockets::Reuseport, Strategy::Hold) | (Sockets::Replace, _) => Strategy::Hold,
            (Sockets::Reuseport, _) => Strategy::Steer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const WEB: &str = "[service.web]\nstart = [\"/bin/web\"]\nsockets = \"listen-fds\"\nlisten = [\"0.0.0.0:80\"]\n";

    #[test]
    fn a_service_needs_three_keys_and_replaces_the_default_haproxy() {
        let config = Config::parse(WEB).unwrap();
        let web = &config.services["web"];
        assert_eq!((&web.stop, &web.ready), (&Stop::Signal(Signal::TERM), &Ready::Listening));
        assert!(config.haproxy.is_none());
        assert!(Config::parse(&format!("{WEB}[haproxy]\n")).unwrap().haproxy.is_some());
    }

    #[test]
    fn the_strategy_of_a_service_follows_from_its_sockets() {
        let strategy = |sockets: &str, global| {
            Config::parse(&WEB.replace("listen-fds", sockets)).unwrap().services["web"].strategy(global)
        };
        assert_eq!(strategy("listen-fds", Strategy::Hold), Strategy::FdPass);
        assert_eq!(strategy("reuseport", Strategy::Auto), Strategy::Steer);
        assert_eq!(strategy("reuseport", Strategy::KernelFallback), Strategy::KernelFallback);
        assert_eq!(strategy("replace", Strategy::Steer), Strategy::Hold);
    }
}
