//! Plans the next reload, and prepares what it needs between reloads.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use super::Supervisor;
use crate::config::{Config, Strategy};
use crate::gate::hold::{Backend, HoldRegistry};
use crate::gate::steer::{Steer, SteerError};
use crate::gate::syn_counter::{CounterError, SynCounter};
use crate::haproxy::version::VersionError;
use crate::plan::companion::{self, CompanionPlanInputs};
use crate::plan::{self, Beside, PlanInputs, Planned, Present};
use crate::process::{Handle, run_blocking};
use crate::receipt::{Failure, Rung};
use crate::server::{self, Capabilities, Check, CompanionServer};
use crate::sockets::custody::{Custody, KeptSocket};
use crate::sockets::inspection::{InspectError, Inspection};
use crate::supervision::Notice;
use crate::supervision::steering::PendingHandshakes;

impl Supervisor {
    /// What the next reload would do.
    pub(crate) fn plan(&self, capabilities: &Capabilities) -> Vec<Planned> {
        let owned = self.present_listeners();
        let in_custody: HashSet<u64> = self.custody().kept().iter().map(|kept| kept.listener.inode).collect();
        let present: Vec<Present> = owned
            .iter()
            .map(|owned| Present {
                endpoint: owned.listener.endpoint.clone(),
                role: owned.role,
                inode: owned.listener.inode,
                not_in_custody: (!in_custody.contains(&owned.listener.inode))
                    .then(|| self.server().why_not_in_custody(&owned.listener.endpoint)),
                bound_again: self.why_bound_again(owned.listener.inode).map(ToString::to_string),
                unreachable: self.why_unreachable(owned.listener.inode).map(ToString::to_string),
            })
            .collect();
        let strategy = self.config().reload.strategy;
        if let Some(companion) = self.server().companion() {
            return self.companion_plan(companion, &present, strategy);
        }
        let beside = self.beside(self.serving().is_some_and(|serving| serving.noreuseport));
        plan::plan(&present, PlanInputs { server: capabilities, strategy, beside, gates: self.host.gates() })
    }

