//! The daemon's own configuration, `/etc/reloader/reloader.toml`.

mod companion;
mod file;
mod service;
mod size;
mod span;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::listener::Address;

pub use file::{AtMaxDraining, Mode, OnStop, Require, Strategy};
pub use service::{HAPROXY, Ready, Service, Sockets, Stop};
pub(crate) use span::parse as parse_duration;
pub use span::{Limit, SpreadTime};

/// Where the configuration is looked for when nothing else is said.
const DEFAULT_PATH: &str = "/etc/reloader/reloader.toml";

/// Arguments of HAProxy that the daemon sets itself, or that would take the process out of its hands.
///
/// HAProxy reads most of them by their first letters (`-Dx` is `-D`; `init_args` in `haproxy.c`), so these are prefixes.
const REFUSED_ARGS: [&str; 9] = ["-D", "-W", "-S", "-c", "-db", "-x", "-sf", "-st", "-p"];

/// The longest runtime-dir: `generation-N.sock.PID.tmp` below it must fit into the 108 bytes of a unix socket's address.
const LONGEST_RUNTIME_DIR: usize = 108 - "/generation-4294967295.sock.4194304.tmp\0".len();

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The control socket.
    pub control_socket: PathBuf,
    /// The group that may use the control socket.
    pub control_group: String,
    /// Sockets, locks and records of running generations.
    pub runtime_dir: PathBuf,
    /// Receipts and the last-known-good configuration.
    pub state_dir: PathBuf,
    /// What SIGTERM does with the server.
    pub on_stop: OnStop,
    /// HAProxy; `None` where the file describes other servers only.
    pub haproxy: Option<Haproxy>,
    /// The other servers, by name.
    pub services: BTreeMap<String, Service>,
    /// How reloads run.
    pub reload: Reload,
    /// How SYNs are held.
    pub hold: Hold,
}

/// The `[haproxy]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Haproxy {
    /// The program.
    pub binary: PathBuf,
    /// Its configuration files or directories.
    pub config: Vec<PathBuf>,
    /// Further arguments.
    pub args: Vec<String>,
    /// Who runs it.
    pub mode: Mode,
    /// The socket of its master's CLI (`-S`), in companion mode; `None`: the master is sent SIGUSR2.
    pub master_cli: Option<PathBuf>,
}

/// The `[reload]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    /// Which rungs may be used.
    pub strategy: Strategy,
    /// Whether an unproven reload is allowed.
    pub require: Require,
    /// How long a new generation may take to become ready.
    pub start_timeout: Duration,
    /// How long a draining may hold up a reload.
    pub drain_timeout: Duration,
    /// The shortest time between two reloads.
    pub min_interval: Duration,
    /// When a draining generation is ended early.
    pub hard_stop_after: Limit,
    /// How many generations may drain at once, 0 for any number.
    pub max_draining: usize,
    /// What a reload does when that many drain.
    pub at_max_draining: AtMaxDraining,
    /// How long custody is kept with no generation up; `None` derives it from the measured start time.
    pub custody_max: Option<Duration>,
    /// Given to HAProxy when it has none.
    pub close_spread_time: SpreadTime,
    /// Count SYNs during reloads with a tc program.
    pub count_syns: bool,
}

/// The `[hold]` table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// The longest hold.
    pub max: Duration,
    /// Room for parked SYNs, in bytes.
    pub capacity: u32,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; name another file with --config, or create it")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The file is no valid configuration.
    #[error("{path}: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, column, what is wrong and what would be right.
        message: String,
    },
}

