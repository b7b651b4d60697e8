//! Forecasts, before a reload starts, which rung each listener gets, and why not a stronger one. The code is pure. What a reload does is chosen
//! later, in `reload/steps/protect.rs`, when the new generation has shown which sockets it owns.

pub(crate) mod companion;

use serde::{Deserialize, Serialize};

use crate::config::Strategy;
use crate::gate::hold::{Backend, Gates};
use crate::model::listener::{Address, Endpoint, Family, Role};
use crate::receipt::Rung;
use crate::server::Capabilities;

/// Why a unix path that the server binds again is not proven.
pub(crate) const REFUSES: &str = "its path leads to the new socket, from HAProxy 2.3 on a moment before that listens: a client that connects in between is refused";

/// What the plan knows of a listener of the serving generation.
#[derive(Debug, Clone)]
pub struct Present {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// What it is for.
    pub role: Role,
    /// Its inode.
    pub inode: u64,
    /// Why the daemon has no duplicate of the socket to pass. `None` if it has one.
    pub not_in_custody: Option<&'static str>,
    /// Why no client reaches it, if so.
    pub unreachable: Option<String>,
    /// The same, if the next generation can bind a socket that clients reach.
    pub bound_again: Option<String>,
}

/// One listener's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Where it listens.
    pub address: String,
    /// The address family of the listener.
    pub family: Family,
    /// What it is for.
    pub role: Role,
    /// The rung that the listener will get if the new configuration keeps it.
    pub rung: Rung,
    /// Why the listener does not get a stronger rung.
    pub why: Option<String>,
    /// Its inode.
    pub inode: u64,
}

/// The inputs of the plan, besides the listeners.
#[derive(Debug, Clone, Copy)]
pub struct PlanInputs<'a> {
    /// What the next generation can do.
    pub server: &'a Capabilities,
    /// What the configuration asks for.
    pub strategy: Strategy,
    /// Whether the next generation can bind beside the serving one.
    pub beside: Beside<'a>,
    /// The gates that this machine has.
    pub gates: &'a Gates,
}

