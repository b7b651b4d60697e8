//! Describes a signal that reached `reloader hold`, and passes it on to the command.

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
    /// Sends the signal to the command, unless the command has received it already. Many programs end at once when they get the same signal
    /// twice.
    pub fn pass_on(self, command: &Handle) {
        if !self.reached_command {
            command.signal(self.signal);
        }
    }
}
