//! `[service.NAME]`: a server that is not HAProxy.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::process::Signal;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Strategy;
use crate::model::listener::{Address, Endpoint};

/// What HAProxy is called among the services.
pub const HAPROXY: &str = "haproxy";

/// A name is part of file names, and of unix addresses.
const LONGEST_NAME: usize = 32;

/// How a server is run that is not HAProxy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Service {
    /// The program and its arguments: it stays in the foreground.
    pub start: Vec<String>,
    /// How it is asked to finish what it has and to end.
    #[serde(default)]
    pub stop: Stop,
    /// How sockets reach it.
    pub sockets: Sockets,
    /// Where it serves.
    #[serde(deserialize_with = "addresses")]
    pub listen: Vec<Address>,
    /// How it shows that it serves.
    #[serde(default)]
    pub ready: Ready,
    /// A command that says whether its configuration is good; none where it is empty.
    #[serde(default)]
    pub check: Vec<String>,
    /// Further variables of its environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The user that it runs as; the daemon's where there is none.
    #[serde(default)]
    pub user: Option<String>,
}

/// How sockets reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sockets {
    /// The daemon binds them, keeps them, and passes them as sd_listen_fds(3) wants them.
    ListenFds,
    /// It binds them itself, with SO_REUSEPORT: two generations overlap, and connections are steered.
    Reuseport,
    /// It binds them itself, alone: it is replaced while SYNs are held.
    Replace,
}

/// How a server is asked to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// By a signal to its first process.
    Signal(Signal),
    /// By a command, which finds that process in `$MAINPID`.
    Command(Vec<String>),
}

/// How a server shows that it serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Ready {
    /// Its processes listen on every address of `listen`; on sockets that were passed to them, they wait.
    #[default]
    Listening,
    /// It says `READY=1` (sd_notify(3)).
    Notify,
    /// This command succeeds; it is tried again until then.
    Command(Vec<String>),
}

