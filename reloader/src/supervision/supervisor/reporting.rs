//! Reports how the service stands: to the control socket, and to the service manager.

use super::Supervisor;
use crate::gate::hold::HoldRegistry;
use crate::receipt::{Kind, Outcome, Receipt, rfc3339};
use crate::server::CompanionServer;
use crate::supervision::board::{DrainingNow, Published};
use crate::supervision::drain_looks::Look;
use crate::supervision::sentences::Unserved;
use crate::supervision::status::{ServiceStatus, Serving, Starting};
use crate::supervision::{Generation, notify, sentences};

/// From this many draining generations on `status` has a warning.
const MANY_DRAINING: usize = 8;

impl Supervisor {
    /// Notes that the check before a reload refused the configuration, so that no reload was begun.
    pub(crate) fn note_refused_check(&mut self, reason: String) {
        self.refused = Some(reason);
    }

    /// Forgets an earlier refusal, because a reload is carried out now.
    pub(crate) fn forget_refused_check(&mut self) {
        self.refused = None;
    }

    /// Sets what a wanted reload waits for when the length of the wait is unknown. `None` if it waits for nothing. True
    /// if the reload began or ceased to wait.
    pub(crate) fn set_waits(&mut self, phase: Option<&'static str>) -> bool {
        std::mem::replace(&mut self.waits, phase).is_some() != phase.is_some()
    }

    /// Reports the present state.
    pub(crate) fn publish(&self) {
        let published = Published {
            status: self.status(),
            custody: self.custody_as_owned(),
            draining: self.generations.draining().iter().map(draining_now).collect(),
            surroundings: self.surroundings(),
            check: self.check(),
            socket: self
                .serving()
                .filter(|_| self.server().answers_runtime_api())
                .map(|serving| serving.socket.clone()),
            holds: Some(HoldRegistry::new(&self.config().runtime_dir)),
            line: self.status_line(),
            unserved: self.unserved(),
            has_beaten: false,
        };
        notify::status(&self.board.put(self.name(), published));
    }

    fn status(&self) -> ServiceStatus {
        let plan = self.server().capabilities().map(|capabilities| self.plan(&capabilities));
        let missing_capabilities = self.host.missing_capabilities().iter().cloned();
        ServiceStatus {
            service: Some(self.name().to_owned()),
            serving: self.serving().map(serving_status),
            starting: self.generations.starting().map(starting_status),
            draining: Vec::new(),
            // The reader adds the listeners (`Published::whole_status`).
            custody: Vec::new(),
            last_reload: self.receipts.last().cloned(),
            warnings: self.warnings(),
            notes: self
                .server()
                .companion()
                .map(CompanionServer::note)
                .into_iter()
                .chain(missing_capabilities)
                .chain(self.last_known_good.not_pinned())
                .collect(),
            plan: plan.unwrap_or_default(),
            connection_rate: None,
        }
    }

    fn status_line(&self) -> String {
        let mut line = match self.serving() {
            Some(serving) => format!(
                "generation {} serves {} listeners, {} draining",
                serving.number,
                serving.listeners.len(),
                self.generations.draining().len()
            ),
            None => self.unserved().words().to_owned(),
        };
        line.extend(self.receipts.last().map(outcome_of));
        line.extend(self.refused.iter().map(|reason| format!("; not reloaded since: {reason}")));
        // The service manager reads lines.
        line.lines().next().unwrap_or_default().to_owned()
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.notices.sentences().map(str::to_owned).collect();
        let refused = self.refused.iter();
        warnings.extend(refused.map(|reason| format!("the last reload that was wanted was not begun: {reason}")));
        warnings.extend(self.waits.map(|phase| format!("a reload is wanted, and not begun: {phase}")));
        warnings.extend(self.drain_warnings());
        match self.serving() {
            None => warnings.extend(self.unserved_warnings()),
            Some(_) => warnings.extend(self.slow_start_warning()),
        }
        warnings
    }

    fn unserved(&self) -> Unserved {
        Unserved::new(self.server().owns_lifecycle(), self.outage.adoption_blocked().is_some())
    }

    fn unserved_warnings(&self) -> Vec<String> {
        let waiting = self.server().companion().map(|companion| {
            let absent = companion.why_not_followed();
            format!("waiting for HAProxy: {absent}; reloader does not start it in companion mode")
        });
        let (has_custody, starts) = (!self.custody().is_empty(), self.generations.starting().is_some());
        let refused = self.unserved().refused_ports(has_custody, starts);
        waiting.into_iter().chain(refused.map(str::to_owned)).collect()
    }

    /// Why the next start, by a reload, would fail if it took as long as the last one. It follows from the present configuration, and goes when
    /// `start-timeout` is raised.
    pub(crate) fn slow_start_warning(&self) -> Option<String> {
        sentences::slow_start(self.generations.last_start()?, self.config().reload.start_timeout)
    }

    fn drain_warnings(&self) -> Vec<String> {
        let draining = self.generations.draining();
        let many = (draining.len() >= MANY_DRAINING)
            .then(|| sentences::many_draining(draining.len(), self.server().owns_lifecycle()));
        let listening = draining.iter().filter(|generation| generation.retired_listens).map(|generation| {
            format!(
                "generation {} (process {}) was retired and still listens: it may take a share of new connections",
                generation.number,
                generation.process.pid()
            )
        });
        many.into_iter().chain(listening).collect()
    }
}

fn outcome_of(last: &Receipt) -> String {
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
    let reason = last.reason.as_ref().map(|reason| format!(": {reason}"));
    format!("; last {kind} {outcome}{}", reason.unwrap_or_default())
}

fn draining_now(generation: &Generation) -> DrainingNow {
    DrainingNow {
        number: generation.number,
        retired: generation.retired.unwrap_or(generation.serving_since),
        look: Look::at(generation),
    }
}

fn serving_status(generation: &Generation) -> Serving {
    Serving {
        generation: generation.number,
        pid: generation.process.pid(),
        config: generation.config.clone(),
        since: rfc3339(generation.since),
        listeners: Vec::new(),
    }
}

fn starting_status(generation: &Generation) -> Starting {
    Starting {
        generation: generation.number,
        pid: generation.process.pid(),
        since: rfc3339(generation.since),
        last_line: generation.start_lines.last().cloned(),
    }
}
