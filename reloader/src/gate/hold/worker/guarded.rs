//! What the holder has to do with its guard.

use std::io;

use super::super::channel::ToHolder;
use super::super::guard::Guard;
use super::super::health::HoldHealth;
use super::super::{Gate, HoldStats};
use super::HoldWorker;

/// How many guards that die are replaced in one hold.
const REPLACEMENTS: u32 = 3;

impl HoldWorker {
    /// Gives the guard what it needs to release; `meanwhile` is done while it is waited for.
    pub(super) fn entrust(&mut self, mut guard: Guard, meanwhile: &mut dyn FnMut(&mut dyn Gate)) -> io::Result<()> {
        let keepsake = self.gate.keepsake().map_err(io::Error::other)?;
        guard.entrust(self.backend, self.ends, keepsake, &mut || meanwhile(self.gate.as_mut()))?;
        self.claim.amend(self.backend, guard.pid()).map_err(io::Error::other)?;
        guard.is_on_duty()?;
        self.guard = Some(guard);
        Ok(())
    }

    pub(super) fn entrust_again(&mut self) {
        let Some(guard) = &mut self.guard else { return };
        let entrusted = self.gate.keepsake().map_err(io::Error::other).and_then(|keepsake| {
            let mut renew = || renew(self.gate.as_mut(), &self.pulse);
            guard.entrust(self.backend, self.ends, keepsake, &mut renew)
        });
        if let Err(error) = entrusted {
            self.note(format!("the guard does not know of a device that came during the hold: {error}"));
        }
    }

    /// True when somebody asked for the release.
    pub(super) fn hear_guard(&mut self) -> bool {
        let Some(mut guard) = self.guard.take() else { return false };
        match guard.hear() {
            Ok(Some(ToHolder::Lifted { figures, trouble })) => {
                self.was_lifted(figures, trouble);
                true
            }
            Ok(Some(said)) => {
                self.guard = Some(guard);
                said == ToHolder::Asked
            }
            Ok(None) | Err(_) => {
                drop(guard);
                self.replace_guard();
                false
            }
        }
    }

    pub(super) fn was_lifted(&mut self, figures: HoldStats, trouble: Option<String>) {
        self.lifted = Some(figures);
        trouble.into_iter().for_each(|trouble| self.doubt(trouble));
    }

    fn replace_guard(&mut self) {
        if self.replacements >= REPLACEMENTS {
            return self.note(format!("the guard died {} times: the hold goes on without", self.replacements + 1));
        }
        self.replacements += 1;
        match self.start_replacement() {
            Ok(()) => self.note("the guard died during the hold and was replaced"),
            Err(error) => self.note(format!("the guard died during the hold, and another cannot be had: {error}")),
        }
    }

    fn start_replacement(&mut self) -> io::Result<()> {
        let mut guard = Guard::start(&self.wanted.program, &self.wanted.inheritance)?;
        guard.is_replacement()?;
        let mut renewed = || renew(self.gate.as_mut(), &self.pulse);
        let guard = guard.in_charge_of(&self.claim, &self.ports, &self.leaving, &mut renewed)?;
        let pulse = self.pulse();
        self.entrust(guard, &mut |gate| renew(gate, &pulse))
    }
}

/// An error shows at the next renewal in its turn.
fn renew(gate: &mut dyn Gate, pulse: &HoldHealth) {
    let _ = gate.renew();
    pulse.heartbeat();
}