impl Config {
    /// Reads `path`, or the default path, which need not exist.
    pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Read { path: file.to_owned(), source }),
        };
        Config::parse(&text).map_err(|message| ConfigError::Invalid { path: file.to_owned(), message })
    }

    /// Reads the text of a configuration file.
    pub fn parse(text: &str) -> Result<Config, String> {
        let config: Config =
            toml::from_str::<file::File>(text).map_err(|error| error.to_string().trim_end().to_owned())?.into();
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if let Some(haproxy) = &self.haproxy {
            haproxy.check()?;
            companion::check(haproxy, &self.reload)?;
        }
        for (name, service) in &self.services {
            service.check(name)?;
        }
        self.check_addresses()?;
        self.check_paths()?;
        if self.reload.start_timeout.is_zero() {
            return Err("reload.start-timeout: 0 gives no generation time to start; use \"30s\"".into());
        }
        if self.hold.max.is_zero() {
            return Err("hold.max: 0 would end every hold before it began; use \"5s\"".into());
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), String> {
        let mut taken: Vec<(&String, &Address, Sockets)> = Vec::new();
        for (name, service) in &self.services {
            for address in &service.listen {
                let collides = |found: &&(&String, &Address, Sockets)| {
                    service::collide((found.1, found.2), (address, service.sockets))
                };
                if let Some((other, first, _)) = taken.iter().find(collides) {
                    return Err(format!(
                        "service.{other} listens on {first} and service.{name} on {address}: one of them cannot be bound; change it"
                    ));
                }
                taken.push((name, address, service.sockets));
            }
        }
        Ok(())
    }

    fn check_paths(&self) -> Result<(), String> {
        let mut absolute = vec![
            ("runtime-dir", &self.runtime_dir),
            ("state-dir", &self.state_dir),
            ("control-socket", &self.control_socket),
        ];
        if let Some(haproxy) = &self.haproxy {
            absolute.push(("haproxy.binary", &haproxy.binary));
            absolute.extend(haproxy.config.iter().map(|path| ("haproxy.config", path)));
        }
        if let Some((name, path)) = absolute.into_iter().find(|(_, path)| !path.is_absolute()) {
            return Err(format!("{name}: `{}` must be an absolute path", path.display()));
        }
        let length = self.runtime_dir.as_os_str().len();
        let below = self.services.keys().map(|name| own_directory(name).as_os_str().len() + 1).max();
        let longest = LONGEST_RUNTIME_DIR - below.unwrap_or_default();
        if length > longest {
            return Err(format!(
                "runtime-dir: {length} bytes are too long: sockets below it must fit into a unix address; use at most {longest}"
            ));
        }
        Ok(())
    }

    /// The names of all that is supervised, HAProxy first.
    pub fn names(&self) -> Vec<String> {
        let haproxy = self.haproxy.iter().map(|_| HAPROXY.to_owned());
        haproxy.chain(self.services.keys().cloned()).collect()
    }

    /// The configuration with the strategy of one service.
    pub fn for_service(&self, name: &str) -> Config {
        let mut own = self.clone();
        if let Some(service) = self.services.get(name) {
            own.reload.strategy = service.strategy(self.reload.strategy);
        }
        // A master's workers are not ours to end.
        if name == HAPROXY && self.haproxy.as_ref().is_some_and(|haproxy| haproxy.mode == Mode::Companion) {
            own.reload.hard_stop_after = Limit::Never;
            own.reload.at_max_draining = AtMaxDraining::Wait;
        }
        own
    }

    /// Where the files of one service's generations are: HAProxy's in runtime-dir itself.
    pub fn place(&self, name: &str) -> PathBuf {
        if name == HAPROXY { self.runtime_dir.clone() } else { self.runtime_dir.join(own_directory(name)) }
    }
}

fn own_directory(name: &str) -> PathBuf {
    Path::new("services").join(name)
}

impl Haproxy {
    fn check(&self) -> Result<(), String> {
        if let Some(refused) = self.args.iter().find(|arg| is_refused(arg)) {
            return Err(format!(
                "haproxy.args: `{refused}` cannot be used: reloader starts HAProxy in the foreground and passes the sockets itself; remove it"
            ));
        }
        if self.config.is_empty() {
            return Err("haproxy.config: name at least one configuration file of HAProxy".into());
        }
        Ok(())
    }
}

fn is_refused(arg: &str) -> bool {
    REFUSED_ARGS.iter().any(|prefix| arg.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gives_the_documented_defaults() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.haproxy.unwrap().binary, Path::new("/usr/sbin/haproxy"));
        assert_eq!(config.reload.start_timeout, Duration::from_secs(30));
        assert_eq!(config.reload.custody_max, None);
        assert_eq!(config.reload.close_spread_time, SpreadTime::Given("2s".into()));
        assert_eq!(config.on_stop, OnStop::Leave);
    }

    #[test]
    fn every_documented_key_is_read() {
        let config = Config::parse(include_str!("../../../docs/reloader.toml")).unwrap();
        assert_eq!(config, Config::parse("").unwrap(), "the sample shows the defaults");
    }

    #[test]
    fn every_example_of_a_service_is_read() {
        let text = include_str!("../../../docs/guide/other-servers.md");
        let examples: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert_eq!(examples.len(), 3);
        let config = Config::parse(&examples.concat()).unwrap();
        assert_eq!(config.names(), ["app", "nginx", "web"]);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let message = Config::parse("\n[reload]\nstart-timout = \"5s\"\n").unwrap_err();
        assert!(
            message.contains("line 3") && message.contains("start-timout") && message.contains("start-timeout"),
            "{message}"
        );
    }

    #[test]
    fn what_would_take_the_process_away_is_refused() {
        for arg in REFUSED_ARGS {
            let message = Config::parse(&format!("[haproxy]\nargs = [\"-V\", \"{arg}\"]\n")).unwrap_err();
            assert!(message.contains(&format!("`{arg}`")) && message.contains("remove it"), "{message}");
        }
        assert!(Config::parse("[haproxy]\nargs = [\"-Ws\"]\n").is_err());
        assert!(Config::parse("[haproxy]\nargs = [\"-L\", \"me\", \"-dM\", \"-C\", \"/\"]\n").is_ok());
    }

    #[test]
    fn durations_need_a_unit() {
        let message = Config::parse("[reload]\nmin-interval = \"5\"\n").unwrap_err();
        assert!(message.contains("line 2") && message.contains("250ms"), "{message}");
        assert!(Config::parse("[reload]\nhard-stop-after = \"1h\"\n").is_ok());
    }

    #[test]
    fn a_duration_beyond_all_clocks_is_refused() {
        let message = Config::parse("[hold]\nmax = \"18446744073709551615s\"\n").unwrap_err();
        assert!(message.contains("line 2") && message.contains("hundred years"), "{message}");
    }

    #[test]
    fn a_runtime_dir_that_is_too_long_is_refused() {
        let long = format!("runtime-dir = \"/{}\"", "r".repeat(LONGEST_RUNTIME_DIR));
        assert!(Config::parse(&long).unwrap_err().contains("too long"));
    }
}