    /// Whether the next generation can bind beside the serving one. One of them binds `alone`, without SO_REUSEPORT.
    pub(crate) fn beside(&self, alone: bool) -> Beside<'_> {
        if !alone {
            return Beside::Freely;
        }
        let strategy = self.config().reload.strategy;
        let impossible = match strategy {
            Strategy::KernelFallback => Some("strategy = \"kernel-fallback\" forbids eBPF"),
            _ => self.host.gates().overlap.as_deref(),
        };
        match (self.server().wants_shared_ports(strategy), impossible) {
            (None, _) => Beside::Alone(None),
            (Some(_), None) => Beside::Shared,
            (Some(true), Some(why)) => Beside::Alone(Some(why)),
            (Some(false), Some(why)) => Beside::Refused(why),
        }
    }

    fn companion_plan(&self, companion: &CompanionServer, present: &[Present], strategy: Strategy) -> Vec<Planned> {
        // With no worker there is nothing to plan for.
        let Some(haproxy) = companion.running_version() else { return Vec::new() };
        let holds = self.host.gates().best(strategy).ok().map(|backend| match backend {
            Backend::Ebpf => Rung::HeldEbpf,
            Backend::Qdisc => Rung::HeldQdisc,
        });
        let inputs = CompanionPlanInputs {
            haproxy,
            exposes: companion.exposes(),
            strategy,
            migrates: self.steering.migrates(),
            holds,
        };
        companion::plan(present, inputs)
    }

    /// The sockets on a single IPv6 address that the next generation is given, and takes over only where its bind says `v6only`.
    pub(crate) fn taken_over_by_v6only(&self) -> HashSet<u64> {
        let server = self.server();
        let wants = server.capabilities().is_some_and(|capabilities| capabilities.wants_v6only);
        // A companion's master passes its sockets under each strategy.
        let keeps_back = server.owns_lifecycle() && plan::keeps_tcp_back(self.config().reload.strategy);
        if !wants || keeps_back {
            return HashSet::new();
        }
        let owned = if server.owns_lifecycle() { self.custody_as_owned() } else { self.present_listeners() };
        let single = owned.iter().filter(|owned| owned.listener.endpoint.is_single_ipv6());
        single.map(|owned| owned.listener.inode).collect()
    }

    /// Removes from `custody` the sockets that the next generation of this server cannot use.
    pub(crate) fn limit_custody(&self, custody: &mut Custody) {
        let server = self.server();
        custody.retain(|kept| server.has_use_for(&kept.listener.endpoint, || kept.shares_its_address()));
        if server.owns_lifecycle() && plan::keeps_tcp_back(self.config().reload.strategy) {
            custody.retain(is_not_tcp);
        }
    }

    /// The sockets that the next generation may be given. A strategy that keeps TCP back leaves out the TCP listeners.
    pub(crate) fn offer(&self) -> Custody {
        let mut custody = self.custody().clone();
        self.leave_out_unreachable(&mut custody);
        // A TCP listener is kept back only while a generation serves: it is bound again beside the listener of that
        // generation.
        if plan::keeps_tcp_back(self.config().reload.strategy) && self.is_served() {
            custody.retain(is_not_tcp);
        }
        custody
    }

    /// Inspects a generation of this server by its root process and its stats socket.
    ///
    /// # Errors
    /// Those of [`Server::inspect`](crate::server::Server::inspect).
    pub(crate) async fn inspect(&self, process: &Handle, socket: &Path) -> Result<Inspection, InspectError> {
        self.server().inspect(process, socket, self.place(), self.custody().kept()).await
    }

    /// How the configuration is checked.
    pub(crate) fn check(&self) -> Option<Check> {
        self.server().check()
    }

    /// Takes a new configuration. [`prepare_holds`](Self::prepare_holds) installs what the configuration needs between
    /// reloads.
    pub(crate) async fn configure(&mut self, config: &Config) {
        self.service.configure(config);
        if let Err(error) = self.refresh_server().await {
            log::warn!("{}: {error}", self.name());
        }
        self.look_at_next_reload().await;
    }

    /// Looks again at what stood in the way of the next reload: the configuration may have made room for it.
    async fn look_at_next_reload(&mut self) {
        let Some(serving) = self.serving().filter(|_| self.notices.has(Notice::NextReload)) else { return };
        let (process, socket) = (serving.process.clone(), serving.socket.clone());
        let inspected = self.inspect(&process, &socket);
        if let Ok(inspection) = self.heartbeat().during(inspected).await {
            self.replace_warning(Notice::NextReload, self.server().next_reload_obstacle(&inspection));
        }
    }

    /// Reads again how HAProxy is started, where the command line of its unit says it.
    ///
    /// # Errors
    /// Why a reload fails.
    pub(crate) async fn refresh_command_line(&mut self) -> Result<(), Failure> {
        let resolved = self.heartbeat().during(self.server().resolve()).await?;
        resolved.into_iter().for_each(|resolved| self.service.set_resolved(resolved));
        Ok(())
    }

    /// Reads again the facts that the plan depends on and that only files or programs tell.
    ///
    /// # Errors
    /// If HAProxy does not tell its version. The version that was known before stays in use.
    pub(crate) async fn refresh_server(&mut self) -> Result<Capabilities, VersionError> {
        self.refresh_companion().await;
        self.heartbeat().during(self.server().refresh_capabilities()).await
    }

    /// Reads again the facts that the plan of a companion depends on.
    async fn refresh_companion(&mut self) {
        let Some(companion) = self.server().companion() else { return };
        let files = companion.config().config.clone();
        let exposes = self.heartbeat().during(run_blocking(move || server::exposes(&files))).await;
        self.set_exposes(exposes);
    }

    /// Sets whether a stats socket exports listeners, according to the companion's configuration on disk.
    pub(crate) fn set_exposes(&mut self, exposes: bool) {
        self.service.update_companion(|companion| companion.set_exposes(exposes));
    }

    /// Installs the qdiscs that holds need on the devices between reloads, if every reload is a hold.
    pub(crate) async fn prepare_holds(&mut self) {
        let strategy = self.config().reload.strategy;
        let passes = self.server().capabilities().is_some_and(|capabilities| capabilities.why_not_passed.is_none());
        let gates = self.host.gates();
        let binds_again = plan::keeps_tcp_back(strategy) || (strategy == Strategy::Auto && !passes);
        let held_beside = !self.server().owns_lifecycle() && strategy == Strategy::Auto && !self.steering.migrates();
        let always = plan::holds_tcp(strategy) || (binds_again && gates.steer.is_some()) || held_beside;
        let needed = gates.needs_persistent_qdiscs(strategy).filter(|_| always);
        let registry = HoldRegistry::new(&self.config().runtime_dir);
        let heartbeat = self.heartbeat();
        let name = self.service.name();
        if let Err(error) = heartbeat.during(self.host.need_qdiscs(name, needed, registry)).await {
            log::warn!(
                "{name}: each hold may cost clients a packet, because no qdisc could be installed for it: {error}"
            );
        }
    }

    /// Loads the steering program if it is not loaded. Returns whether the program moves connections that are queued on a
    /// closed listener.
    ///
    /// # Errors
    /// If it cannot be loaded: then nothing can be steered.
    pub(crate) async fn load_steering(&mut self) -> Result<bool, SteerError> {
        self.steering.load().await?;
        Ok(self.steering.migrates())
    }

    /// Notes the steering program of a daemon that was killed.
    pub(crate) fn note_steering_left_behind(&mut self) {
        self.steering.note_left_behind(self.service.place());
    }

    /// Detaches the steering program of a daemon that was killed.
    pub(crate) fn take_over_steering(&mut self) {
        self.steering.take_over(self.service.place());
    }

    /// Lends the steering program to a reload.
    ///
    /// # Errors
    /// If the program cannot be loaded, or cannot be detached from the groups of the last reload.
    pub(crate) async fn lend_steering(&mut self) -> Result<Steer, SteerError> {
        self.steering.lend().await
    }

    /// Takes the steering program back. It stays attached where handshakes are `pending`.
    pub(crate) fn give_back_steering(&mut self, program: Steer, pending: Option<PendingHandshakes>) {
        self.steering.give_back(program, pending);
    }

    /// Detaches the steering program, even if handshakes wait for it.
    pub(crate) fn detach_steering_now(&mut self) {
        self.steering.detach_now();
    }

    /// Detaches the steering program once no handshake waits for it.
    pub(crate) fn detach_steering_when_idle(&mut self) {
        self.steering.detach_when_idle();
    }

    /// Steers the groups of the last reload to the serving generation for `lease`. False where none is steered.
    pub(crate) fn renew_steering(&mut self, lease: Duration) -> bool {
        self.steering.renew(lease)
    }

    /// Ends what [`renew_steering`](Self::renew_steering) began.
    pub(crate) fn end_steering_renewal(&mut self) {
        self.steering.end_renewal();
    }

    /// Lends the SYN counter to a reload. Loads it first if it is not loaded.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub(crate) async fn lend_counter(&mut self) -> Result<SynCounter, CounterError> {
        self.host.take_counter().await
    }

    /// Takes the SYN counter back.
    pub(crate) fn give_back_counter(&mut self, counter: SynCounter) {
        self.host.give_back_counter(counter);
    }

    /// Loads the SYN counter if reloads are to count SYNs.
    pub(crate) async fn prepare_counter(&mut self) {
        if self.config().reload.count_syns
            && let Err(error) = self.host.load_counter().await
        {
            log::warn!("{error}");
        }
    }
}

fn is_not_tcp(kept: &KeptSocket) -> bool {
    !kept.listener.endpoint.is_tcp_here()
}
