//! Decides, for a reload that HAProxy's master carries out, which rung each listener gets. The master passes the sockets by itself. The code is
//! pure.

use crate::config::Strategy;
use crate::haproxy::version::Version;
use crate::model::listener::Address;
use crate::plan::REFUSES;
use crate::plan::{Planned, Present};
use crate::receipt::Rung;

/// The inputs of the plan, besides the listeners.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CompanionPlanInputs {
    /// The version of HAProxy that the next worker will run.
    pub(crate) haproxy: Version,
    /// Whether a stats socket of the configuration exports listeners.
    pub(crate) exposes: bool,
    /// What the configuration asks for.
    pub(crate) strategy: Strategy,
    /// Whether the kernel can move connections that are queued on a closed listener to another listener.
    pub(crate) migrates: bool,
    /// The rung of the gate that can hold SYNs. `None`: no gate can.
    pub(crate) holds: Option<Rung>,
}

/// Plans the rung of each listener.
pub(crate) fn plan(present: &[Present], means: CompanionPlanInputs) -> Vec<Planned> {
    present.iter().map(|listener| planned(listener, means)).collect()
}

fn planned(listener: &Present, means: CompanionPlanInputs) -> Planned {
    let (rung, why) = rung(listener, means);
    let Present { endpoint, role, inode, .. } = listener;
    let address = endpoint.to_string();
    Planned { address, family: endpoint.address.family(), role: *role, rung, why: Some(why), inode: *inode }
}

fn rung(listener: &Present, means: CompanionPlanInputs) -> (Rung, String) {
    if means.haproxy.at_least(2, 6) || means.exposes {
        return (Rung::Passed, "by HAProxy itself, if its bind does not change".into());
    }
    let why = format!(
        "HAProxy {} passes sockets in master-worker mode only if a stats socket says `expose-fd listeners`; add that",
        means.haproxy
    );
    if matches!(listener.endpoint.address, Address::Unix(_)) {
        return (Rung::Unproven, format!("{why}; {REFUSES}"));
    }
    let steers = matches!(means.strategy, Strategy::Auto | Strategy::Steer)
        && means.migrates
        && listener.not_in_custody.is_none();
    let holds = matches!(means.strategy, Strategy::Auto | Strategy::Hold | Strategy::KernelFallback);
    match means.holds.filter(|_| holds && listener.endpoint.is_tcp_here()) {
        _ if steers => (Rung::Steered, why),
        Some(held) => (held, why),
        None => (Rung::Unproven, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::listener::{Endpoint, Role};

    fn rung_of(address: Address, haproxy: (u32, u32), change: impl FnOnce(&mut CompanionPlanInputs)) -> Rung {
        let endpoint = Endpoint::stream(address);
        let present = Present {
            endpoint,
            role: Role::Traffic,
            inode: 7,
            not_in_custody: None,
            unreachable: None,
            bound_again: None,
        };
        let haproxy = Version { major: haproxy.0, minor: haproxy.1 };
        let mut means = CompanionPlanInputs {
            haproxy,
            exposes: false,
            strategy: Strategy::Auto,
            migrates: true,
            holds: Some(Rung::HeldEbpf),
        };
        change(&mut means);
        plan(&[present], means).remove(0).rung
    }

    fn web() -> Address {
        Address::Inet("127.0.0.1:80".parse().unwrap())
    }

    #[test]
    fn master_passes_sockets_since_2_6_and_earlier_if_a_stats_socket_exports_them() {
        assert_eq!(rung_of(web(), (2, 6), |_| {}), Rung::Passed);
        assert_eq!(rung_of(Address::Unix("/run/a".into()), (2, 6), |_| {}), Rung::Passed);
        assert_eq!(rung_of(web(), (2, 2), |means| means.exposes = true), Rung::Passed);
    }

    #[test]
    fn listeners_that_the_master_does_not_pass_are_steered_or_held() {
        assert_eq!(rung_of(web(), (2, 2), |_| {}), Rung::Steered);
        assert_eq!(rung_of(web(), (2, 2), |means| means.migrates = false), Rung::HeldEbpf);
        assert_eq!(rung_of(web(), (2, 2), |means| means.strategy = Strategy::Hold), Rung::HeldEbpf);
        assert_eq!(rung_of(web(), (2, 2), |means| means.strategy = Strategy::FdPass), Rung::Unproven);
        assert_eq!(rung_of(Address::Unix("/run/a".into()), (2, 2), |_| {}), Rung::Unproven);
    }
}
