//! What is told about the daemon's state: to the control socket, and to the service manager.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::generation::open_connections;
use super::status::{Draining, ListenerStatus, ServiceStatus, Serving};
use super::{Companion, Generation, Supervisor, notify};
use crate::gate::hold::HoldRegistry;
use crate::model::listener::{Listener, Owned, Role};
use crate::process::{Handle, ProcessScope};
use crate::receipt::rfc3339;
use crate::receipt::{Kind, Outcome};
use crate::server::Check;

/// A warning stands in `status` from this many draining generations on.
const MANY_DRAINING: usize = 8;

/// As often as a loop that has nothing to do comes round.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// What the control socket may read without the main loop.
#[derive(Debug, Default)]
pub(crate) struct Published {
    pub(crate) status: ServiceStatus,
    /// The draining generations, to count their connections when asked.
    pub(crate) draining: Vec<DrainingNow>,
    /// How the configuration is checked, for a dry run.
    pub(crate) check: Option<Check>,
    /// The serving HAProxy's stats socket.
    pub(crate) socket: Option<PathBuf>,
    /// Where holds are on record.
    pub(crate) holds: Option<HoldRegistry>,
    /// For the service manager.
    line: String,
    /// Its loop has come round since the service manager was told that all have.
    has_beaten: bool,
}

/// What all services have published, by name. HAProxy is the first, where there is one.
#[derive(Debug, Clone)]
pub(crate) struct StatusBoard(Arc<Mutex<Vec<(String, Published)>>>);

impl StatusBoard {
    /// With nothing said yet.
    pub(crate) fn new(names: &[String]) -> StatusBoard {
        let empty = names.iter().map(|name| (name.clone(), Published::default()));
        StatusBoard(Arc::new(Mutex::new(empty.collect())))
    }

