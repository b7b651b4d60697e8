//! Proves from the kernel what the new generation listens on.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::time::Duration;

use crate::kernel::sock_diag::ListenSocket;
use crate::model::listener::{Owned, Role};
use crate::process;
use crate::receipt::{Failure, ReasonCode};
use crate::reload::attempt::Attempt;
use crate::reload::verdict::{self, Verdict};
use crate::sockets::foreign;
use crate::sockets::inspection::Inspection;
use crate::sockets::reachability::Unreachable;
use crate::supervision::{Generation, Supervisor};

/// How long a process that does not answer any more may take to end, before it is called silent.
const END_TIMEOUT: Duration = Duration::from_millis(200);

impl Attempt<'_> {
    /// Looks again at a server that binds sockets while it serves: it may have other sockets than at the last look.
    pub(in crate::reload) async fn look_again(&mut self) {
        let supervisor = &mut *self.supervisor;
        let Some(serving) = supervisor.serving().filter(|_| supervisor.server().binds_while_it_serves()) else {
            return;
        };
        let (process, socket) = (serving.process.clone(), serving.socket.clone());
        match supervisor.inspect(&process, &socket).await {
            Ok(inspection) => supervisor.update_serving(inspection),
            Err(error) => log::warn!("what process {} listens on could not be looked at: {error}", process.pid()),
        }
    }

    /// Inspects the generation that is starting, and judges each listener. `old` are those that it must take over.
    pub(in crate::reload) async fn prove(&mut self, old: &[Owned]) -> Result<(Inspection, Vec<Verdict>), Failure> {
        let inspection = self.inspect_starting().await?;
        if let Some(doubt) = inspection.doubt {
            return Err(unproven(ReasonCode::InspectionFailed, doubt));
        }
        inspection.notes.iter().for_each(|note| self.recorder.note(note));
        if let Some(missing) = self.supervisor.server().missing_addresses(&inspection.owned) {
            return Err(unproven(ReasonCode::AddressesMissing, missing));
        }
        if !inspection.owned.iter().any(|owned| owned.role == Role::Traffic) {
            // HAProxy by itself refuses a configuration without a listener; only our stats socket lets it start.
            let why = "its configuration has no listener for traffic (an empty or half-written file?)";
            return Err(unproven(ReasonCode::NoTrafficListener, why));
        }
        if let Some(sentence) = find_foreign_listener(self.supervisor, &inspection, old) {
            if !self.must_serve() {
                return Err(Failure::new(ReasonCode::ForeignListener, sentence));
            }
            self.recorder.doubt(ReasonCode::ForeignListener, sentence);
        }
        let obstacle = self.supervisor.server().next_reload_obstacle(&inspection);
        if let Some(sentence) = &obstacle {
            self.recorder.doubt(ReasonCode::NextReloadFails, sentence);
        }
        self.next_obstacle = obstacle;
        let unreachable = self.supervisor.unreachable_now(&inspection).await;
        let verdicts = verdicts(self.supervisor, old, &inspection, &unreachable);
        Ok((inspection, verdicts))
    }

    async fn inspect_starting(&mut self) -> Result<Inspection, Failure> {
        let new = self.supervisor.generations().starting();
        let new = new.ok_or_else(|| Failure::internal("no generation is starting"))?;
        self.recorder.receipt().new = Some(new.id());
        let (process, socket) = (new.process.clone(), new.socket.clone());
        let inspected = self.supervisor.inspect(&process, &socket).await;
        if inspected.as_ref().map_or(true, |inspection| inspection.doubt.is_some()) {
            // A process that ends closes its sockets first. Whether it has ended is known a moment later.
            let _ = tokio::time::timeout(END_TIMEOUT, process.ended()).await;
        }
        self.refuse_if_new_has_ended()?;
        inspected.map_err(|error| unproven(ReasonCode::InspectionFailed, error.to_string()))
    }

    /// What was seen of the new generation was seen on a living process, and it lives at the last moment before the old one is asked to
    /// drain.
    pub(in crate::reload) fn refuse_if_new_has_ended(&mut self) -> Result<(), Failure> {
        match self.supervisor.generations().starting().and_then(|new| new.process.try_ended()) {
            Some(ended) => {
                let reason = format!("the new generation {ended} before it was proven");
                Err(self.failure_with_log(ReasonCode::StartFailed, reason))
            }
            None => Ok(()),
        }
    }

    /// Records that the new generation serves and the old one drains, before either happens.
    pub(in crate::reload) async fn record_handover(&self) -> Result<(), Failure> {
        let place = self.supervisor.place().display();
        match self.supervisor.record_handover().await {
            Ok(()) => Ok(()),
            Err(error) if self.supervisor.is_served() => {
                let reason =
                    format!("the handover cannot be recorded in {place}: {error}; {}", remedy_for(error.kind()));
                Err(Failure::new(ReasonCode::RecordFailed, reason))
            }
            // Without an old generation the record cannot confuse two generations. Serving is more important than the record.
            Err(error) => {
                log::error!("the handover cannot be recorded: {error}");
                Ok(())
            }
        }
    }
}

