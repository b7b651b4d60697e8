//! Creates again what another process removed from runtime-dir.

use super::DaemonError;
use super::event_loop::EventLoop;
use crate::supervision::Notice;

impl EventLoop {
    /// Creates again what is no longer there. Without the broker the next generation would get no sockets.
    pub(super) fn restore_runtime_dir(&mut self) {
        let (shared, restorations) = self.runtime_dir.restore(self.supervisor.config());
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
