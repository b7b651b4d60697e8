//! SIGHUP: reloader's own configuration is read again.

use super::event_loop::EventLoop;
use super::startup::clean_up_holds;
use crate::config::{Config, Haproxy, Mode};
use crate::supervision::notify;

const UNREAD: &str = "reloader's configuration was not read";

impl EventLoop {
    /// Takes the new configuration, or keeps the earlier one and says why: false.
    pub(super) fn read_configuration(&mut self) -> bool {
        notify::reloading();
        let read = Config::load(self.config_path.as_deref()).map_err(|error| error.to_string());
        let fits = |config: &Config| self.supervisor.companion.as_ref().map_or(Ok(()), |_| config.fits_companion());
        let taken = match read.and_then(|config| fits(&config).map(|()| config)) {
            Ok(config) => {
                self.take_configuration(config);
                true
            }
            Err(why) => {
                self.refuse_configuration(&why);
                false
            }
        };
        self.supervisor.publish();
        notify::ready();
        taken
    }

    fn refuse_configuration(&mut self, why: &str) {
        log::error!("{why}; the earlier configuration stays in force");
        self.supervisor.warning = Some(format!("{UNREAD}: {why}"));
    }

    /// Paths that are in use keep their old value until the daemon is started again.
    fn take_configuration(&mut self, new: Config) {
        let old = &self.supervisor.config;
        let new = Config { runtime_dir: new.runtime_dir.canonicalize().unwrap_or(new.runtime_dir), ..new };
        let fixed = [
            ("control-socket", old.control_socket != new.control_socket),
            ("control-group", old.control_group != new.control_group),
            ("runtime-dir", old.runtime_dir != new.runtime_dir),
            ("state-dir", old.state_dir != new.state_dir),
            ("haproxy.mode", mode(old) != mode(&new)),
        ];
        for (key, _) in fixed.iter().filter(|(_, changed)| *changed) {
            log::warn!("{key} changes only when the daemon is started again");
        }
        let haproxy = new.haproxy.map(|haproxy| Haproxy { mode: mode(old).unwrap_or(haproxy.mode), ..haproxy });
        let config = Config {
            haproxy,
            control_socket: old.control_socket.clone(),
            control_group: old.control_group.clone(),
            runtime_dir: old.runtime_dir.clone(),
            state_dir: old.state_dir.clone(),
            ..new
        };
        let name = &self.supervisor.name;
        if config.names() != old.names() {
            log::warn!("a service that came or went is started or left when the daemon is started again");
        }
        if let (Some(companion), Some(haproxy)) = (&mut self.supervisor.companion, &config.haproxy) {
            companion.haproxy = haproxy.clone();
        }
        self.supervisor.server.configure(&config, name);
        self.supervisor.config = config.for_service(name);
        if self.supervisor.left_behind.is_some() {
            clean_up_holds(&mut self.supervisor);
        }
        self.supervisor.prepare_holds();
        let unread = |warning: &mut String| warning.starts_with(UNREAD);
        drop(self.supervisor.warning.take_if(unread));
        log::info!("{}: reloader's configuration was read again", self.supervisor.name);
    }
}

fn mode(config: &Config) -> Option<Mode> {
    config.haproxy.as_ref().map(|haproxy| haproxy.mode)
}
