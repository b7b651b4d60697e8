//! Keeps what the services have reported. The control socket reads it without their loops, and the service manager is
//! told of it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::drain_looks::Look;
use super::notify;
use super::reach::Surroundings;
use super::sentences::Unserved;
use super::status::{Draining, ListenerStatus, ServiceStatus, Serving};
use crate::gate::hold::HoldRegistry;
use crate::model::listener::Owned;
use crate::server::Check;

/// The interval at which an idle loop completes a turn.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// What one service has reported.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// The status, without listeners. They are many, and each loop reports far more often than its status is asked for.
    pub(crate) status: ServiceStatus,
    /// The listeners in custody. Those that serve are in `surroundings`.
    pub(super) custody: Vec<Owned>,
    /// The draining generations, to count their connections when asked.
    pub(crate) draining: Vec<DrainingNow>,
    /// What surrounds the serving generation, to look for other servers when asked.
    pub(crate) surroundings: Surroundings,
    /// How the configuration is checked, for a dry run.
    pub(crate) check: Option<Check>,
    /// The serving HAProxy's stats socket.
    pub(crate) socket: Option<PathBuf>,
    /// The registry of holds.
    pub(crate) holds: Option<HoldRegistry>,
    /// The status line for the service manager.
    pub(super) line: String,
    /// What can be said while no generation serves.
    pub(super) unserved: Unserved,
    /// Whether its loop has completed a turn since the last message to the watchdog.
    pub(super) has_beaten: bool,
}

impl Published {
    /// The status with its listeners.
    pub(crate) fn whole_status(&self) -> ServiceStatus {
        let mut status = self.status.clone();
        status.custody = self.custody.iter().map(ListenerStatus::from).collect();
        if let Some(serving) = &mut status.serving {
            serving.listeners = self.surroundings.listeners.iter().map(ListenerStatus::from).collect();
        }
        status
    }
}

/// What all services have reported, by name. HAProxy comes first, if the daemon runs one.
#[derive(Debug, Clone)]
pub(crate) struct StatusBoard(Arc<Mutex<Vec<(String, Published)>>>);

impl StatusBoard {
    /// A board on which no service has reported yet.
    pub(crate) fn new(names: &[String]) -> StatusBoard {
        let empty = names.iter().map(|name| (name.clone(), Published::default()));
        StatusBoard(Arc::new(Mutex::new(empty.collect())))
    }

    /// Calls `read` with what all services have reported.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&[(String, Published)]) -> T) -> T {
        read(&self.all())
    }

    /// The heartbeat of one service's loop.
    pub(crate) fn heartbeat_of(&self, name: &str) -> Heartbeat {
        Heartbeat { board: self.clone(), name: name.to_owned() }
    }

    /// Replaces what one service has reported, and returns the line about all.
    pub(super) fn put(&self, name: &str, published: Published) -> String {
        let mut all = self.all();
        if let Some((_, place)) = all.iter_mut().find(|(known, _)| known == name) {
            *place = Published { has_beaten: place.has_beaten, ..published };
        }
        line_about(&all, |published| published.line.clone())
    }

    /// The last status line for the service manager when the daemon ends.
    pub(crate) fn parting_line(&self) -> String {
        self.read(|all| line_about(all, |published| parting(published.status.serving.as_ref(), published.unserved)))
    }

    /// Notes that the loop of one service has completed a turn. True once the loops of all services have.
    fn is_complete_with(&self, name: &str) -> bool {
        let mut all = self.all();
        all.iter_mut().filter(|(known, _)| known == name).for_each(|(_, published)| published.has_beaten = true);
        let complete = all.iter().all(|(_, published)| published.has_beaten);
        if complete {
            all.iter_mut().for_each(|(_, published)| published.has_beaten = false);
        }
        complete
    }

    fn all(&self) -> MutexGuard<'_, Vec<(String, Published)>> {
        self.0.lock().expect("no panic under this lock")
    }
}

/// Notes that the loop of one service is alive. The service manager's watchdog is told only once the loops of all
/// services are alive, so that the others do not hide a stuck loop.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeat {
    board: StatusBoard,
    name: String,
}

impl Heartbeat {
    /// Notes that the loop has completed a turn.
    pub(crate) fn beat(&self) {
        if self.board.is_complete_with(&self.name) {
            notify::watchdog();
        }
    }

    /// Beats during a wait that has a limit, but that may take longer than the watchdog allows. For example, the operator
    /// sets `drain-timeout`.
    pub(crate) async fn during<T>(&self, wait: impl Future<Output = T>) -> T {
        let beats = async {
            let mut interval = tokio::time::interval(HEARTBEAT_INTERVAL);
            loop {
                interval.tick().await;
                self.beat();
            }
        };
        tokio::select! {
            done = wait => done,
            never = beats => never,
        }
    }
}

fn line_about(all: &[(String, Published)], line: impl Fn(&Published) -> String) -> String {
    match all {
        [(_, alone)] => line(alone),
        several => {
            let named = several.iter().map(|(name, published)| format!("{name}: {}", line(published)));
            named.collect::<Vec<_>>().join("; ")
        }
    }
}

fn parting(serving: Option<&Serving>, unserved: Unserved) -> String {
    match serving {
        Some(serving) => {
            format!(
                "the daemon has ended; generation {} (process {}) was left serving",
                serving.generation, serving.pid
            )
        }
        None => format!("the daemon has ended, and {}", unserved.words()),
    }
}

/// A draining generation as the control socket sees it.
#[derive(Debug, Clone)]
pub(crate) struct DrainingNow {
    pub(crate) number: u64,
    pub(crate) retired: Instant,
    pub(crate) look: Look,
}

impl DrainingNow {
    /// Whether its root process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.look.root().try_ended().is_some()
    }

    /// The entry for `status`, with the connections counted now.
    pub(crate) fn status(&self) -> Draining {
        Draining {
            generation: self.number,
            pid: self.look.root().pid(),
            age_s: self.retired.elapsed().as_secs(),
            connections: self.look.count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchdog_is_told_only_after_every_loop_has_reported() {
        let board = StatusBoard::new(&["haproxy".into(), "web".into()]);
        assert!(!board.is_complete_with("haproxy") && !board.is_complete_with("haproxy"));
        assert!(board.is_complete_with("web"));
        assert!(!board.is_complete_with("web"));
        // A report in between does not take the heartbeat back.
        board.put("web", Published::default());
        assert!(board.is_complete_with("haproxy"));
    }
}
