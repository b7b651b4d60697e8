//! A signal that reached `reloader hold`.

use rustix::process::Signal;

use crate::process::Handle;

/// A signal that came.
#[derive(Debug, Clone, Copy)]
pub struct CaughtSignal {
    /// Which one.
    pub signal: Signal,
    /// The terminal sent it to the command as well.
    pub reached_command: bool,
}

impl CaughtSignal {
    /// Sends it to the command, unless that has it already: many programs take a second one for impatience.
    pub fn pass_on(self, command: &Handle) {
        if !self.reached_command {
            command.signal(self.signal);
        }
    }
}
