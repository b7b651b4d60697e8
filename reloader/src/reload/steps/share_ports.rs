//! Lets a server that binds without SO_REUSEPORT bind beside its old generation, while it starts.

use std::collections::HashSet;

use crate::gate::port_sharing::{PortSharing, Shared};
use crate::model::listener::Listener;
use crate::plan::Beside;
use crate::process::run_blocking;
use crate::receipt::{Failure, ReasonCode};
use crate::reload::attempt::Attempt;
use crate::reload::shared_start::{SharedStart, Started, Users};
use crate::server::Prepared;

impl Attempt<'_> {
    /// Prepares a start beside the old generation, for a server that cannot bind there by itself. False where the start goes on without: the
    /// configuration does not ask for it, nothing serves, or the old generation makes room instead.
    ///
    /// # Errors
    /// The old generation may not be replaced; or something speaks against two generations at once.
    pub(in crate::reload) async fn share_ports(
        &mut self,
        prepared: &Prepared,
        needs_room: bool,
    ) -> Result<bool, Failure> {
        let is_served = self.supervisor.is_served();
        let alone = prepared.binds_alone || self.supervisor.serving().is_some_and(|serving| serving.noreuseport);
        match self.supervisor.beside(alone) {
            Beside::Refused(why) if needs_room => return Err(cannot_overlap(why)),
            // The sockets of a first generation that are bound so have groups, which a reload can reserve.
            Beside::Shared if needs_room || !is_served => {}
            _ => return Ok(false),
        }
        let ports = self.ports_to_share(prepared);
        if ports.is_empty() {
            return Ok(false);
        }
        if !self.may_share(is_served).await? {
            return Ok(false);
        }
        let strategy = self.supervisor.config().reload.strategy;
        let may_be_replaced = self.supervisor.server().wants_shared_ports(strategy) == Some(true);
        match self.begin_sharing(ports).await {
            Ok(start) => {
                self.shared_start = Some(start);
                Ok(true)
            }
            Err(why) if is_served && !may_be_replaced => Err(cannot_overlap(&why)),
            Err(why) => {
                self.recorder.note(format!("its ports are not shared with the next generation: {why}"));
                Ok(false)
            }
        }
    }

    async fn begin_sharing(&self, ports: HashSet<u16>) -> Result<SharedStart, String> {
        let old_user = self.supervisor.serving().and_then(|serving| serving.binds_as);
        let users = Users { old: old_user, new: self.supervisor.server().binds_as()? };
        let old = self.supervisor.present_listeners().into_iter().map(|owned| owned.listener);
        let old: Vec<Listener> = old.filter(|old| old.endpoint.is_tcp_here() && is_at(old, &ports)).collect();
        let custody = self.supervisor.custody().clone();
        let begin = run_blocking(move || SharedStart::begin(&ports, &old, &custody, users));
        self.supervisor.heartbeat().during(begin).await
    }

    /// The ports that the next generation is to bind beside the old one, or that a later one will.
    fn ports_to_share(&self, prepared: &Prepared) -> HashSet<u16> {
        let configured = self.supervisor.endpoints();
        let present = self.supervisor.present_listeners().into_iter().map(|owned| owned.listener.endpoint);
        let mut ports: HashSet<u16> =
            configured.into_iter().chain(present).filter_map(|endpoint| endpoint.port()).collect();
        // Those of the configuration come last: without them a later reload has less protection, and nothing else.
        let left = PortSharing::MAX_PORTS.saturating_sub(ports.len());
        let further: Vec<u16> = prepared.binds().filter(|port| !ports.contains(port)).take(left).collect();
        ports.extend(further);
        ports
    }

    /// Ends it, whether or not the generation has become ready. Returns a sentence where the kernel did not do what was asked.
    pub(in crate::reload) async fn end_sharing(&mut self, start: Option<SharedStart>) -> Option<String> {
        let start = start?;
        let (shared, started) = run_blocking(move || start.end()).await;
        self.started = Some(started);
        match shared {
            Ok(Shared { refused: 0, sockets }) => {
                if sockets > 0 && self.supervisor.is_served() {
                    self.recorder.note(format!(
                        "sockets that were bound beside those of the old generation, with SO_REUSEPORT set for them (overlap): {sockets}"
                    ));
                }
                None
            }
            Ok(Shared { refused, .. }) => {
                Some(format!("the kernel refused to set SO_REUSEPORT on {refused} of its sockets"))
            }
            Err(error) => Some(error.to_string()),
        }
    }

    /// The processes of the generation leave their control group. If it does not serve, the old listeners get their users back.
    pub(in crate::reload) async fn leave_control_group(&mut self, serves: bool) {
        let Some(Started { group, users }) = self.started.take() else { return };
        let leave = run_blocking(move || {
            if serves {
                users.forget();
            }
            drop(group);
        });
        self.supervisor.heartbeat().during(leave).await;
    }
}

/// A reload that can neither share its ports nor may replace the old generation.
fn cannot_overlap(why: &str) -> Failure {
    let reason = format!(
        "two generations cannot share a port here: {why}; set fallback = \"replace\" for the service to replace it while SYNs are held"
    );
    Failure::new(ReasonCode::OverlapImpossible, reason)
}

fn is_at(listener: &Listener, ports: &HashSet<u16>) -> bool {
    listener.endpoint.port().is_some_and(|port| ports.contains(&port))
}
