//! What the daemon stands on in runtime-dir: lock, control socket, broker. Somebody may empty the directory.

use super::control::{Control, ControlSocket};
use super::event_loop::EventLoop;
use super::{DaemonError, setup};
use crate::haproxy::broker::Broker;

/// Held as long as the daemon runs.
pub(super) struct Footing {
    pub(super) lock: setup::Lock,
    pub(super) control_socket: ControlSocket,
    pub(super) control: Control,
}

impl EventLoop {
    /// Makes again what is no longer there. Without the broker the next generation would get no sockets, and without
    /// the lock a second daemon could start.
    pub(super) fn mend_footing(&mut self) {
        if self.footing.lock.is_in_place() {
            return;
        }
        let directory = self.supervisor.config.runtime_dir.display().to_string();
        match self.make_again() {
            Ok(()) => log::error!("{directory} was emptied by somebody: lock, sockets and records are made again"),
            Err(error) => {
                log::error!("{directory} was emptied by somebody, and cannot be used again: {error}");
                self.supervisor.warning = Some(format!("{directory} was emptied by somebody: {error}"));
            }
        }
        self.supervisor.publish();
    }

    fn make_again(&mut self) -> Result<(), DaemonError> {
        let config = &self.supervisor.config;
        setup::directories(config, self.footing.control.group)?;
        self.footing.lock = setup::lock(&config.runtime_dir)?;
        self.supervisor.broker =
            Broker::listen(&config.runtime_dir).map_err(DaemonError::io("creating the broker's socket"))?;
        if !config.control_socket.exists() {
            let mut control_socket = ControlSocket::listen(&config.control_socket, self.footing.control.group)?;
            control_socket.serve(self.footing.control.clone());
            // The earlier one's path is this one's now: it must not remove it.
            std::mem::replace(&mut self.footing.control_socket, control_socket).forget_path();
        }
        self.supervisor.record_or_log();
        Ok(())
    }
}