    /// Reads all of it.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&[(String, Published)]) -> T) -> T {
        read(&self.0.lock().expect("no panic under this lock"))
    }

    /// The loop of this service is alive. The watchdog is told once those of all services have said so: one that is stuck must not be
    /// hidden by the others.
    pub(crate) fn heartbeat(&self, name: &str) {
        if self.is_complete_with(name) {
            notify::watchdog();
        }
    }

    /// For a wait that has an end, and may be longer than the watchdog's patience: `drain-timeout` is the operator's.
    pub(crate) async fn with_heartbeat<T>(&self, name: &str, wait: impl Future<Output = T>) -> T {
        let beats = async {
            let mut beat = tokio::time::interval(HEARTBEAT_INTERVAL);
            loop {
                beat.tick().await;
                self.heartbeat(name);
            }
        };
        tokio::select! {
            done = wait => done,
            never = beats => never,
        }
    }

    fn is_complete_with(&self, name: &str) -> bool {
        let mut all = self.0.lock().expect("no panic under this lock");
        all.iter_mut().filter(|(known, _)| known == name).for_each(|(_, published)| published.has_beaten = true);
        let complete = all.iter().all(|(_, published)| published.has_beaten);
        if complete {
            all.iter_mut().for_each(|(_, published)| published.has_beaten = false);
        }
        complete
    }

    /// Replaces what one service has said, and returns the line about all.
    fn put(&self, name: &str, published: Published) -> String {
        let mut all = self.0.lock().expect("no panic under this lock");
        if let Some((_, place)) = all.iter_mut().find(|(known, _)| known == name) {
            *place = Published { has_beaten: place.has_beaten, ..published };
        }
        line_about(&all, |published| published.line.clone())
    }

    /// What the service manager is left with when the daemon ends.
    pub(crate) fn parting_line(&self) -> String {
        self.read(|all| line_about(all, |published| parting(published.status.serving.as_ref())))
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

fn parting(serving: Option<&Serving>) -> String {
    match serving {
        Some(serving) => {
            format!(
                "the daemon has ended; generation {} (process {}) was left serving",
                serving.generation, serving.pid
            )
        }
        None => "the daemon has ended, and nothing serves".into(),
    }
}

/// A draining generation as the control socket sees it.
#[derive(Debug, Clone)]
pub(crate) struct DrainingNow {
    pub(crate) number: u64,
    pub(crate) process: Handle,
    pub(crate) scope: ProcessScope,
    pub(crate) retired: Instant,
    pub(crate) listeners: Arc<Vec<Owned>>,
}

impl Supervisor {
    /// Tells the control socket and the service manager how things stand.
    pub(crate) fn publish(&mut self) {
        self.store_custody();
        let plan = self.server.capabilities().map(|abilities| self.plan(&abilities)).unwrap_or_default();
        let status = ServiceStatus {
            service: Some(self.name.clone()),
            serving: self.serving.as_ref().map(serving_status),
            draining: Vec::new(),
            custody: self.custody_as_owned().iter().map(|held| listener_status(&held.listener, held.role)).collect(),
            last_reload: self.last_receipt.clone(),
            warnings: self.warnings(),
            notes: self
                .companion
                .iter()
                .map(Companion::note)
                .chain(self.missing_capabilities.iter().cloned())
                .collect(),
            plan,
            connection_rate: None,
        };
        let draining = self.draining.iter().map(|generation| DrainingNow {
            number: generation.number,
            process: generation.process.clone(),
            scope: generation.scope,
            retired: generation.retired.unwrap_or(generation.serving_since),
            listeners: Arc::new(generation.listeners.clone()),
        });
        let published = Published {
            status,
            draining: draining.collect(),
            check: self.check(),
            socket: self
                .serving
                .as_ref()
                .filter(|_| self.server.haproxy().is_some())
                .map(|serving| serving.socket.clone()),
            holds: Some(HoldRegistry::new(&self.config.runtime_dir)),
            line: self.status_line(),
            has_beaten: false,
        };
        notify::status(&self.board.put(&self.name, published));
    }

    fn status_line(&self) -> String {
        let mut line = match &self.serving {
            Some(serving) => format!(
                "generation {} serves {} listeners, {} draining",
                serving.number,
                serving.listeners.len(),
                self.draining.len()
            ),
            None => "nothing serves".into(),
        };
        if let Some(last) = self.last_receipt.as_ref() {
            let outcome = match last.result {
                Outcome::Proven => "proven",
                Outcome::Unproven => "done, but unproven",
                Outcome::Failed => "failed",
            };
            let kind = match last.kind {
                Kind::Start | Kind::Hold => "start",
                Kind::Reload => "reload",
                Kind::Restart => "restart",
                Kind::Adopt => "adoption",
                Kind::End => "end",
            };
            line += &format!("; last {kind} {outcome}");
            line.extend(last.reason.iter().map(|reason| format!(": {reason}")));
        }
        line.extend(self.refused.iter().map(|reason| format!("; not reloaded since: {reason}")));
        // The service manager reads lines.
        line.lines().next().unwrap_or_default().to_owned()
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.warning.iter().chain(&self.left_behind).cloned().collect();
        warnings.extend(
            self.refused.iter().map(|reason| format!("the last reload that was wanted was not begun: {reason}")),
        );
        warnings.extend(self.waits.map(|phase| format!("a reload is wanted, and not begun: {phase}")));
        if self.draining.len() >= MANY_DRAINING {
            warnings.push(format!(
                "{} generations are draining: long connections keep them; see hard-stop-after and max-draining",
                self.draining.len()
            ));
        }
        warnings.extend(self.draining.iter().filter(|generation| generation.retired_listens).map(|generation| {
            format!(
                "generation {} (process {}) was retired and still listens: it takes its share of new connections",
                generation.number,
                generation.process.pid()
            )
        }));
        if let Some(companion) = self.companion.as_ref().filter(|_| self.serving.is_none()) {
            let absent = companion.absent.as_deref().unwrap_or("no worker was looked for yet");
            warnings.push(format!("waiting for HAProxy: {absent}; reloader does not start it in companion mode"));
        }
        if self.serving.is_none() && self.custody.is_empty() {
            warnings.push("nothing serves, and nothing is in custody: the ports are refused".into());
        }
        warnings
    }
}

fn serving_status(generation: &Generation) -> Serving {
    Serving {
        generation: generation.number,
        pid: generation.process.pid(),
        config: generation.config.clone(),
        since: rfc3339(generation.since),
        listeners: generation.listeners.iter().map(|owned| listener_status(&owned.listener, owned.role)).collect(),
    }
}

fn listener_status(listener: &Listener, role: Role) -> ListenerStatus {
    ListenerStatus {
        address: listener.endpoint.to_string(),
        family: listener.endpoint.address.family(),
        role,
        inode: listener.inode,
    }
}

impl DrainingNow {
    /// The entry for `status`, with the connections counted now.
    pub(crate) fn status(&self) -> Draining {
        let endpoints: Vec<_> = self.listeners.iter().map(|owned| owned.listener.endpoint.clone()).collect();
        Draining {
            generation: self.number,
            pid: self.process.pid(),
            age_s: self.retired.elapsed().as_secs(),
            connections: open_connections(&self.scope.processes(self.process.pid()), &endpoints),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_is_stuck_is_not_hidden_by_the_others() {
        let board = StatusBoard::new(&["haproxy".into(), "web".into()]);
        assert!(!board.is_complete_with("haproxy") && !board.is_complete_with("haproxy"));
        assert!(board.is_complete_with("web"));
        assert!(!board.is_complete_with("web"));
        // What is published meanwhile takes nothing back.
        board.put("web", Published::default());
        assert!(board.is_complete_with("haproxy"));
    }
}