impl Default for Stop {
    fn default() -> Stop {
        Stop::Signal(Signal::TERM)
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a word, or a command as a list of words")]
enum WordOrCommand {
    Word(String),
    Command(Vec<String>),
}

impl Serialize for Stop {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Stop::Command(words) => words.serialize(serializer),
            Stop::Signal(signal) => {
                let name = nix::sys::signal::Signal::try_from(signal.as_raw()).map(|signal| signal.as_str());
                name.map_err(serde::ser::Error::custom)?.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Stop, D::Error> {
        match WordOrCommand::deserialize(deserializer)? {
            WordOrCommand::Command(command) => Ok(Stop::Command(command)),
            WordOrCommand::Word(name) => {
                let known = name.parse::<nix::sys::signal::Signal>().ok();
                let signal = known.and_then(|signal| Signal::from_named_raw(signal as i32));
                let ends = |signal: &Signal| ![Signal::KILL, Signal::STOP, Signal::CONT].contains(signal);
                signal.filter(ends).map(Stop::Signal).ok_or_else(|| {
                    D::Error::custom(format!(
                        "`{name}` asks no server to end: write \"SIGTERM\" or \"SIGQUIT\", or a command as a list of words"
                    ))
                })
            }
        }
    }
}

impl<'de> Deserialize<'de> for Ready {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ready, D::Error> {
        match WordOrCommand::deserialize(deserializer)? {
            WordOrCommand::Command(command) => Ok(Ready::Command(command)),
            WordOrCommand::Word(word) => match word.as_str() {
                "listening" => Ok(Ready::Listening),
                "notify" => Ok(Ready::Notify),
                other => Err(D::Error::custom(format!(
                    "`{other}` shows nothing: write \"listening\", \"notify\", or a command as a list of words"
                ))),
            },
        }
    }
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Address>, D::Error> {
    let words = Vec::<String>::deserialize(deserializer)?;
    words.iter().map(|word| address(word).map_err(D::Error::custom)).collect()
}

fn address(word: &str) -> Result<Address, String> {
    if word.starts_with('/') {
        return Ok(Address::Unix(word.into()));
    }
    if let Some(name) = word.strip_prefix('@') {
        return Ok(Address::Abstract(name.as_bytes().to_vec()));
    }
    let inet = word.parse().map(Address::Inet);
    inet.map_err(|_| {
        format!(
            "`{word}` is no address: write \"0.0.0.0:8080\", \"[::]:8080\", the path of a unix socket, or \"@NAME\""
        )
    })
}

/// Whether a socket at one keeps another from being bound at the other, as far as that is known: a server that binds for itself may
/// bind `[::]` for IPv6 alone, as the daemon does beside `0.0.0.0`.
pub(super) fn collide((one, how): (&Address, Sockets), (other, other_how): (&Address, Sockets)) -> bool {
    if one == other {
        return true;
    }
    if !Endpoint::stream(one.clone()).overlaps(&Endpoint::stream(other.clone())) {
        return false;
    }
    if one.family() == other.family() {
        return (how, other_how) != (Sockets::Reuseport, Sockets::Reuseport);
    }
    let is_any = |address: &Address| matches!(address, Address::Inet(inet) if inet.ip().is_unspecified());
    (how, other_how) == (Sockets::ListenFds, Sockets::ListenFds) && !(is_any(one) && is_any(other))
}

impl Service {
    /// What is wrong with it, as a sentence with the key in front.
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        let wrong = |key: &str, what: &str| Err(format!("service.{name}{key}: {what}"));
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
        if name.is_empty() || name.len() > LONGEST_NAME || name.starts_with('.') || !name.chars().all(is_plain) {
            return wrong("", "a name has at most 32 letters, digits, `-`, `_` and `.`");
        }
        if name == HAPROXY {
            return wrong("", "HAProxy has a table of its own, [haproxy]; give this service another name");
        }
        let mut commands = vec![("start", &self.start)];
        commands.extend((!self.check.is_empty()).then_some(("check", &self.check)));
        if let Stop::Command(command) = &self.stop {
            commands.push(("stop", command));
        }
        if let Ready::Command(command) = &self.ready {
            commands.push(("ready", command));
        }
        for (key, command) in commands {
            match command.first() {
                None => return wrong(&format!(".{key}"), "name the program and its arguments"),
                Some(program) if !Path::new(program).is_absolute() => {
                    return wrong(&format!(".{key}"), &format!("`{program}` must be an absolute path"));
                }
                Some(_) => {}
            }
        }
        let unusable = |address: &&Address| match address {
            Address::Inet(address) => address.port() == 0,
            Address::Abstract(name) => name.is_empty() || self.sockets != Sockets::ListenFds,
            Address::Unix(_) => self.sockets != Sockets::ListenFds,
        };
        match self.listen.iter().find(unusable) {
            Some(Address::Inet(address)) => return wrong(".listen", &format!("`{address}` needs a port other than 0")),
            Some(Address::Abstract(name)) if name.is_empty() => return wrong(".listen", "`@` needs a name behind it"),
            Some(_) => {
                return wrong(
                    ".listen",
                    "a unix socket can neither be steered nor held: pass it with sockets = \"listen-fds\", or leave it out",
                );
            }
            None => {}
        }
        if self.listen.is_empty() {
            return wrong(".listen", "name the addresses that it serves, such as [\"0.0.0.0:8080\"]");
        }
        let twice = |(place, address): &(usize, &Address)| self.listen[..*place].contains(address);
        if let Some((_, address)) = self.listen.iter().enumerate().find(twice) {
            return wrong(".listen", &format!("`{address}` is there twice"));
        }
        if let Some(variable) = self.environment.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return wrong(".environment", &format!("`{variable}` cannot be the name of a variable"));
        }
        Ok(())
    }

    /// The strategy that the way of its sockets amounts to, where HAProxy's is `global`.
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
    fn a_service_needs_three_keys_and_takes_haproxys_place() {
        let config = Config::parse(WEB).unwrap();
        let web = &config.services["web"];
        assert_eq!((&web.stop, &web.ready), (&Stop::Signal(Signal::TERM), &Ready::Listening));
        assert!(config.haproxy.is_none());
        assert!(Config::parse(&format!("{WEB}[haproxy]\n")).unwrap().haproxy.is_some());
    }

    #[test]
    fn words_and_commands_are_told_apart() {
        let config = Config::parse(&format!("{WEB}stop = \"SIGQUIT\"\nready = [\"/bin/true\"]\n")).unwrap();
        assert_eq!(config.services["web"].stop, Stop::Signal(Signal::QUIT));
        assert_eq!(config.services["web"].ready, Ready::Command(vec!["/bin/true".into()]));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_key() {
        for (lines, expected) in [
            ("stop = \"SIGNOTHING\"", "asks no server to end"),
            ("stop = \"SIGKILL\"", "asks no server to end"),
            ("ready = \"soon\"", "shows nothing"),
            ("ready = []", "service.web.ready"),
            ("check = [\"web\"]", "absolute path"),
            ("environment = { \"A=B\" = \"c\" }", "cannot be the name"),
            ("sokets = \"replace\"", "sokets"),
        ] {
            let message = Config::parse(&format!("{WEB}{lines}\n")).unwrap_err();
            assert!(message.contains(expected), "{lines}: {message}");
        }
        for (from, to) in [
            ("0.0.0.0:80", "80"),
            ("[\"0.0.0.0:80\"]", "[]"),
            ("[\"0.0.0.0:80\"]", "[\"/a\", \"/a\"]"),
            ("[\"0.0.0.0:80\"]", "[\"@\"]"),
            ("0.0.0.0:80", "0.0.0.0:0"),
            ("/bin/web", "web"),
            ("service.web", "service.haproxy"),
            ("service.web", "service.\"a/b\""),
        ] {
            assert!(Config::parse(&WEB.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn two_services_do_not_share_an_address_and_unix_sockets_are_passed_or_not_served() {
        let two = Config::parse(&format!("{WEB}{}", WEB.replace("service.web", "service.other"))).unwrap_err();
        assert!(two.contains("service.other") && two.contains("service.web on 0.0.0.0:80"), "{two}");
        let overlapping = WEB.replace("[\"0.0.0.0:80\"]", "[\"0.0.0.0:80\", \"127.0.0.1:80\"]");
        assert!(Config::parse(&overlapping).unwrap_err().contains("cannot be bound"));
        let families = WEB.replace("[\"0.0.0.0:80\"]", "[\"0.0.0.0:80\", \"[::]:80\"]");
        assert!(Config::parse(&families).is_ok());
        assert!(Config::parse(&overlapping.replace("listen-fds", "replace")).is_err());
        // Linux binds both with SO_REUSEPORT, and nginx binds `[::]` for IPv6 alone.
        assert!(Config::parse(&overlapping.replace("listen-fds", "reuseport")).is_ok());
        let mixed = WEB.replace("[\"0.0.0.0:80\"]", "[\"127.0.0.1:80\", \"[::]:80\"]");
        assert!(Config::parse(&mixed).is_err());
        assert!(Config::parse(&mixed.replace("listen-fds", "replace")).is_ok());
        let unix = Config::parse(&WEB.replace("listen-fds", "replace").replace("0.0.0.0:80", "/a")).unwrap_err();
        assert!(unix.contains("listen-fds"), "{unix}");
    }

    #[test]
    fn a_way_to_end_survives_its_record() {
        for stop in [Stop::Signal(Signal::QUIT), Stop::Command(vec!["/bin/stop".into(), "now".into()])] {
            let text = serde_json::to_string(&stop).unwrap();
            assert_eq!(serde_json::from_str::<Stop>(&text).unwrap(), stop, "{text}");
        }
    }

    #[test]
    fn the_way_of_the_sockets_decides_what_a_reload_does() {
        let strategy = |sockets: &str, global| {
            Config::parse(&WEB.replace("listen-fds", sockets)).unwrap().services["web"].strategy(global)
        };
        assert_eq!(strategy("listen-fds", Strategy::Hold), Strategy::FdPass);
        assert_eq!(strategy("reuseport", Strategy::Auto), Strategy::Steer);
        assert_eq!(strategy("reuseport", Strategy::KernelFallback), Strategy::KernelFallback);
        assert_eq!(strategy("replace", Strategy::Steer), Strategy::Hold);
    }
}
