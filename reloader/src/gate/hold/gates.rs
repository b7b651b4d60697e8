//! Which gates this machine has, for the plan: what is true shows when one is put in place.

use super::Backend;
use crate::config::Strategy;
use crate::gate::probe::{Ability, abilities};

/// Why a gate cannot be had; `None` where nothing speaks against it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gates {
    /// Against steering.
    pub steer: Option<String>,
    /// Against the eBPF gate.
    pub ebpf: Option<String>,
    /// Against the qdisc gate.
    pub qdisc: Option<String>,
    /// tc programs need no qdisc (TCX).
    pub tcx: bool,
}

impl Gates {
    /// Tries what the gates are made of, without changing anything. Takes some tens of milliseconds; blocking.
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
            ebpf: missing("bpf").or_else(|| missing("bpf-ringbuf")).or_else(|| missing("tcx").and(missing("clsact"))),
            qdisc: missing("sch-plug").or_else(|| missing("ifb")),
            tcx: abilities.iter().any(|ability| ability.name == "tcx" && ability.present == Some(true)),
        }
    }

    /// The gate whose holds need something to stand on the devices, where `strategy` has one that does.
    pub fn needs_persistent_qdiscs(&self, strategy: Strategy) -> Option<Backend> {
        self.best(strategy).ok().filter(|backend| *backend == Backend::Qdisc || !self.tcx)
    }

    /// The gate that `strategy` would use, or why there is none.
    ///
    /// # Errors
    /// A sentence.
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
    fn kernel_fallback_knows_one_gate_only() {
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
