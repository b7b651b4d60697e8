//! The strategy for generations that cannot be bound beside each other (`noreuseport`): the old one makes room while SYNs are held. When
//! the new one fails, the last-known-good one is started under the same hold.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::attempt::Attempt;
use super::protection::held::HeldListeners;
use super::protection::pending_hold::PendingHold;
use super::steps::check::ended_before;
use super::steps::retire::stopped_listening;
use super::steps::stop_listening::{Closed, OldListeners};
use crate::gate::hold::Backend;
use crate::model::listener::{Address, Listener, Owned};
use crate::plan::keeps_tcp_back;
use crate::process::Handle;
use crate::process::readiness::StartLimit;
use crate::receipt::{Failure, ReasonCode};
use crate::server::Prepared;
use crate::supervision::{Notice, Supervisor};

/// Whether the new generation can bind its listeners only after the old one has closed its own: it is not given all of them, and they cannot be
/// bound twice. An abstract name can never be bound twice.
pub(super) fn is_needed(supervisor: &Supervisor, prepared: &Prepared) -> bool {
    let Some(serving) = supervisor.serving().filter(|_| supervisor.is_served()) else { return false };
    let strategy = supervisor.config().reload.strategy;
    if !supervisor.server().is_replaced_under(strategy) {
        return false;
    }
    let alone = prepared.binds_alone || serving.noreuseport;
    let passes = prepared.capabilities.why_not_passed.is_none();
    let given: HashSet<u64> = supervisor.custody().kept().iter().map(|kept| kept.listener.inode).collect();
    let is_in_the_way = |listener: &Listener| {
        let in_custody = given.contains(&listener.inode);
        if let Some(blocks) = supervisor.server().is_blocked_by(&listener.endpoint, in_custody) {
            return alone && blocks;
        }
        let is_given = passes && in_custody;
        match listener.endpoint.address {
            Address::Abstract(_) => !is_given,
            _ => alone && listener.endpoint.is_tcp_here() && (!is_given || keeps_tcp_back(strategy)),
        }
    };
    // A socket whose device or file has gone does not prevent another bind.
    let mut reachable =
        serving.listeners.iter().filter(|owned| supervisor.why_bound_again(owned.listener.inode).is_none());
    reachable.any(|owned| is_in_the_way(&owned.listener))
}

/// Runs it. Up to the moment when the old generation is asked to make room, every failure leaves it serving. Later failures happen under the
/// hold, which the caller ends.
pub(super) async fn run(attempt: &mut Attempt<'_>, prepared: &Prepared) -> Result<(), Failure> {
    attempt.tell("checking the configuration");
    let pending = attempt.prepare_hold();
    if let Err(failure) = attempt.check().await {
        if let Some(pending) = pending {
            pending.give_up().await;
        }
        return Err(failure);
    }
    let old = attempt.supervisor.present_listeners();
    attempt.recorder.phase(|phases| &mut phases.plan);

    attempt.supervisor.look_before_stop().await;
    attempt.tell("holding SYNs");
    attempt.hold_prepared(pending, &old).await;
    attempt.refuse_unproven_hold()?;

    attempt.refuse_if_old_has_ended()?;
    attempt.tell("replacing the old generation");
    attempt.replace(prepared, &old).await?;
    attempt.release().await;
    Ok(())
}

