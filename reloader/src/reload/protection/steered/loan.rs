//! Lends the steering program to one reload. Whatever way the setup ends, the program goes back to the supervisor or into a
//! [`SteeredListeners`].

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::groups::{Added, Successor, add};
use super::{Counters, Line, SteeredListeners};
use crate::gate::steer::{Steer, Trace};
use crate::model::listener::{Endpoint, Listener};
use crate::receipt::{Doubt, ReasonCode, Recorder};
use crate::reload::timing::{LEASE_MARGIN, LONGEST_WAIT};
use crate::sockets::custody::Custody;
use crate::supervision::Supervisor;
use crate::supervision::steering::ClosingListeners;
use crate::sys;

/// The steering program while groups are added to it. Dropped, it is given back.
pub(in crate::reload) struct Loan<'a> {
    supervisor: &'a mut Supervisor,
    program: Option<Steer>,
    lines: Vec<Line>,
    from: Vec<Arc<OwnedFd>>,
    fresh: Vec<Arc<OwnedFd>>,
}

impl<'a> Loan<'a> {
    /// Takes the program from the supervisor, and puts it on record that it steers to the sockets of `new`.
    ///
    /// # Errors
    /// A sentence.
    pub(in crate::reload) async fn take(supervisor: &'a mut Supervisor, new: &Custody) -> Result<Loan<'a>, String> {
        if supervisor.steering().is_left_behind() {
            supervisor.take_over_steering();
        }
        let program = supervisor.lend_steering().await.map_err(|error| error.to_string())?;
        let mut loan =
            Loan { supervisor, program: Some(program), lines: Vec::new(), from: Vec::new(), fresh: Vec::new() };
        let to = new.kept().iter().map(|kept| kept.listener.inode).collect();
        let place = loan.supervisor.place();
        let trace = Trace::leave(place, &to)
            .map_err(|error| format!("cannot steer: it cannot be recorded in {}: {error}", place.display()))?;
        loan.program().keep(trace);
        Ok(loan)
    }

    /// The service that lent it.
    pub(in crate::reload) fn supervisor(&mut self) -> &mut Supervisor {
        self.supervisor
    }

    /// Steers from the `old` sockets of one endpoint to those in `to`.
    ///
    /// # Errors
    /// A sentence; nothing is steered there then.
    pub(in crate::reload) fn add(
        &mut self,
        endpoint: &Endpoint,
        old: &[Listener],
        to: &[Successor],
    ) -> Result<(), String> {
        let Some(program) = &mut self.program else { return Ok(()) };
        let custody = self.supervisor.custody();
        let Added { place, from } = add(program, custody, endpoint, old, to)?;
        let is_fresh = |successor: &&Successor| custody.owner(successor.inode).is_none();
        self.fresh.extend(to.iter().filter(is_fresh).map(|successor| successor.fd.clone()));
        self.lines.extend(old.iter().map(|old| Line { old: old.clone(), group: place }));
        self.from.extend(from);
        Ok(())
    }

    /// The listeners that are steered away from; `None` where none are.
    pub(in crate::reload) fn into_steered(mut self, recorder: &mut Recorder) -> Option<SteeredListeners> {
        if self.lines.is_empty() {
            let from = std::mem::take(&mut self.from);
            if let Err(error) = self.program().end(&from) {
                recorder.note(error.to_string());
            }
            return None;
        }
        let mut steer = self.program.take()?;
        let timeout = self.supervisor.config().reload.drain_timeout;
        let sockets = self.from.iter().chain(&self.fresh);
        let deferral = sockets.map(|socket| sys::accept_deferral(socket.as_fd())).max().unwrap_or_default();
        let deferral = deferral.min(LONGEST_WAIT);
        let renewed = steer.renew((timeout + deferral) * 3 + LEASE_MARGIN);
        let doubt = renewed.err().map(|error| Doubt::new(ReasonCode::Diverted, error.to_string()));
        let lines = std::mem::take(&mut self.lines);
        Some(SteeredListeners {
            before: Counters::read(&mut steer),
            old: Arc::new(ClosingListeners::new(lines.iter().map(|line| &line.old))),
            steer,
            lines,
            from: std::mem::take(&mut self.from),
            fresh: std::mem::take(&mut self.fresh),
            timeout,
            deferral,
            new: self.supervisor.generations().starting().map(|new| new.process.clone()),
            rolled_back: false,
            doubt,
        })
    }

    fn program(&mut self) -> &mut Steer {
        self.program.as_mut().expect("it is taken only by into_steered")
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(program) = self.program.take() {
            self.supervisor.give_back_steering(program, None);
        }
    }
}
