//! Reads reloader's own configuration again (SIGHUP).

use super::event_loop::EventLoop;
use super::startup::{clean_up_holds, forgotten};
use crate::config::{Config, Haproxy, Mode};
use crate::process::run_blocking;
use crate::supervision::{Notice, notify};

impl EventLoop {
    /// Takes the new configuration and returns true. Where that is not possible, keeps the earlier one, says why, and returns false.
    pub(super) async fn read_configuration(&mut self) -> bool {
        notify::reloading();
        let path = self.config_path.clone();
        let read = run_blocking(move || Config::load(path.as_deref()).map_err(|error| error.to_string()));
        let read = self.supervisor.heartbeat().during(read).await;
        let taken = match read.and_then(|config| self.checked(config)) {
            Ok(config) => {
                self.take_configuration(config).await;
                true
            }
            Err(why) => {
                log::error!("{why}; the earlier configuration stays in force");
                let warning = format!("reloader's configuration was not read: {why}");
                self.supervisor.warn(Notice::Configuration, warning);
                false
            }
        };
        self.supervisor.publish();
        notify::ready();
        taken
    }

    /// A companion cannot take every configuration.
    fn checked(&self, config: Config) -> Result<Config, String> {
        match self.supervisor.server().companion() {
            Some(_) => config.fits_companion().map(|()| config),
            None => Ok(config),
        }
    }

    async fn take_configuration(&mut self, new: Config) {
        let config = with_fixed_values(self.supervisor.config(), new);
        self.supervisor.configure(&config).await;
        // What a dead hold left must go before anything is put in its place.
        if self.supervisor.notices().has(Notice::HoldResidue) {
            clean_up_holds(&mut self.supervisor).await;
        }
        self.supervisor.prepare_holds().await;
        if self.supervisor.notices().has(Notice::ForgottenServices) {
            let found = forgotten(self.supervisor.config());
            self.supervisor.warn_of_processes(Notice::ForgottenServices, found);
        }
        self.supervisor.clear_warning(Notice::Configuration);
        log::info!("{}: reloader's configuration was read again", self.supervisor.name());
    }
}

/// Paths that are in use keep their old value until the daemon is started again.
fn with_fixed_values(old: &Config, new: Config) -> Config {
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
    if config.names() != old.names() {
        log::warn!("a service that came or went is started or left when the daemon is started again");
    }
    config
}

fn mode(config: &Config) -> Option<Mode> {
    config.haproxy.as_ref().map(|haproxy| haproxy.mode)
}
