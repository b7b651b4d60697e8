//! The plan: for each listener the rung it will get, and why not a stronger one. Pure.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::receipt::Rung;
use crate::config::Strategy;
use crate::gate::hold::{Backend, Gates};
use crate::haproxy::version::Version;
use crate::listener::{Address, Endpoint, Family, Role};

/// What the plan knows of a listener of the serving generation.
#[derive(Debug, Clone)]
pub struct Present {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// What it is for.
    pub role: Role,
    /// Its inode.
    pub inode: u64,
    /// The daemon has a duplicate to hand out.
    pub in_custody: bool,
}

/// One listener's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Where it listens.
    pub address: String,
    /// Its address family.
    pub family: Family,
    /// What it is for.
    pub role: Role,
    /// The rung it will get if the new configuration keeps it.
    pub rung: Rung,
    /// Why not a stronger one.
    pub why: Option<String>,
    /// Its inode.
    pub inode: u64,
}

/// Decides from custody, the next generation's HAProxy and the strategy.
pub fn plan(present: &[Present], haproxy: Version, strategy: Strategy, gates: &Gates) -> Vec<Planned> {
    present.iter().map(|listener| planned(listener, haproxy, strategy, gates)).collect()
}

fn planned(listener: &Present, haproxy: Version, strategy: Strategy, gates: &Gates) -> Planned {
    let (rung, why) = match why_not_passed(listener, haproxy, strategy) {
        None => (Rung::Passed, single_ipv6(&listener.endpoint, haproxy)),
        Some(why) if strategy == Strategy::FdPass || !listener.endpoint.is_tcp_here() => (Rung::Unproven, Some(why)),
        Some(why) => match gates.best(strategy) {
            Ok(Backend::Ebpf) => (Rung::HeldEbpf, Some(why)),
            Ok(Backend::Qdisc) => (Rung::HeldQdisc, Some(why)),
            Err(neither) => (Rung::Unproven, Some(format!("{why}; {neither}"))),
        },
    };
    let Present { endpoint, role, inode, .. } = listener;
    Planned { address: endpoint.to_string(), family: endpoint.address.family(), role: *role, rung, why, inode: *inode }
}

/// Whether the strategy wants TCP listeners held rather than passed.
pub(crate) fn holds_tcp(strategy: Strategy) -> bool {
    matches!(strategy, Strategy::Hold | Strategy::KernelFallback)
}

fn why_not_passed(listener: &Present, haproxy: Version, strategy: Strategy) -> Option<String> {
    if !haproxy.passes_sockets() {
        return Some(format!("HAProxy {haproxy} cannot be given sockets (1.8 is the first that can)"));
    }
    if holds_tcp(strategy) && listener.endpoint.is_tcp_here() {
        return Some(format!("strategy = \"{strategy}\" keeps TCP sockets back"));
    }
    let unexported = "the serving generation does not export it, so the daemon has no duplicate to pass";
    (!listener.in_custody).then(|| unexported.into())
}

/// HAProxy from 2.3 on takes over the socket of a single IPv6 address only when its bind says `v6only`; what the bind
/// says is known to HAProxy alone.
fn single_ipv6(endpoint: &Endpoint, haproxy: Version) -> Option<String> {
    let single = matches!(endpoint.address, Address::Inet(SocketAddr::V6(address)) if !address.ip().is_unspecified());
    (single && haproxy.at_least(2, 3)).then(|| "provided that its bind says `v6only`; otherwise it is held".into())
}

/// The first traffic listener that this plan leaves unproven, as a sentence.
pub fn unproven(plan: &[Planned]) -> Option<String> {
    let listener = plan.iter().find(|planned| planned.role == Role::Traffic && planned.rung == Rung::Unproven)?;
    Some(format!("{}: {}", listener.address, listener.why.as_deref().unwrap_or("no rung applies")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(in_custody: bool) -> Present {
        let endpoint = Endpoint::stream(Address::Inet("127.0.0.1:80".parse().unwrap()));
        Present { endpoint, role: Role::Traffic, inode: 7, in_custody }
    }

    #[test]
    fn what_is_in_custody_is_passed() {
        let plan = plan(&[present(true)], Version { major: 2, minor: 6 }, Strategy::Auto, &Gates::default());
        assert_eq!((plan[0].rung, &plan[0].why), (Rung::Passed, &None));
        assert_eq!(unproven(&plan), None);
    }

    #[test]
    fn what_cannot_be_passed_says_why() {
        let old = plan(&[present(true)], Version { major: 1, minor: 7 }, Strategy::FdPass, &Gates::default());
        assert!(unproven(&old).unwrap().contains("HAProxy 1.7 cannot be given sockets"));
        let unexported = plan(&[present(false)], Version { major: 2, minor: 6 }, Strategy::FdPass, &Gates::default());
        assert!(unproven(&unexported).unwrap().starts_with("127.0.0.1:80: the serving generation does not export it"));
    }

    #[test]
    fn what_cannot_be_passed_is_held_where_there_is_a_gate() {
        let haproxy = Version { major: 2, minor: 6 };
        let rung = |in_custody, strategy, gates: &Gates| plan(&[present(in_custody)], haproxy, strategy, gates)[0].rung;
        let no_bpf = Gates { ebpf: Some("bpf: denied".into()), ..Gates::default() };
        let none = Gates { qdisc: Some("sch-plug: missing".into()), ..no_bpf.clone() };
        assert_eq!(rung(false, Strategy::Auto, &Gates::default()), Rung::HeldEbpf);
        assert_eq!(rung(true, Strategy::Hold, &Gates::default()), Rung::HeldEbpf);
        assert_eq!(rung(true, Strategy::Hold, &no_bpf), Rung::HeldQdisc);
        assert_eq!(rung(true, Strategy::KernelFallback, &Gates::default()), Rung::HeldQdisc);
        assert_eq!(rung(true, Strategy::Hold, &none), Rung::Unproven);
        assert_eq!(rung(true, Strategy::Auto, &none), Rung::Passed);
        let unix = Present { endpoint: Endpoint::stream(Address::Unix("/run/a".into())), ..present(true) };
        assert_eq!(plan(&[unix], haproxy, Strategy::Hold, &Gates::default())[0].rung, Rung::Passed);
    }
}