/// Whether the next generation can bind its sockets beside those of the serving one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside<'a> {
    /// Both bind with SO_REUSEPORT.
    Freely,
    /// They bind without it, and the ports are shared for the next one (overlap).
    Shared,
    /// They bind without it: the serving one has to make room. Why the ports are not shared, where that was wanted.
    Alone(Option<&'a str>),
    /// As [`Beside::Alone`], and the configuration does not allow that. A reload is refused.
    Refused(&'a str),
}

/// Plans the rung of each listener.
pub fn plan(present: &[Present], inputs: PlanInputs<'_>) -> Vec<Planned> {
    present.iter().map(|listener| planned(listener, inputs)).collect()
}

fn planned(listener: &Present, inputs: PlanInputs<'_>) -> Planned {
    let (rung, why) = match (&listener.bound_again, &listener.unreachable) {
        (Some(why), _) => (Rung::Added, Some(binds_again(why))),
        (None, Some(why)) => (Rung::Unproven, Some(format!("no client reaches it: {why}"))),
        (None, None) => rung_of_reachable(listener, inputs),
    };
    let Present { endpoint, role, inode, .. } = listener;
    Planned { address: endpoint.to_string(), family: endpoint.address.family(), role: *role, rung, why, inode: *inode }
}

fn rung_of_reachable(listener: &Present, inputs: PlanInputs<'_>) -> (Rung, Option<String>) {
    if let Beside::Refused(why) = inputs.beside {
        let why = format!("a reload is refused: a port cannot be shared: {why}; see `fallback` of the service");
        return (Rung::Unproven, Some(why));
    }
    match why_not_passed(listener, inputs) {
        None => (Rung::Passed, single_ipv6(&listener.endpoint, inputs)),
        Some(why) if inputs.strategy != Strategy::FdPass && matches!(listener.endpoint.address, Address::Unix(_)) => {
            (Rung::Unproven, Some(format!("{why}; {REFUSES}")))
        }
        Some(why) if inputs.strategy == Strategy::FdPass || !listener.endpoint.is_tcp_here() => {
            (Rung::Unproven, Some(why))
        }
        Some(why) => match why_not_steered(listener, inputs) {
            None if inputs.beside == Beside::Shared => {
                (Rung::Steered, Some(format!("{why}; its port is shared with the next generation (overlap)")))
            }
            None => (Rung::Steered, Some(why)),
            Some(not_steered) => {
                held(inputs, [Some(why), not_steered].into_iter().flatten().collect::<Vec<_>>().join("; "))
            }
        },
    }
}

/// Nothing can be lost on a socket that no client reaches.
fn binds_again(why: &str) -> String {
    format!("no client reaches the present socket: {why}; the next generation binds another one")
}

fn held(inputs: PlanInputs<'_>, why: String) -> (Rung, Option<String>) {
    match inputs.gates.best(inputs.strategy) {
        Ok(Backend::Ebpf) => (Rung::HeldEbpf, Some(why)),
        Ok(Backend::Qdisc) => (Rung::HeldQdisc, Some(why)),
        Err(neither) => (Rung::Unproven, Some(format!("{why}; {neither}"))),
    }
}

/// `None`: the listener can be steered. `Some(None)`: the strategy excludes steering, which `why_not_passed` has already said.
fn why_not_steered(listener: &Present, inputs: PlanInputs<'_>) -> Option<Option<String>> {
    if holds_tcp(inputs.strategy) {
        return Some(None);
    }
    if let Beside::Alone(not_shared) = inputs.beside {
        let alone = "two generations cannot be bound side by side (`noreuseport`, or `sockets` of the service)";
        return Some(Some(match not_shared {
            Some(why) => format!("{alone}, and a port cannot be shared: {why}"),
            None => alone.into(),
        }));
    }
    if listener.endpoint.mptcp {
        // The map that a steering program chooses from takes no other sockets than TCP's and UDP's (reuseport_array_update_check).
        return Some(Some("the kernel steers no MPTCP connection".into()));
    }
    inputs.gates.steer.as_ref().map(|reason| Some(format!("no connection can be steered ({reason})")))
}

/// Whether TCP listeners are held with this strategy, instead of being passed or steered.
pub(crate) fn holds_tcp(strategy: Strategy) -> bool {
    matches!(strategy, Strategy::Hold | Strategy::KernelFallback)
}

/// Whether TCP listeners are bound again with this strategy, instead of being passed.
pub(crate) fn keeps_tcp_back(strategy: Strategy) -> bool {
    holds_tcp(strategy) || strategy == Strategy::Steer
}

fn why_not_passed(listener: &Present, inputs: PlanInputs<'_>) -> Option<String> {
    let strategy = inputs.strategy;
    if let Some(why) = &inputs.server.why_not_passed {
        return Some(why.clone());
    }
    if keeps_tcp_back(strategy) && listener.endpoint.is_tcp_here() {
        return Some(format!("strategy = \"{strategy}\" keeps TCP sockets back"));
    }
    listener.not_in_custody.map(str::to_owned)
}

fn single_ipv6(endpoint: &Endpoint, inputs: PlanInputs<'_>) -> Option<String> {
    let otherwise = match inputs.strategy {
        Strategy::FdPass => "it is unproven",
        _ => "it is steered or held, if that is possible",
    };
    (endpoint.is_single_ipv6() && inputs.server.wants_v6only)
        .then(|| format!("provided that its bind says `v6only`; otherwise {otherwise}"))
}

/// The first traffic listener that this plan leaves unproven, as a sentence.
pub fn unproven(plan: &[Planned]) -> Option<String> {
    let listener = plan.iter().find(|planned| planned.role == Role::Traffic && planned.rung == Rung::Unproven)?;
    Some(format!("{}: {}", listener.address, listener.why.as_deref().unwrap_or("no rung applies")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::haproxy::version::Version;

    fn present(in_custody: bool) -> Present {
        let endpoint = Endpoint::stream(Address::Inet("127.0.0.1:80".parse().unwrap()));
        let not_in_custody = (!in_custody).then_some("the serving generation does not export it");
        Present { endpoint, role: Role::Traffic, inode: 7, not_in_custody, unreachable: None, bound_again: None }
    }

    fn planned_with(listener: Present, haproxy: (u32, u32), strategy: Strategy, gates: &Gates) -> Planned {
        let server = Capabilities::from(Version { major: haproxy.0, minor: haproxy.1 });
        let inputs = PlanInputs { server: &server, strategy, beside: Beside::Freely, gates };
        plan(&[listener], inputs).remove(0)
    }

    #[test]
    fn listener_in_custody_is_passed() {
        let planned = planned_with(present(true), (2, 6), Strategy::Auto, &Gates::default());
        assert_eq!((planned.rung, &planned.why), (Rung::Passed, &None));
        assert_eq!(unproven(&[planned]), None);
    }

    #[test]
    fn unreachable_listener_is_bound_again() {
        let why = Some("the path /a is gone".to_owned());
        let lost = Present { unreachable: why.clone(), bound_again: why.clone(), ..present(true) };
        let planned = planned_with(lost, (2, 6), Strategy::Auto, &Gates::default());
        assert_eq!(planned.rung, Rung::Added);
        assert!(planned.why.unwrap().contains("the path /a is gone"));
        let lost = Present { unreachable: why, ..present(true) };
        assert_eq!(planned_with(lost, (2, 6), Strategy::Auto, &Gates::default()).rung, Rung::Unproven);
    }

    #[test]
    fn plan_says_why_a_listener_cannot_be_passed() {
        let old = planned_with(present(true), (1, 7), Strategy::FdPass, &Gates::default());
        assert!(unproven(&[old]).unwrap().contains("HAProxy 1.7 cannot be given sockets"));
        let unexported = planned_with(present(false), (2, 6), Strategy::FdPass, &Gates::default());
        assert!(
            unproven(&[unexported]).unwrap().starts_with("127.0.0.1:80: the serving generation does not export it")
        );
    }

    #[test]
    fn condition_of_a_single_ipv6_address_names_what_comes_otherwise() {
        let endpoint = Endpoint::stream(Address::Inet("[::1]:80".parse().unwrap()));
        let why = |strategy| {
            let listener = Present { endpoint: endpoint.clone(), ..present(true) };
            planned_with(listener, (2, 6), strategy, &Gates::default()).why.unwrap()
        };
        assert!(why(Strategy::Auto).ends_with("otherwise it is steered or held, if that is possible"));
        assert!(why(Strategy::FdPass).ends_with("otherwise it is unproven"));
    }

    #[test]
    fn listener_that_cannot_be_passed_is_steered_or_else_held() {
        let rung =
            |in_custody, strategy, gates: &Gates| planned_with(present(in_custody), (2, 6), strategy, gates).rung;
        let no_steering = Gates { steer: Some("reuseport-selection: no".into()), ..Gates::default() };
        let no_bpf = Gates { ebpf: Some("bpf: denied".into()), ..no_steering.clone() };
        let none = Gates { qdisc: Some("sch-plug: missing".into()), ..no_bpf.clone() };
        assert_eq!(rung(false, Strategy::Auto, &Gates::default()), Rung::Steered);
        assert_eq!(rung(true, Strategy::Steer, &Gates::default()), Rung::Steered);
        assert_eq!(rung(false, Strategy::Auto, &no_steering), Rung::HeldEbpf);
        assert_eq!(rung(true, Strategy::Steer, &no_steering), Rung::HeldEbpf);
        assert_eq!(rung(true, Strategy::Hold, &Gates::default()), Rung::HeldEbpf);
        assert_eq!(rung(true, Strategy::Hold, &no_bpf), Rung::HeldQdisc);
        assert_eq!(rung(true, Strategy::KernelFallback, &Gates::default()), Rung::HeldQdisc);
        assert_eq!(rung(true, Strategy::Hold, &none), Rung::Unproven);
        assert_eq!(rung(true, Strategy::Auto, &none), Rung::Passed);
        let endpoint = Endpoint { mptcp: true, ..present(true).endpoint };
        let mptcp = Present { endpoint, ..present(true) };
        assert_eq!(planned_with(mptcp, (2, 6), Strategy::Steer, &Gates::default()).rung, Rung::HeldEbpf);
        let unix = Present { endpoint: Endpoint::stream(Address::Unix("/run/a".into())), ..present(true) };
        assert_eq!(planned_with(unix.clone(), (2, 6), Strategy::Hold, &Gates::default()).rung, Rung::Passed);
        assert_eq!(planned_with(unix, (1, 7), Strategy::Auto, &Gates::default()).rung, Rung::Unproven);
    }

    #[test]
    fn listener_that_cannot_be_bound_twice_is_not_steered() {
        let server = Capabilities::from(Version { major: 1, minor: 7 });
        let inputs = PlanInputs {
            server: &server,
            strategy: Strategy::Auto,
            beside: Beside::Alone(None),
            gates: &Gates::default(),
        };
        let planned = plan(&[present(true)], inputs).remove(0);
        assert_eq!(planned.rung, Rung::HeldEbpf);
        let why = planned.why.unwrap();
        assert!(why.contains("1.7 cannot be given") && why.contains("noreuseport"), "{why}");
    }

    #[test]
    fn listener_whose_port_can_be_shared_is_steered_and_the_plan_names_why_not() {
        let server = Capabilities { why_not_passed: Some("it binds its sockets itself".into()), ..Default::default() };
        let planned = |beside| {
            let inputs = PlanInputs { server: &server, strategy: Strategy::Steer, beside, gates: &Gates::default() };
            let planned = plan(&[present(false)], inputs).remove(0);
            (planned.rung, planned.why.unwrap())
        };
        let (rung, why) = planned(Beside::Shared);
        assert!(rung == Rung::Steered && why.contains("shared with the next generation"), "{why}");
        let (rung, why) = planned(Beside::Alone(Some("no control group")));
        assert!(rung == Rung::HeldEbpf && why.contains("no control group"), "{why}");
        let (rung, why) = planned(Beside::Refused("no control group"));
        assert!(rung == Rung::Unproven && why.contains("no control group") && why.contains("fallback"), "{why}");
    }
}