/// What to do where the record cannot be written. Pure.
fn remedy_for(error: ErrorKind) -> &'static str {
    match error {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room there",
        _ => "root must be able to write there",
    }
}

fn unproven(code: ReasonCode, why: impl std::fmt::Display) -> Failure {
    Failure::new(code, format!("the new generation cannot be proven: {why}"))
}

/// The verdicts, with what is known beyond the two lists of listeners.
pub(in crate::reload) fn verdicts(
    supervisor: &Supervisor,
    old: &[Owned],
    inspection: &Inspection,
    unreachable: &HashMap<u64, Unreachable>,
) -> Vec<Verdict> {
    let mut new = inspection.owned.clone();
    let listed: HashSet<u64> = new.iter().map(|owned| owned.listener.inode).collect();
    // A socket that the new generation has was passed, even where it could not be described again.
    let also_has = old.iter().filter(|owned| inspection.sockets.contains_key(&owned.listener.inode));
    new.extend(also_has.filter(|owned| !listed.contains(&owned.listener.inode)).cloned());
    let mut verdicts = verdict::verdicts(old, &new, unreachable, &supervisor.taken_over_by_v6only());
    if let (None, Some(refused)) = (supervisor.serving(), supervisor.outage().refused()) {
        let time = refused.since.elapsed();
        let was_refused = |verdict: &&mut Verdict| {
            let before = verdict.receipt.inode_before;
            refused.listeners.iter().any(|owned| Some(owned.listener.inode) == before)
        };
        verdicts.iter_mut().filter(was_refused).for_each(|verdict| verdict.note_refused(time));
    }
    verdicts
}

/// Another server on one of our addresses, as a sentence.
pub(in crate::reload) fn find_foreign_listener(
    supervisor: &Supervisor,
    inspection: &Inspection,
    old: &[Owned],
) -> Option<String> {
    let ours: Vec<Owned> = old.iter().chain(&inspection.owned).cloned().collect();
    let mut known: HashSet<u64> = inspection.sockets.keys().copied().collect();
    known.extend(old.iter().map(|owned| owned.listener.inode));
    let suspects = foreign::among(&inspection.machine, &ours, &known);
    if suspects.is_empty() {
        return None;
    }
    let own_generations = supervisor.serving().into_iter().chain(supervisor.generations().draining());
    let own_processes: Vec<u32> = own_generations.flat_map(Generation::tree).collect();
    known.extend(process::sockets_of(&own_processes).keys());
    foreign::among(&suspects, &ours, &known).first().map(foreign_sentence)
}

fn foreign_sentence(socket: &ListenSocket) -> String {
    format!("{}; stop it, then try again", foreign::sentence(&foreign::holder_of(socket), socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_asked_for_only_where_it_lacks() {
        assert_eq!(remedy_for(ErrorKind::StorageFull), "make room there");
        assert_eq!(remedy_for(ErrorKind::ReadOnlyFilesystem), "root must be able to write there");
    }
}
