//! What the daemon does between reloads: custody follows the server, ends are noticed, limits are kept.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::restart_policy::Outage;
use super::supervisor::RefusedListeners;
use super::{Generation, Supervisor};
use crate::config::Limit;
use crate::gate::steer;
use crate::haproxy::master::has_programs_alone;
use crate::model::listener::Owned;
use crate::process::{Ended, ProcessScope};
use crate::sockets::custody::Followed;
use crate::supervision::steering::{detach_now, detach_when_idle};

/// A retired generation has closed its listeners after this time, or is told again.
const CLOSES_WITHIN: Duration = Duration::from_secs(3);

/// So long programs of a HAProxy may take to end after the last worker has, and are killed then.
const PROGRAMS_END_WITHIN: Duration = Duration::from_secs(10);

/// A generation whose descriptors are gone for so many ticks in a row, while its root lives, serves no more.
const ENDING_TICKS: u32 = 2;

impl Supervisor {
    /// What is due about once a second: custody follows the server, its log is forwarded, limits are kept.
    pub(crate) fn tick(&mut self) {
        self.board.heartbeat(&self.name);
        match &self.companion {
            None => self.follow_custody(),
            Some(_) => self.follow_closings(),
        }
        let generations = self.serving.iter_mut().chain(self.draining.iter_mut());
        generations.for_each(|generation| forward_log(&self.name, generation));
        self.follow_flags();
        self.tell_orphans();
        self.remind_draining();
        self.end_idle_masters();
        self.drop_custody_when_over();
        // While a generation starts, the program keeps its group's connections from it (`reload/reserved.rs`).
        if self.pending_handshakes.is_some() && self.starting.is_none() {
            detach_when_idle(self);
        }
        // What a draining generation has queued moves by that program when it closes.
        if self.inherits_steering && !self.draining.iter().any(Generation::listens) {
            self.take_over_steering();
        }
    }

    /// Ends masters whose workers have drained, and that only their programs keep. A new worker may be on its way, so it is looked twice.
    pub(crate) fn end_idle_masters(&mut self) {
        if self.server.haproxy().is_none() || self.companion.is_some() {
            return;
        }
        let is_retired = |generation: &&mut Generation| generation.has_workers && generation.retired.is_some();
        for generation in self.draining.iter_mut().filter(is_retired) {
            if !has_programs_alone(generation.process.pid()) {
                generation.idle_since = None;
                continue;
            }
            match generation.idle_since {
                None => generation.idle_since = Some(Instant::now()),
                Some(since) if since.elapsed() < PROGRAMS_END_WITHIN => generation.process.signal(Signal::TERM),
                Some(_) => {
                    let number = generation.number;
                    log::warn!(
                        "{}: programs of generation {number} have not ended by SIGTERM: they are killed",
                        self.name
                    );
                    generation.kill_now();
                }
            }
        }
    }

    /// A server may set O_NONBLOCK late: the next daemon is to find the record as it is now.
    fn follow_flags(&mut self) {
        let nonblocking = self.nonblocking();
        if self.recorded_nonblocking != nonblocking && self.record_or_log() {
            self.recorded_nonblocking = nonblocking;
        }
    }

    /// Takes off the steering program of a daemon that was killed.
    pub(crate) fn take_over_steering(&mut self) {
        self.inherits_steering = false;
        let groups = steer::clean_up(&self.place);
        log::warn!("took the steering program of an earlier daemon off {groups} sockets");
    }

    /// The serving generation ended by itself.
    pub(crate) fn serving_ended(&mut self, ended: Ended) {
        let Some(mut dead) = self.serving.take() else { return };
        log::error!("generation {} (process {}) {ended} while it served", dead.number, dead.process.pid());
        detach_now(self);
        self.follow_orphans(&dead);
        self.note_refused_listeners(&dead.listeners);
        forward_last_words(&self.name, &mut dead);
        dead.clean_up();
        self.note_down(&dead, format!("nothing serves: generation {} {ended}", dead.number));
        self.record_or_log();
    }

    /// The serving generation lives and listens no more: somebody else told it to stop, or its worker is dead.
    fn serving_stopped(&mut self) {
        let Some(mut stopped) = self.serving.take() else { return };
        let warning = format!(
            "nothing serves: generation {} (process {}) closed its listeners without being told by reloader",
            stopped.number,
            stopped.process.pid()
        );
        log::error!("{warning}");
        let ending = stopped.ending();
        detach_now(self);
        self.note_refused_listeners(&stopped.listeners);
        stopped.retired = Some(Instant::now());
        self.note_down(&stopped, warning);
        self.draining.push(stopped);
        self.record_or_log();
        self.server.retire(&ending);
    }

    fn note_down(&mut self, last: &Generation, warning: String) {
        // Counted from the end itself: the loop may have been busy with a reload meanwhile.
        let since = last.process.ended_at().unwrap_or_else(Instant::now);
        self.down = Some(Outage::begin(since, last.serving_since.elapsed(), self.last_down.as_ref()));
        self.warning = Some(warning);
        self.ending_ticks = 0;
    }

