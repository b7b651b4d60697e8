//! Does the work that is due between reloads: updates custody, notices processes that ended, and enforces time limits.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Supervisor;
use crate::config::Limit;
use crate::haproxy::drain_times::says_hard_stop;
use crate::haproxy::master::has_programs_alone;
use crate::model::listener::Owned;
use crate::process::{Ended, control_group};
use crate::sockets::custody::Followed;
use crate::supervision::{Generation, Notice};

/// The time in which a retired generation should close its listeners. After it, the generation is asked again.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the programs of a HAProxy may run after its last worker has ended. Then they are killed.
const PROGRAMS_END_TIMEOUT: Duration = Duration::from_secs(10);

impl Supervisor {
    /// Does the work that is due about once a second: updates custody, forwards the server's log, and enforces time
    /// limits.
    pub(crate) fn tick(&mut self) {
        self.heartbeat().beat();
        match self.server().owns_lifecycle() {
            true => self.follow_custody(),
            false => self.follow_closings(),
        }
        self.forward_logs();
        self.follow_flags();
        // The service manager's store may have been full before, and may have room now.
        self.hand_sockets_to_service_manager();
        self.ask_orphans();
        self.look_at_draining();
        self.follow_pid_file();
        self.follow_paths();
        self.follow_reachability();
        self.follow_last_known_good();
        self.remind_draining();
        self.end_idle_masters();
        self.drop_custody_when_over();
        if self.notices.forget_ended() {
            self.publish();
        }
        if control_group::any_remaining() {
            tokio::task::spawn_blocking(control_group::remove_remaining);
        }
        // While a generation starts, the program keeps its group's connections from it (`reload/protection/reserved.rs`).
        if self.steering.has_pending() && self.generations.starting().is_none() {
            self.detach_steering_when_idle();
        }
        // When a draining generation closes its listeners, that program moves the connections that are queued on them.
        if self.steering.is_left_behind() && !self.generations.draining().iter().any(Generation::listens) {
            self.take_over_steering();
        }
    }

    fn forward_logs(&mut self) {
        let name = self.service.name();
        self.generations.update_serving(|serving| forward_log(name, serving));
        self.generations.update_draining(|draining| forward_log(name, draining));
        let read = |starting: &mut Generation| {
            let known = starting.start_lines.len();
            starting.read_start_lines();
            starting.start_lines.len() != known
        };
        if self.generations.update_starting(read) == Some(true) {
            self.publish();
        }
    }

    /// Ends masters whose workers have drained and that have only programs left. A master is checked twice, because it
    /// may be starting a new worker.
    pub(crate) fn end_idle_masters(&mut self) {
        if !self.server().ends_idle_masters() {
            return;
        }
        let name = self.service.name();
        self.generations.update_draining(|generation| {
            if generation.has_workers && generation.retired.is_some() {
                end_when_idle(name, generation);
            }
        });
    }

    /// Records the O_NONBLOCK flags again if they have changed. A server may set O_NONBLOCK late, and the next daemon
    /// needs the present flags.
    fn follow_flags(&mut self) {
        if self.sockets.has_other_flags(&self.nonblocking()) {
            self.record_with_flags();
        }
    }

    /// Handles a serving generation that ended by itself.
    pub(crate) fn serving_ended(&mut self, ended: Ended) {
        let Some(mut dead) = self.generations.take_serving() else { return };
        log::error!("generation {} (process {}) {ended} while it served", dead.number, dead.process.pid());
        self.detach_steering_now();
        self.forget_pid(dead.process.pid());
        self.follow_orphans(&dead);
        self.note_refused_listeners(&dead.listeners);
        forward_last_words(self.name(), &mut dead);
        dead.clean_up();
        self.begin_outage(&dead, format!("nothing serves: generation {} {ended}", dead.number));
        self.record();
    }

    /// Handles a serving generation that still lives but has stopped listening: another process told it to stop, or its
    /// worker is dead.
    fn serving_stopped(&mut self) {
        let Some(mut stopped) = self.generations.take_serving() else { return };
        let warning = format!(
            "nothing serves: generation {} (process {}) closed its listeners without being told by reloader",
            stopped.number,
            stopped.process.pid()
        );
        log::error!("{warning}");
        let request = stopped.retire_request();
        self.forget_pid(stopped.process.pid());
        self.detach_steering_now();
        self.note_refused_listeners(&stopped.listeners);
        stopped.retired = Some(Instant::now());
        self.begin_outage(&stopped, warning);
        self.generations.add_draining(stopped);
        self.stopped.push(request);
    }

    /// Asks generations that stopped listening to end. First records that they drain, because the next daemon must not
    /// ask them a second time.
    pub(crate) async fn retire_stopped(&mut self) {
        let requests = std::mem::take(&mut self.stopped);
        if requests.is_empty() {
            return;
        }
        // A failure is logged, and the record is written again later.
        let _ = self.record_now().await;
        requests.iter().for_each(|request| self.server().retire(request));
    }

    fn begin_outage(&mut self, last: &Generation, warning: String) {
        // The outage counts from the end of the process: the loop may have been busy with a reload when it ended.
        let since = last.process.ended_at().unwrap_or_else(Instant::now);
        self.outage.begin(since, last.serving_since.elapsed());
        self.clear_warning(Notice::LastKnownGood);
        self.clear_warning(Notice::NextReload);
        self.warn(Notice::NothingServes, warning);
    }

