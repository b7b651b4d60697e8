//! Tells which gates this machine offers, for the plan of a reload. The final answer comes when a gate is put in place.

use crate::config::Strategy;
use crate::gate::contract::Backend;
use crate::gate::probe::{Ability, abilities};

/// Why each gate cannot be used, `None` where no reason is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gates {
    /// Why connections cannot be steered.
    pub steer: Option<String>,
    /// Why a server that binds without SO_REUSEPORT cannot share its ports with its next generation.
    pub overlap: Option<String>,
    /// Why the eBPF gate cannot be used.
    pub ebpf: Option<String>,
    /// Why the qdisc gate cannot be used.
    pub qdisc: Option<String>,
    /// Whether tc programs need no qdisc (TCX).
    pub tcx: bool,
}

impl Gates {
    /// Tries the parts of the gates, without changing anything. Blocks for some tens of milliseconds.
    pub fn probe() -> Gates {
        Gates::from_abilities(&abilities())
    }

    fn from_abilities(abilities: &[Ability]) -> Gates {
        let missing = |name: &str| {
            let ability = abilities.iter().find(|ability| ability.name == name && ability.present == Some(false));
            ability.map(|ability| format!("{name}: {}", ability.how))
        };
        Gates {
            steer: missing("reuseport-selection").or_else(|| missing("pidfd-getfd")),
            overlap: missing("bind-sharing").or_else(|| missing("pidfd-getfd")),
            ebpf: missing("bpf").or_else(|| missing("bpf-ringbuf")).or_else(|| missing("tcx").and(missing("clsact"))),
            qdisc: missing("sch-plug").or_else(|| missing("ifb")),
            tcx: abilities.iter().any(|ability| ability.name == "tcx" && ability.present == Some(true)),
        }
    }

    /// The gate that `strategy` would use, where holds by it need a qdisc on the devices.
    pub fn needs_persistent_qdiscs(&self, strategy: Strategy) -> Option<Backend> {
        self.best(strategy).ok().filter(|backend| *backend == Backend::Qdisc || !self.tcx)
    }

    /// The gate that `strategy` would use.
    ///
    /// # Errors
    /// A sentence that says why no gate can be used.
    pub fn best(&self, strategy: Strategy) -> Result<Backend, String> {
        match (&self.ebpf, &self.qdisc, strategy) {
            (_, Some(qdisc), Strategy::KernelFallback) => Err(format!("no SYN can be held by qdisc ({qdisc})")),
            (_, None, Strategy::KernelFallback) => Ok(Backend::Qdisc),
            (None, ..) => Ok(Backend::Ebpf),
            (Some(_), None, _) => Ok(Backend::Qdisc),
            (Some(ebpf), Some(qdisc), _) => {
                Err(format!("no SYN can be held, neither by eBPF ({ebpf}) nor by qdisc ({qdisc})"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_fallback_uses_the_qdisc_gate_only() {
        let both = Gates::default();
        assert_eq!(both.best(Strategy::Auto), Ok(Backend::Ebpf));
        assert_eq!(both.best(Strategy::KernelFallback), Ok(Backend::Qdisc));
        let old = Gates { ebpf: Some("bpf: no".into()), ..Gates::default() };
        assert_eq!(old.best(Strategy::Hold), Ok(Backend::Qdisc));
        let bare = Gates { qdisc: Some("sch-plug: no".into()), ..Gates::default() };
        assert!(bare.best(Strategy::KernelFallback).unwrap_err().contains("sch-plug: no"));
        assert_eq!(bare.best(Strategy::Hold), Ok(Backend::Ebpf));
    }
}
