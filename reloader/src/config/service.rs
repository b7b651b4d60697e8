//! The table `[service.NAME]`: how to run a server that is not HAProxy.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rustix::process::Signal;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::address::endpoints;
use super::values::Strategy;
use crate::model::listener::Endpoint;

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
    /// What a reload does where `overlap` is impossible. `None`: it is refused.
    #[serde(default)]
    pub fallback: Option<Fallback>,
    /// Files, and directories of files, that two generations may write at once.
    #[serde(default)]
    pub shared_files: Vec<PathBuf>,
    /// The addresses on which the server serves.
    #[serde(deserialize_with = "endpoints")]
    pub listen: Vec<Endpoint>,
    /// The names that `LISTEN_FDNAMES` has for the sockets, in the order of `listen`. Empty: each has the name of the service.
    #[serde(default)]
    pub socket_names: Vec<String>,
    /// The mode of the unix sockets that the daemon binds. `None`: see [`Service::unix_mode`].
    #[serde(default, deserialize_with = "octal")]
    pub socket_mode: Option<u32>,
    /// The user who owns these sockets. `None`: `user`.
    #[serde(default)]
    pub socket_user: Option<String>,
    /// The group that owns these sockets. `None`: the first group of the owner.
    #[serde(default)]
    pub socket_group: Option<String>,
    /// How the server shows that it is ready.
    #[serde(default)]
    pub ready: Ready,
    /// A command that checks the server's configuration. Empty if there is none.
    #[serde(default)]
    pub check: Vec<String>,
    /// The file that contains the pid of the serving first process. `None`: none is kept.
    #[serde(default)]
    pub pid_file: Option<PathBuf>,
    /// Additional variables of the server's environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The user as which the server runs. `None`: the daemon's user.
    #[serde(default)]
    pub user: Option<String>,
    /// The services before it in `reload --all`.
    #[serde(default)]
    pub after: Vec<String>,
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
    /// The server binds the sockets without SO_REUSEPORT, which a program sets for it. Two generations overlap, and connections are steered.
    Overlap,
}

/// What a reload does where two generations cannot overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// The server is replaced while SYNs are held.
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

/// The mode of a unix socket that every user may connect to.
const OPEN_MODE: u32 = 0o666;
/// The mode of a unix socket of a service with a `user`.
const OWNERS_MODE: u32 = 0o660;

impl Service {
    /// The mode of the unix sockets that the daemon binds. Every user who can reach a port can reach a path too, unless the service runs as a
    /// user of its own.
    pub fn unix_mode(&self) -> u32 {
        let has_owner = self.user.is_some() || self.socket_user.is_some() || self.socket_group.is_some();
        self.socket_mode.unwrap_or(if has_owner { OWNERS_MODE } else { OPEN_MODE })
    }

    /// The name of the user who owns these sockets. `None`: the daemon's user.
    pub fn unix_owner(&self) -> Option<&str> {
        self.socket_user.as_deref().or(self.user.as_deref())
    }

    /// The strategy that follows from `sockets`, when `global` is the strategy of the `[reload]` table.
    pub fn strategy(&self, global: Strategy) -> Strategy {
        match (self.sockets, global) {
            (Sockets::ListenFds, _) => Strategy::FdPass,
            (_, Strategy::KernelFallback) => Strategy::KernelFallback,
            (Sockets::Reuseport | Sockets::Overlap, Strategy::Hold) | (Sockets::Replace, _) => Strategy::Hold,
            (Sockets::Reuseport | Sockets::Overlap, _) => Strategy::Steer,
        }
    }
}

/// Reads the mode of a file, in octal digits.
fn octal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match u32::from_str_radix(&text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(Some(mode)),
        _ => Err(D::Error::custom(format!("`{text}` is not the mode of a file: write \"0660\""))),
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
    fn unix_sockets_are_open_to_all_unless_the_service_has_a_user() {
        let unix = WEB.replace("0.0.0.0:80", "/run/web");
        let web = |lines: &str| Config::parse(&format!("{unix}{lines}")).unwrap().services["web"].clone();
        assert_eq!((web("").unix_mode(), web("").unix_owner()), (0o666, None));
        let own = web("user = \"www-data\"\n");
        assert_eq!((own.unix_mode(), own.unix_owner()), (0o660, Some("www-data")));
        let set = web("user = \"www-data\"\nsocket-user = \"nginx\"\nsocket-mode = \"0600\"\n");
        assert_eq!((set.unix_mode(), set.unix_owner()), (0o600, Some("nginx")));
        for wrong in ["socket-mode = \"rw\"", "socket-mode = \"7777\"", "socket-mode = 660"] {
            assert!(Config::parse(&format!("{unix}{wrong}\n")).is_err(), "{wrong}");
        }
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