    /// Removes draining generations that have ended.
    pub(crate) fn reap_draining(&mut self) {
        let (ended, draining): (Vec<_>, Vec<_>) = std::mem::take(&mut self.draining)
            .into_iter()
            .partition(|generation| generation.process.try_ended().is_some());
        self.draining = draining;
        for mut generation in ended {
            forward_last_words(&self.name, &mut generation);
            log::info!(
                "{}: generation {} (process {}) has drained and ended",
                self.name,
                generation.number,
                generation.process.pid()
            );
            generation.clean_up();
            // A script may have ended without its server.
            if generation.scope == ProcessScope::All && !generation.closed_listeners {
                self.follow_orphans(&generation);
            }
        }
        self.record_or_log();
    }

    pub(super) fn follow_custody(&mut self) {
        let Some(serving) = self.serving.as_mut().filter(|serving| serving.process.try_ended().is_none()) else {
            return;
        };
        let (root, scope) = (serving.process.pid(), serving.scope);
        match self.custody.follow(serving.sentinel, || scope.processes(root)) {
            Followed::Unchanged => self.ending_ticks = 0,
            Followed::Ending => {
                self.ending_ticks += 1;
                if self.ending_ticks >= ENDING_TICKS {
                    self.serving_stopped();
                    self.publish();
                }
            }
            Followed::StoppedListening => {
                self.serving_stopped();
                self.publish();
            }
            Followed::Closed(closed) => {
                let is_closed = |owned: &Owned| closed.contains(&owned.listener.inode);
                for owned in serving.listeners.iter().filter(|owned| is_closed(owned)) {
                    log::warn!("the server closed {} by itself: it leaves custody", owned.listener.endpoint);
                }
                serving.listeners.retain(|owned| !is_closed(owned));
                detach_now(self);
                self.publish();
            }
        }
    }

    /// A retired generation that still listens takes its share of new connections: it is told again, and that is said.
    fn remind_draining(&mut self) {
        let due = |generation: &&mut Generation| {
            !generation.awaits_retirement
                && !generation.closed_listeners
                && generation.retired.is_some_and(|retired| retired.elapsed() >= CLOSES_WITHIN)
        };
        let again = self.server.may_be_asked_twice();
        let then = match (self.companion.is_some(), again) {
            (true, _) => "its master is to tell it again",
            (false, true) => "it is told again",
            (false, false) => "look at its log",
        };
        for generation in self.draining.iter_mut().filter(due) {
            if generation.listens() {
                if !again && generation.retired_listens {
                    continue;
                }
                log::warn!(
                    "{}: generation {} (process {}) still listens though it was retired: {then}",
                    self.name,
                    generation.number,
                    generation.process.pid()
                );
                if again {
                    self.server.retire(&generation.ending());
                }
                generation.retired_listens = true;
            } else {
                generation.closed_listeners = true;
                generation.retired_listens = false;
            }
        }
    }

    /// Whether something speaks for dropping custody by now.
    fn drop_custody_when_over(&mut self) {
        let custody_max = self.custody_max();
        let Some(down) = &self.down else { return };
        if !self.custody.is_empty() && down.custody_is_over(Instant::now(), custody_max) {
            self.drop_custody();
            self.publish();
        }
    }

    /// Nothing serves, so what comes to the ports would wait in vain.
    pub(crate) fn drop_custody(&mut self) {
        if self.custody.is_empty() {
            return;
        }
        log::error!(
            "nothing serves, after two failed starts or custody-max: custody is dropped, so that clients fail over"
        );
        let earlier = self.refused_listeners.take();
        let since = earlier.as_ref().map_or_else(Instant::now, |refused_listeners| refused_listeners.since);
        let mut listeners = self.custody_as_owned();
        listeners.extend(earlier.into_iter().flat_map(|refused_listeners| refused_listeners.listeners));
        self.refused_listeners = Some(RefusedListeners { since, listeners });
        self.custody.drop_all();
        // What is on offer is held as well.
        self.server.withdraw();
    }

    /// Draining generations that are past `hard-stop-after`.
    pub(crate) fn overdue(&self) -> Vec<u64> {
        let Limit::After(limit) = self.config.reload.hard_stop_after else { return Vec::new() };
        let overdue = |generation: &&Generation| generation.retired.is_some_and(|retired| retired.elapsed() >= limit);
        self.draining.iter().filter(overdue).map(|generation| generation.number).collect()
    }

    /// True while a generation drains that was retired so lately that it may still begin to teach its stick tables.
    pub(crate) fn predecessor_may_teach(&self, within: Duration) -> bool {
        let lately = |generation: &Generation| generation.retired.is_some_and(|retired| retired.elapsed() < within);
        self.draining.iter().any(|generation| generation.process.try_ended().is_none() && lately(generation))
    }
}

fn forward_log(service: &str, generation: &mut Generation) {
    let lines = generation.new_log_lines();
    forward(service, generation.number, &lines);
}

/// What it wrote up to its end, a last line without an end among it.
fn forward_last_words(service: &str, generation: &mut Generation) {
    let lines = generation.last_log_lines();
    forward(service, generation.number, &lines);
}

fn forward(service: &str, number: u64, lines: &[String]) {
    lines.iter().for_each(|line| log::info!(target: service, "[{number}] {line}"));
}