    /// Updates custody to the listeners that the serving generation owns now.
    pub(super) fn follow_custody(&mut self) {
        let Some(serving) = self.serving().filter(|serving| serving.process.try_ended().is_none()) else { return };
        let (root, scope, sentinel) = (serving.process.pid(), serving.scope, serving.sentinel);
        match self.sockets.follow(sentinel, || scope.processes(root)) {
            Followed::Unchanged => self.outage.note_descriptors(),
            Followed::Ending => {
                if self.outage.note_no_descriptors() {
                    self.serving_stopped();
                    self.publish();
                }
            }
            Followed::StoppedListening => {
                self.serving_stopped();
                self.publish();
            }
            Followed::Closed(closed) => {
                self.forget_closed(&closed);
                self.detach_steering_now();
                self.hand_sockets_to_service_manager();
                self.publish();
            }
        }
    }

    /// Forgets listeners that the serving generation has closed by itself.
    fn forget_closed(&mut self, closed: &[u64]) {
        self.generations.update_serving(|serving| {
            let is_closed = |owned: &Owned| closed.contains(&owned.listener.inode);
            for owned in serving.listeners.iter().filter(|owned| is_closed(owned)) {
                log::warn!("the server closed {} by itself: it leaves custody", owned.listener.endpoint);
            }
            serving.listeners.retain(|owned| !is_closed(owned));
        });
    }

    /// Asks a retired generation again if it still listens, and notes it for `status`. Such a generation gets a share of
    /// the new connections.
    fn remind_draining(&mut self) {
        let again = self.server().may_be_asked_twice();
        let then = match (self.server().owns_lifecycle(), again) {
            (false, _) => "its master has to tell it again",
            (true, true) => "it is told again",
            (true, false) => "look at its log",
        };
        let (name, server) = (self.service.name(), self.service.server());
        self.generations.update_draining(|generation| {
            if !is_overdue_to_close(generation) {
                return;
            }
            let listens = generation.listens();
            if listens && (again || !generation.retired_listens) {
                let (number, pid) = (generation.number, generation.process.pid());
                log::warn!("{name}: generation {number} (process {pid}) still listens though it was retired: {then}");
                if again {
                    server.retire(&generation.retire_request());
                }
            }
            generation.retired_listens = listens;
            generation.closed_listeners = !listens;
        });
    }

    /// Drops custody after two failed starts, or once custody-max has passed.
    fn drop_custody_when_over(&mut self) {
        if let Some(why) = self.outage.why_custody_is_over(self.custody_max()).filter(|_| !self.custody().is_empty()) {
            self.drop_custody(why);
            self.publish();
        }
    }

    /// The numbers of the draining generations that were retired longer than `hard-stop-after` ago.
    pub(crate) fn overdue(&self) -> Vec<u64> {
        let Limit::After(limit) = self.config().reload.hard_stop_after else { return Vec::new() };
        let overdue = |generation: &&Generation| generation.retired.is_some_and(|retired| retired.elapsed() >= limit);
        self.generations.draining().iter().filter(overdue).map(|generation| generation.number).collect()
    }

    /// True while a draining generation was retired less than `within` ago. Such a generation may still begin to send its
    /// stick tables.
    pub(crate) fn predecessor_may_teach(&self, within: Duration) -> bool {
        let lately = |generation: &Generation| generation.retired.is_some_and(|retired| retired.elapsed() < within);
        let draining = self.generations.draining().iter();
        draining.filter(|generation| generation.process.try_ended().is_none()).any(lately)
    }
}

/// Whether a retired generation has had enough time to close its listeners, but was not seen to have closed them.
fn is_overdue_to_close(generation: &Generation) -> bool {
    !generation.awaits_retirement
        && !generation.closed_listeners
        && generation.retired.is_some_and(|retired| retired.elapsed() >= CLOSE_TIMEOUT)
}

/// Ends a retired master that has programs and no worker.
fn end_when_idle(service: &str, generation: &mut Generation) {
    if !has_programs_alone(generation.process.pid()) {
        generation.idle_since = None;
        return;
    }
    match generation.idle_since {
        None => generation.idle_since = Some(Instant::now()),
        Some(since) if since.elapsed() < PROGRAMS_END_TIMEOUT => generation.process.signal(Signal::TERM),
        Some(_) => {
            let number = generation.number;
            log::warn!("{service}: programs of generation {number} have not ended by SIGTERM: they are killed");
            generation.kill_now();
        }
    }
}

fn forward_log(service: &str, generation: &mut Generation) {
    let lines = generation.new_log_lines();
    forward(service, generation, &lines);
}

/// Forwards the lines that the generation wrote before it ended, and returns them. A last line without a line break is included.
pub(super) fn forward_last_words(service: &str, generation: &mut Generation) -> Vec<String> {
    let lines = generation.last_log_lines();
    forward(service, generation, &lines);
    lines
}

fn forward(service: &str, generation: &mut Generation, lines: &[String]) {
    let number = generation.number;
    lines.iter().for_each(|line| log::info!(target: service, "[{number}] {line}"));
    generation.says_hard_stop |= generation.retired.is_some() && lines.iter().any(|line| says_hard_stop(line));
}