impl Attempt<'_> {
    /// Begins to put the hold in place while the configuration is checked. Only by eBPF: qdiscs would change the path of packets for a
    /// reload that the check may refuse.
    fn prepare_hold(&self) -> Option<PendingHold> {
        let strategy = self.supervisor.config().reload.strategy;
        let by_ebpf = self.supervisor.host().gates().best(strategy) == Ok(Backend::Ebpf);
        let old = self.supervisor.present_listeners();
        let tcp = tcp_listeners(&old);
        (by_ebpf && !tcp.is_empty()).then(|| PendingHold::begin(self.supervisor, tcp, &inodes(&old)))
    }

    /// As [`hold_all`](Self::hold_all), by the hold that is in place already where it is for these listeners.
    async fn hold_prepared(&mut self, pending: Option<PendingHold>, old: &[Owned]) {
        match pending {
            Some(pending) if pending.listeners() == tcp_listeners(old) => {
                let held = HeldListeners::arm(self.supervisor, pending, &mut self.recorder).await;
                self.drain_held(held).await;
            }
            other => {
                if let Some(outdated) = other {
                    outdated.give_up().await;
                }
                self.hold_all(old).await;
            }
        }
    }

    /// Holds SYNs for all TCP listeners of the old generation, and drains their queues.
    pub(super) async fn hold_all(&mut self, old: &[Owned]) {
        let (tcp, ours) = (tcp_listeners(old), inodes(old));
        let held = HeldListeners::begin(self.supervisor, tcp, &ours, &mut self.recorder).await;
        self.drain_held(held).await;
    }

    async fn drain_held(&mut self, held: Option<HeldListeners>) {
        let Some(mut held) = held else { return };
        self.recorder.phase(|phases| &mut phases.guard);
        held.drain(!self.supervisor.server().finishes_what_it_accepted()).await;
        self.recorder.phase(|phases| &mut phases.drain);
        self.protection.held = Some(held);
    }

    /// The held and drained listeners must belong to a living generation until the last moment before it makes room. Where that generation has
    /// ended, clients of its ports were refused, although SYNs were held since.
    fn refuse_if_old_has_ended(&self) -> Result<(), Failure> {
        let lives = self.supervisor.is_served();
        match lives && self.supervisor.custody().is_still_owned() {
            true => Ok(()),
            false => Err(ended_before(self.supervisor.server().owns_lifecycle(), lives)),
        }
    }

    async fn replace(&mut self, prepared: &Prepared, old: &[Owned]) -> Result<(), Failure> {
        let held_until = self.protection.held.as_ref().map(HeldListeners::ends);
        self.make_room(old, held_until).await?;
        self.supervisor.settle_service_manager().await;
        self.recorder.phase(|phases| &mut phases.retire);
        // Without a last-known-good configuration there is no second try that needs time.
        let held_until = held_until.filter(|_| self.supervisor.last_known_good().is_some());
        let last_start = self.supervisor.generations().last_start();
        let limit = held_until.map(|end| StartLimit {
            time: whole_milliseconds(first_try_timeout(end - Instant::now().min(end), last_start)),
            setting: "hold.max",
        });
        let Err(failure) = self.bring_up(prepared, old, limit).await else { return Ok(()) };
        self.abandon(failure.ends_custody).await;
        let failure = self.second_chance(old, failure).await;
        if !self.supervisor.is_served() {
            self.supervisor.warn(Notice::NothingServes, format!("nothing serves: {}", failure.reason));
            self.supervisor.note_refused_listeners(old);
            self.supervisor.begin_outage_after_failed_starts();
        }
        Err(failure)
    }

    /// The old generation closes its listeners. An error where it goes on serving.
    async fn make_room(&mut self, old: &[Owned], held_until: Option<Instant>) -> Result<(), Failure> {
        let listeners: Vec<&Listener> = old.iter().map(|owned| &owned.listener).collect();
        let old_listeners = OldListeners::new(self.supervisor, &listeners);
        // The hold is told before the record is written. Once the record is written, the next daemon retires the old generation again. If this
        // daemon dies in between, the listeners of the old generation must not count for the guard of the hold.
        self.protection.held.iter().for_each(HeldListeners::old_leaves);
        let Some((request, listened)) = self.supervisor.vacate(held_until).await else { return Ok(()) };
        self.supervisor.server().retire(&request);
        let process = request.process;
        let last_start = self.supervisor.generations().last_start();
        let timeout = close_timeout(self.supervisor.config().reload.drain_timeout, held_until, last_start);
        let closed = async {
            let began = Instant::now();
            match (stopped_listening(&process, &listened, timeout).await, old_listeners) {
                (true, Some(listeners)) => listeners.stop(timeout.saturating_sub(began.elapsed())).await,
                (true, None) => Closed::Gone,
                (false, _) => Closed::Attended,
            }
        };
        let closed = self.supervisor.heartbeat().during(closed).await;
        let stays = closed == Closed::Attended && process.try_ended().is_none();
        if stays && !self.supervisor.server().starts_beside_a_stuck_one() {
            return Err(self.reinstate(&process, timeout));
        }
        self.note_close(closed, &process);
        Ok(())
    }

    /// The old generation has not made room: it serves on.
    fn reinstate(&mut self, process: &Handle, timeout: Duration) -> Failure {
        self.supervisor.reinstate(process);
        self.protection.held.iter().for_each(HeldListeners::old_stays);
        let reason = format!(
            "the serving generation (process {}) still has its listeners {} after it was asked to end, and may end yet: nothing \
             else was started; see `stop` of the service, or raise hold.max and drain-timeout",
            process.pid(),
            humantime::format_duration(timeout)
        );
        Failure::new(ReasonCode::OldGenerationStays, reason)
    }

    fn note_close(&mut self, closed: Closed, process: &Handle) {
        let note = match closed {
            Closed::Gone => return,
            Closed::Listening => {
                "the old generation has closed its listeners, and the kernel listens on: a thread in accept(2) or another process keeps \
                 one, which the daemon has no duplicate of to stop it by (Linux 5.6 and CAP_SYS_PTRACE)"
                    .into()
            }
            Closed::Attended => format!(
                "the old generation (process {}) still has its listeners: the new one may be unable to bind",
                process.pid()
            ),
        };
        self.protection.held.iter_mut().for_each(HeldListeners::doubt_the_close);
        self.recorder.note(note);
    }

    async fn bring_up(&mut self, prepared: &Prepared, old: &[Owned], limit: Option<StartLimit>) -> Result<(), Failure> {
        self.start(prepared, limit).await?;
        self.recorder.phase(|phases| &mut phases.start);
        let (inspection, verdicts) = self.prove(old).await?;
        self.recorder.phase(|phases| &mut phases.confirm);
        self.retire(inspection, verdicts).await;
        Ok(())
    }

    /// The new generation came to nothing: what served before is started again, from the copy of its configuration.
    async fn second_chance(&mut self, old: &[Owned], failure: Failure) -> Failure {
        let again = match self.read_configuration(true).await {
            Ok(known_good) if known_good.is_known_good => self.bring_up(&known_good, old, None).await,
            Ok(_) if !self.supervisor.server().keeps_last_known_good() => return failure,
            Ok(_) => {
                let reason = format!("{}; and there is no last-known-good configuration yet", failure.reason);
                return Failure { reason, ..failure };
            }
            Err(error) => Err(error),
        };
        match again {
            Ok(()) => {
                let reason = format!("{}; HAProxy runs the last-known-good configuration again", failure.reason);
                self.supervisor.warn(Notice::LastKnownGood, reason.clone());
                Failure { reason, ..failure }
            }
            Err(second) => {
                self.abandon(second.ends_custody).await;
                let reason = format!(
                    "{}; and the last-known-good configuration did not start: {}",
                    failure.reason, second.reason
                );
                Failure { reason, server_log: [failure.server_log, second.server_log].concat(), ..failure }
            }
        }
    }
}

