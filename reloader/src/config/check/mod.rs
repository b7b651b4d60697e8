//! Refuses configurations whose values do not fit together. Each message names the key and a remedy.

mod companion;
mod service;

use crate::config::Mode;
use crate::model::listener::Endpoint;

use super::service::Sockets;
use super::settings::{Config, Haproxy, own_directory};

/// Arguments of HAProxy that the daemon sets itself, or with which HAProxy would leave the daemon's control.
///
/// HAProxy recognises most of them by their first letters (`-Dx` is `-D`; `init_args` in `haproxy.c`). So these are prefixes.
const REFUSED_ARGS: [&str; 9] = ["-D", "-W", "-S", "-c", "-db", "-x", "-sf", "-st", "-p"];

/// The longest runtime-dir, in bytes: `generation-N.sock.PID.tmp` below it must fit into the 108 bytes of a unix socket's address.
const LONGEST_RUNTIME_DIR: usize = 108 - "/generation-4294967295.sock.4194304.tmp\0".len();

impl Config {
    /// Checks the values against each other.
    ///
    /// # Errors
    /// If a value cannot be used. The text of the error is a sentence that begins with the key.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(haproxy) = &self.haproxy {
            haproxy.check()?;
            companion::check(haproxy, &self.reload)?;
        }
        for (name, service) in &self.services {
            service.check(name)?;
        }
        self.check_order()?;
        self.check_addresses()?;
        self.check_paths()?;
        if self.reload.start_timeout.is_zero() {
            return Err("reload.start-timeout: 0 leaves a generation no time to start; use \"30s\"".into());
        }
        if self.reload.probe_connect.is_some_and(|limit| limit.is_zero()) {
            return Err("reload.probe-connect: 0 leaves a connection no time; use \"500ms\", or \"off\"".into());
        }
        if self.hold.max.is_zero() {
            return Err("hold.max: 0 would end every hold at once; use \"5s\"".into());
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), String> {
        let mut taken: Vec<(&String, &Endpoint, Sockets)> = Vec::new();
        for (name, service) in &self.services {
            for address in &service.listen {
                let collides =
                    |found: &&(&String, &Endpoint, Sockets)| collide((found.1, found.2), (address, service.sockets));
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
            absolute.extend(haproxy.pid_file.iter().map(|path| ("haproxy.pid-file", path)));
        }
        if let Some((name, path)) = absolute.into_iter().find(|(_, path)| !path.is_absolute()) {
            return Err(format!("{name}: `{}` must be an absolute path", path.display()));
        }
        let length = self.runtime_dir.as_os_str().len();
        let below = self.services.keys().map(|name| own_directory(name).as_os_str().len() + 1).max();
        let longest = LONGEST_RUNTIME_DIR - below.unwrap_or_default();
        if length > longest {
            return Err(format!(
                "runtime-dir: {length} bytes are too long, because the addresses of the sockets below it have room for 108; use at most {longest}"
            ));
        }
        Ok(())
    }
}

/// Whether a socket at one address certainly prevents a bind at the other. A server that binds its own sockets may bind `[::]` for IPv6 alone.
/// The daemon does so if it also binds `0.0.0.0`.
fn collide((one, how): (&Endpoint, Sockets), (other, other_how): (&Endpoint, Sockets)) -> bool {
    if one == other {
        return true;
    }
    if one.socket_type != other.socket_type || !one.overlaps(other) {
        return false;
    }
    if one.address.family() == other.address.family() {
        return (how, other_how) != (Sockets::Reuseport, Sockets::Reuseport);
    }
    let is_any = |endpoint: &Endpoint| endpoint.inet().is_some_and(|inet| inet.ip().is_unspecified());
    (how, other_how) == (Sockets::ListenFds, Sockets::ListenFds) && !(is_any(one) && is_any(other))
}

impl Haproxy {
    fn check(&self) -> Result<(), String> {
        if self.unit_command.is_some() {
            let derived = Haproxy::default();
            if (&self.binary, &self.config, &self.args) != (&derived.binary, &derived.config, &derived.args) {
                return Err("haproxy.command-line: it says the program, the files and the arguments: remove binary, config and args".into());
            }
            if self.mode == Mode::Companion {
                return Err(
                    "haproxy.command-line: in companion mode HAProxy's own unit has the command line; remove it".into(),
                );
            }
        }
        if self.mode == Mode::Companion && self.pid_file.is_some() {
            return Err("haproxy.pid-file: in companion mode HAProxy's own unit keeps its pid file; remove it".into());
        }
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
    use super::{LONGEST_RUNTIME_DIR, REFUSED_ARGS};
    use crate::config::Config;

    const WEB: &str = "[service.web]\nstart = [\"/bin/web\"]\nsockets = \"listen-fds\"\nlisten = [\"0.0.0.0:80\"]\n";

    #[test]
    fn arguments_that_evade_the_daemon_are_refused() {
        for arg in REFUSED_ARGS {
            let message = Config::parse(&format!("[haproxy]\nargs = [\"-V\", \"{arg}\"]\n")).unwrap_err();
            assert!(message.contains(&format!("`{arg}`")) && message.contains("remove it"), "{message}");
        }
        assert!(Config::parse("[haproxy]\nargs = [\"-Ws\"]\n").is_err());
        assert!(Config::parse("[haproxy]\nargs = [\"-L\", \"me\", \"-dM\", \"-C\", \"/\"]\n").is_ok());
    }

    #[test]
    fn a_runtime_dir_that_is_too_long_is_refused() {
        let long = format!("runtime-dir = \"/{}\"", "r".repeat(LONGEST_RUNTIME_DIR));
        assert!(Config::parse(&long).unwrap_err().contains("too long"));
    }

    #[test]
    fn services_that_collide_are_refused_and_unix_sockets_must_be_passed() {
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
}
