//! Keeps the daemon's lock and control socket in runtime-dir. Another process may empty the directory.

use std::cell::RefCell;
use std::rc::Rc;

use super::control::{Control, ControlSocket};
use super::{DaemonError, setup};
use crate::config::Config;

/// What all services share there. It is kept as long as the daemon runs.
pub(super) struct RuntimeDir {
    lock: setup::Lock,
    control_socket: ControlSocket,
    control: Control,
    /// How often it was created again.
    restorations: u64,
}

/// Shared by the loops of all services.
#[derive(Clone)]
pub(super) struct SharedRuntimeDir(Rc<RefCell<RuntimeDir>>);

impl RuntimeDir {
    pub(super) fn new(lock: setup::Lock, control_socket: ControlSocket, control: Control) -> RuntimeDir {
        RuntimeDir { lock, control_socket, control, restorations: 0 }
    }

    /// Creates it again where it is gone. Without the lock a second daemon could start.
    fn restore(&mut self, config: &Config) -> Result<(), DaemonError> {
        if self.lock.is_in_place() {
            return Ok(());
        }
        setup::directories(config, self.control.group)?;
        let lock = setup::lock(&config.runtime_dir)?;
        if !config.control_socket.exists() {
            let mut control_socket = ControlSocket::listen(&config.control_socket, self.control.group)?;
            control_socket.serve(self.control.clone());
            // The new socket has the path of the earlier one, so the earlier one must not remove that path.
            std::mem::replace(&mut self.control_socket, control_socket).forget_path();
        }
        // The lock comes last, because a lock in place means that nothing else is created again.
        self.lock = lock;
        self.restorations += 1;
        Ok(())
    }
}

impl SharedRuntimeDir {
    /// Creates again what all services share, where it is gone. Also returns how often that was done so far.
    pub(super) fn restore(&self, config: &Config) -> (Result<(), DaemonError>, u64) {
        let mut runtime_dir = self.0.borrow_mut();
        (runtime_dir.restore(config), runtime_dir.restorations)
    }

    pub(super) fn new(runtime_dir: RuntimeDir) -> SharedRuntimeDir {
        SharedRuntimeDir(Rc::new(RefCell::new(runtime_dir)))
    }
}
