//! Checks one table `[service.NAME]`.

use std::path::Path;

use crate::config::service::{HAPROXY, Ready, Service, Sockets, Stop};
use crate::model::listener::{Address, Endpoint, SocketType};

/// The longest name. It is part of file names and of the addresses of unix sockets.
const LONGEST_NAME: usize = 32;

impl Service {
    /// Checks the table of the service `name`.
    ///
    /// # Errors
    /// If a value cannot be used. The text of the error is a sentence that begins with the key.
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        check_name(name).map_err(|what| format!("service.{name}: {what}"))?;
        let checked = self
            .check_commands()
            .and_then(|()| self.check_listen())
            .and_then(|()| self.check_socket_keys())
            .and_then(|()| self.check_overlap())
            .and_then(|()| self.check_pid_file())
            .and_then(|()| self.check_environment());
        checked.map_err(|(key, what)| format!("service.{name}.{key}: {what}"))
    }

    fn check_commands(&self) -> Result<(), Wrong> {
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
                None => return Err((key, "name the program and its arguments".into())),
                Some(program) if !Path::new(program).is_absolute() => {
                    return Err((key, format!("`{program}` must be an absolute path")));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn check_pid_file(&self) -> Result<(), Wrong> {
        match self.pid_file.as_ref().filter(|path| !path.is_absolute()) {
            Some(path) => Err(("pid-file", format!("`{}` must be an absolute path", path.display()))),
            None => Ok(()),
        }
    }

    fn check_listen(&self) -> Result<(), Wrong> {
        let wrong = |what: String| Err(("listen", what));
        if self.listen.is_empty() {
            return wrong("name the addresses that the service serves, such as [\"0.0.0.0:8080\"]".into());
        }
        for (place, endpoint) in self.listen.iter().enumerate() {
            match &endpoint.address {
                Address::Inet(inet) if inet.port() == 0 => {
                    return wrong(format!("`{inet}` needs a port other than 0"));
                }
                Address::Abstract(name) if name.is_empty() => return wrong("`@` needs a name after it".into()),
                Address::Unix(_) | Address::Abstract(_) if self.sockets != Sockets::ListenFds => {
                    return wrong(
                        "a unix socket can neither be steered nor held: pass it with sockets = \"listen-fds\", or leave it out"
                            .into(),
                    );
                }
                Address::Inet(_)
                    if self.sockets == Sockets::Overlap && endpoint.socket_type == SocketType::Datagram =>
                {
                    return wrong(format!(
                        "`{endpoint}`: only TCP ports are shared with sockets = \"overlap\"; pass it with sockets = \"listen-fds\", or leave it out"
                    ));
                }
                _ => {}
            }
            if self.listen[..place].contains(endpoint) {
                return wrong(format!("`{endpoint}` is listed twice"));
            }
        }
        Ok(())
    }

    fn check_socket_keys(&self) -> Result<(), Wrong> {
        let is_unix = |endpoint: &Endpoint| matches!(endpoint.address, Address::Unix(_));
        let names = &self.socket_names;
        if !names.is_empty() && names.len() != self.listen.len() {
            let what = format!("it has {} names for {} addresses in `listen`", names.len(), self.listen.len());
            return Err(("socket-names", what));
        }
        // sd_listen_fds_with_names(3) separates the names by colons.
        let is_name =
            |name: &String| !name.is_empty() && name.chars().all(|letter| letter.is_ascii_graphic() && letter != ':');
        if let Some(name) = names.iter().find(|name| !is_name(name)) {
            return Err(("socket-names", format!("`{name}` is not a name: it has printable characters, and no colon")));
        }
        if !names.is_empty() && self.sockets != Sockets::ListenFds {
            return Err((
                "socket-names",
                "only sockets that the daemon passes have names: set sockets = \"listen-fds\"".into(),
            ));
        }
        let of_files = [
            ("socket-mode", self.socket_mode.is_some()),
            ("socket-user", self.socket_user.is_some()),
            ("socket-group", self.socket_group.is_some()),
        ];
        match of_files.into_iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) if !self.listen.iter().any(is_unix) => {
                Err((key, "no address in `listen` is the path of a unix socket".into()))
            }
            _ => Ok(()),
        }
    }

    fn check_overlap(&self) -> Result<(), Wrong> {
        let of_overlap = [("fallback", self.fallback.is_some()), ("shared-files", !self.shared_files.is_empty())];
        let set = of_overlap.into_iter().find(|(_, is_set)| *is_set && self.sockets != Sockets::Overlap);
        if let Some((key, _)) = set {
            return Err((key, "it has a meaning only with sockets = \"overlap\"; remove it".into()));
        }
        match self.shared_files.iter().find(|path| !path.is_absolute()) {
            Some(path) => Err(("shared-files", format!("`{}` must be an absolute path", path.display()))),
            None => Ok(()),
        }
    }

    fn check_environment(&self) -> Result<(), Wrong> {
        match self.environment.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            Some(variable) => Err(("environment", format!("`{variable}` cannot be the name of a variable"))),
            None => Ok(()),
        }
    }
}

/// A key of the table, and what is wrong with its value.
type Wrong = (&'static str, String);

fn check_name(name: &str) -> Result<(), &'static str> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if name.is_empty() || name.len() > LONGEST_NAME || name.starts_with('.') || !name.chars().all(is_plain) {
        return Err("a name has at most 32 letters, digits, `-`, `_` and `.`, and does not begin with `.`");
    }
    if name == HAPROXY {
        return Err("HAProxy has a table of its own, [haproxy]; give this service another name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    const WEB: &str = "[service.web]\nstart = [\"/bin/web\"]\nsockets = \"listen-fds\"\nlisten = [\"0.0.0.0:80\"]\n";

    #[test]
    fn an_unusable_value_is_refused_with_its_key() {
        for (lines, expected) in [
            ("stop = \"SIGNOTHING\"", "not a signal that asks a server to end"),
            ("stop = \"SIGKILL\"", "not a signal that asks a server to end"),
            ("ready = \"soon\"", "not a kind of readiness"),
            ("ready = []", "service.web.ready"),
            ("check = [\"web\"]", "absolute path"),
            ("environment = { \"A=B\" = \"c\" }", "cannot be the name"),
            ("sokets = \"replace\"", "sokets"),
            ("fallback = \"replace\"", "only with sockets = \"overlap\""),
            ("shared-files = [\"/data\"]", "only with sockets = \"overlap\""),
            ("socket-names = [\"a\", \"b\"]", "2 names for 1 addresses"),
            ("socket-names = [\"a:b\"]", "is not a name"),
            ("pid-file = \"web.pid\"", "absolute path"),
            ("socket-mode = \"0600\"", "no address in `listen` is the path"),
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
            ("0.0.0.0:80", "udp:/run/a"),
            ("/bin/web", "web"),
            ("service.web", "service.haproxy"),
            ("service.web", "service.\"a/b\""),
        ] {
            assert!(Config::parse(&WEB.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn udp_address_that_overlaps_is_refused_with_its_remedy() {
        let overlap = WEB.replace("listen-fds", "overlap").replace("[\"0", "[\"udp:0.0.0.0:53\", \"0");
        let message = Config::parse(&overlap).unwrap_err();
        assert!(
            message.contains("service.web.listen: `udp@0.0.0.0:53`") && message.contains("listen-fds"),
            "{message}"
        );
        assert!(Config::parse(&overlap.replace("overlap", "listen-fds")).is_ok());
    }
}
