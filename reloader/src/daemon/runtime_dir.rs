//! What the daemon stands on in runtime-dir: lock and control socket, and what each service has there. Somebody may empty the
//! directory.

use std::cell::RefCell;
use std::rc::Rc;

use super::control::{Control, ControlSocket};
use super::event_loop::EventLoop;
use super::{DaemonError, setup};
use crate::config::Config;
use crate::supervision::Notice;

/// Held as long as the daemon runs.
pub(super) struct RuntimeDir {
    lock: setup::Lock,
    control_socket: ControlSocket,
    control: Control,
    /// How often it was made again.
    restorations: u64,
}

/// One for all services.
#[derive(Clone)]
pub(super) struct SharedRuntimeDir(Rc<RefCell<RuntimeDir>>);

impl RuntimeDir {
    pub(super) fn new(lock: setup::Lock, control_socket: ControlSocket, control: Control) -> RuntimeDir {
        RuntimeDir { lock, control_socket, control, restorations: 0 }
    }

    /// Makes again what all services share. Without the lock a second daemon could start.
    fn restore(&mut self, config: &Config) -> Result<(), DaemonError> {
        if self.lock.is_in_place() {
            return Ok(());
        }
        setup::directories(config, self.control.group)?;
        self.lock = setup::lock(&config.runtime_dir)?;
        if !config.control_socket.exists() {
            let mut control_socket = ControlSocket::listen(&config.control_socket, self.control.group)?;
            control_socket.serve(self.control.clone());
            // The earlier one's path is this one's now: it must not remove it.
            std::mem::replace(&mut self.control_socket, control_socket).forget_path();
        }
        self.restorations += 1;
        Ok(())
    }
}

impl SharedRuntimeDir {
    pub(super) fn new(runtime_dir: RuntimeDir) -> SharedRuntimeDir {
        SharedRuntimeDir(Rc::new(RefCell::new(runtime_dir)))
    }
}

impl EventLoop {
    /// Creates again what is no longer there. Without the broker the next generation would get no sockets.
    pub(super) fn restore_runtime_dir(&mut self) {
        let (shared, restorations) = {
            let mut runtime_dir = self.runtime_dir.0.borrow_mut();
            (runtime_dir.restore(self.supervisor.config()), runtime_dir.restorations)
        };
        if shared.is_ok() && restorations == self.restorations {
            return;
        }
        let directory = self.supervisor.config().runtime_dir.display().to_string();
        let mut own = || self.supervisor.restore_files().map_err(DaemonError::io("creating its files again"));
        match shared.and_then(|()| own()) {
            Ok(()) => {
                self.restorations = restorations;
                self.supervisor.clear_warning(Notice::RuntimeDir);
                log::error!("{directory} was emptied by another process; recreated the lock, sockets and records");
            }
            Err(error) => {
                let sentence = format!("{directory} was emptied by another process, and cannot be used again: {error}");
                log::error!("{sentence}");
                self.supervisor.warn(Notice::RuntimeDir, sentence);
            }
        }
        self.supervisor.publish();
    }
}
