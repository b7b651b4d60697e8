//! Answers what the daemon asks about a kind of server before it decides. One place shows how the kinds differ.

use std::path::PathBuf;

use super::Server;
use crate::config::{Haproxy, Overlap, Strategy};
use crate::model::listener::Endpoint;
use crate::process::ProcessScope;

impl Server {
    /// The daemon starts it, starts it again after a crash, and ends it. A companion is started and ended by its unit and its master.
    pub(crate) fn owns_lifecycle(&self) -> bool {
        match self {
            Server::Haproxy(_) | Server::Service(_) => true,
            Server::Companion(_) => false,
        }
    }

    /// An old generation that still listens may be asked to end once more. To other servers than HAProxy a second signal may mean "at once".
    pub(crate) fn may_be_asked_twice(&self) -> bool {
        self.is_haproxy()
    }

    /// It binds and closes sockets while it serves, so its listeners are looked at again before each reload. HAProxy binds all at its start.
    pub(crate) fn binds_while_it_serves(&self) -> bool {
        !self.is_haproxy()
    }

    /// What it has accepted is answered before it ends. Another server may be killed by its `stop` with answers still owed.
    pub(crate) fn finishes_what_it_accepted(&self) -> bool {
        self.is_haproxy()
    }

    /// None of its threads waits in accept(2): its listeners are gone with its descriptors, and all have O_NONBLOCK.
    pub(crate) fn never_blocks_in_accept(&self) -> bool {
        self.is_haproxy()
    }

    /// A generation may take the path of a unix socket away when it ends, although the next generation serves on the same socket. nginx does
    /// (`ngx_close_listening_sockets`), if its parent has changed since it was started.
    pub(crate) fn may_take_paths_away(&self) -> bool {
        !self.is_haproxy()
    }

    /// A new generation is started even beside an old one that does not close its listeners.
    pub(crate) fn starts_beside_a_stuck_one(&self) -> bool {
        self.is_haproxy()
    }

    /// A copy of the last configuration that started is kept, and used when the one on disk does not start.
    pub(crate) fn keeps_last_known_good(&self) -> bool {
        self.is_haproxy_of_the_daemon()
    }

    /// With `strategy = "fd-pass"` the old generation is replaced where the new one cannot be given its sockets. HAProxy is not: that
    /// strategy promises that the old one serves on.
    pub(crate) fn is_replaced_under(&self, strategy: Strategy) -> bool {
        strategy != Strategy::FdPass || !self.is_haproxy()
    }

    /// Its generations answer HAProxy's runtime API on their socket.
    pub(crate) fn answers_runtime_api(&self) -> bool {
        self.is_haproxy()
    }

    /// It attaches no program of its own to a reuseport group. A program that is found there was left by a dead daemon.
    pub(crate) fn attaches_no_program(&self) -> bool {
        self.is_haproxy()
    }

    /// A process that exits with status 0 may have gone into the background.
    pub(crate) fn may_fork_away(&self) -> bool {
        !self.is_haproxy()
    }

    /// It is let bind beside its old generation where it cannot do so by itself, under this strategy. The value is whether it may be replaced where
    /// that is impossible.
    pub(crate) fn wants_shared_ports(&self, strategy: Strategy) -> Option<bool> {
        match self {
            Server::Haproxy(server) => {
                let by_strategy = matches!(strategy, Strategy::Auto | Strategy::Steer);
                (by_strategy && server.config().overlap == Overlap::Auto).then_some(true)
            }
            Server::Service(service) => service.wants_shared_ports(),
            Server::Companion(_) => None,
        }
    }

    /// The files that two of its generations may write at once. `None` where it is known to write none: HAProxy.
    pub(crate) fn shared_files(&self) -> Option<&[PathBuf]> {
        match self {
            Server::Service(service) => Some(service.shared_files()),
            Server::Haproxy(_) | Server::Companion(_) => None,
        }
    }

    /// The user as which its processes open their sockets, unless they change it by themselves before.
    ///
    /// # Errors
    /// A sentence about a name that is unknown.
    pub(crate) fn binds_as(&self) -> Result<u32, String> {
        match self {
            Server::Service(service) => service.binds_as(),
            // HAProxy binds before it changes its user.
            Server::Haproxy(_) | Server::Companion(_) => Ok(rustix::process::geteuid().as_raw()),
        }
    }

    /// What is often wrong where such a server does not become ready, as a sentence.
    pub(crate) fn start_advice(&self) -> Option<String> {
        match self {
            Server::Service(service) => service.start_advice(),
            Server::Haproxy(_) | Server::Companion(_) => None,
        }
    }

    /// The daemon ends a master of this server whose workers have all ended, although programs of its configuration still run.
    pub(crate) fn ends_idle_masters(&self) -> bool {
        self.is_haproxy_of_the_daemon()
    }

    /// The service manager keeps its sockets while no daemon runs. The successors of a companion's worker bind beside it: a socket that only the
    /// store has would take their connections.
    pub(crate) fn stores_sockets(&self) -> bool {
        self.owns_lifecycle()
    }

    /// Each process writes its pid down before it becomes the server, by `reloader launch`.
    pub(crate) fn notes_its_pid(&self) -> bool {
        !self.is_haproxy()
    }

    /// Which processes of a generation's tree may serve.
    pub(crate) fn process_scope(&self) -> ProcessScope {
        if self.is_haproxy() { ProcessScope::SameProgram } else { ProcessScope::All }
    }

    /// Custody of a listener is of use only where the next generation can be given it. Otherwise custody would keep the port from being bound.
    /// The workers of a companion bind for themselves, beside sockets that share their address (`shares`). Custody keeps for them what can be
    /// moved over.
    pub(crate) fn has_use_for(&self, endpoint: &Endpoint, shares: impl FnOnce() -> bool) -> bool {
        match self {
            Server::Companion(_) => endpoint.is_tcp_here() && shares(),
            Server::Haproxy(_) | Server::Service(_) => self.can_be_given(endpoint),
        }
    }

    /// Why a listener of the serving generation is not in custody, in words for the plan.
    pub(crate) fn why_not_in_custody(&self, endpoint: &Endpoint) -> &'static str {
        match self {
            Server::Service(_) if !self.can_be_given(endpoint) => {
                "the server has bound it itself, and it is not in `listen` of the service"
            }
            Server::Service(_) => "the daemon could not duplicate it (Linux 5.6 and CAP_SYS_PTRACE)",
            Server::Haproxy(_) | Server::Companion(_) => {
                "the serving generation does not export it, and the daemon could not duplicate it (Linux 5.6 and CAP_SYS_PTRACE)"
            }
        }
    }

    /// The configuration of a HAProxy that may run already without the daemon, and that the daemon would take over.
    pub(crate) fn adoptable_haproxy(&self) -> Option<&Haproxy> {
        self.haproxy().map(super::HaproxyServer::config)
    }

    fn is_haproxy_of_the_daemon(&self) -> bool {
        match self {
            Server::Haproxy(_) => true,
            Server::Companion(_) | Server::Service(_) => false,
        }
    }

    fn is_haproxy(&self) -> bool {
        match self {
            Server::Haproxy(_) | Server::Companion(_) => true,
            Server::Service(_) => false,
        }
    }
}