fn tcp_listeners(owned: &[Owned]) -> Vec<Listener> {
    let listeners = owned.iter().map(|owned| &owned.listener);
    listeners.filter(|listener| listener.endpoint.is_tcp_here()).cloned().collect()
}

fn inodes(owned: &[Owned]) -> HashSet<u64> {
    owned.iter().map(|owned| owned.listener.inode).collect()
}

/// How long the old generation may take to make room: as long as SYNs are held, less the time that the new one usually takes.
fn close_timeout(drain_timeout: Duration, held_until: Option<Instant>, last_start: Option<Duration>) -> Duration {
    let held = held_until.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
    let left = held.saturating_sub(last_start.unwrap_or(Duration::from_secs(1)));
    drain_timeout.max(Duration::from_millis(left.as_millis() as u64))
}

/// Without the digits that no reader of a message wants.
fn whole_milliseconds(time: Duration) -> Duration {
    Duration::from_millis(time.as_millis() as u64)
}

/// How long the new generation may take before the last-known-good one is tried, which is to come up within the hold too. Never shorter than
/// the previous start took.
fn first_try_timeout(left: Duration, last_start: Option<Duration>) -> Duration {
    let usual = last_start.unwrap_or_default();
    left.saturating_sub(usual * 2).max(usual * 2 + Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_generation_leaves_time_for_the_last_known_good_one() {
        let seconds = Duration::from_secs;
        assert_eq!(first_try_timeout(seconds(5), Some(seconds(1))), seconds(3));
        assert_eq!(first_try_timeout(seconds(5), None), seconds(5));
        // A server that takes longer than any hold is not cut for it.
        assert_eq!(first_try_timeout(seconds(5), Some(seconds(20))), seconds(41));
        assert_eq!(first_try_timeout(Duration::ZERO, Some(seconds(1))), seconds(3));
    }
}
