//! Keeps the guard of a hold: hands the gate over, reads the guard's messages, and replaces a guard that died.

use std::io;

use super::{HoldWorker, show_life};
use crate::gate::contract::{Gate, HoldStats};
use crate::gate::hold::channel::ToHolder;
use crate::gate::hold::guard::Guard;
use crate::gate::hold::health::HoldHealth;

/// How many guards are replaced in one hold.
const MAX_REPLACEMENTS: u32 = 3;

impl HoldWorker {
    /// Gives the guard what it needs in order to release. Calls `meanwhile` while it waits for the guard.
    pub(super) fn hand_over(&mut self, mut guard: Guard, meanwhile: &mut dyn FnMut(&mut dyn Gate)) -> io::Result<()> {
        let handover = self.gate.handover().map_err(io::Error::other)?;
        guard.hand_over(self.backend, self.ends, handover, &mut || meanwhile(self.gate.as_mut()))?;
        self.entry.record_guard(self.backend, guard.pid()).map_err(io::Error::other)?;
        guard.is_on_duty()?;
        self.guard = Some(guard);
        Ok(())
    }

    /// Gives the guard the gate as it is now, with the devices that were added during the hold.
    pub(super) fn hand_over_again(&mut self) {
        let Some(guard) = &mut self.guard else { return };
        let handed_over = self.gate.handover().map_err(io::Error::other).and_then(|handover| {
            let mut renew = || renew(self.gate.as_mut(), &self.health);
            guard.hand_over(self.backend, self.ends, handover, &mut renew)
        });
        if let Err(error) = handed_over {
            self.note(format!("the guard does not know of a device that was added during the hold: {error}"));
        }
    }

    /// Reads the next message of the guard. True when the hold is to be released.
    pub(super) fn hear_guard(&mut self) -> bool {
        let Some(mut guard) = self.guard.take() else { return false };
        match guard.read() {
            Ok(Some(ToHolder::Lifted { stats, doubt })) => {
                self.note_lifted(stats, doubt);
                true
            }
            Ok(Some(message)) => {
                self.guard = Some(guard);
                message == ToHolder::Asked
            }
            Ok(None) | Err(_) => {
                drop(guard);
                self.replace_guard();
                false
            }
        }
    }

    /// Notes what the guard did when it released by itself.
    pub(super) fn note_lifted(&mut self, stats: HoldStats, doubt: Option<String>) {
        self.lifted = Some(stats);
        doubt.into_iter().for_each(|doubt| self.note_doubt(doubt));
    }

    fn replace_guard(&mut self) {
        if self.replacements >= MAX_REPLACEMENTS {
            let deaths = self.replacements + 1;
            return self.note(format!("the guard died {deaths} times: the hold goes on without one"));
        }
        self.replacements += 1;
        match self.start_replacement() {
            Ok(()) => self.note("the guard died during the hold and was replaced"),
            Err(error) => self.note(format!("the guard died during the hold, and could not be replaced: {error}")),
        }
    }

    fn start_replacement(&mut self) -> io::Result<()> {
        let mut guard = Guard::start(&self.request.program, &self.request.inheritance)?;
        guard.is_replacement()?;
        let mut renewed = || renew(self.gate.as_mut(), &self.health);
        let guard = guard.assign(&self.entry, &self.ports, &self.old_leaving, &mut renewed)?;
        let health = self.health();
        self.hand_over(guard, &mut |gate| renew(gate, &health))
    }
}

/// Renews the lease while the guard is waited for. An error shows at the next regular renewal.
fn renew(gate: &mut dyn Gate, health: &HoldHealth) {
    let _ = gate.renew();
    show_life(None, health);
}
