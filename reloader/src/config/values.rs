//! Defines the words that a configuration uses as values.

use serde::Deserialize;

/// What SIGTERM does with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnStop {
    /// Leave the server serving.
    Leave,
    /// Retire the server.
    Retire,
}

impl OnStop {
    /// Whether the server is retired when the daemon ends. PID 1 always retires it, because its end kills all other processes. Pure.
    pub fn retires(self, is_init: bool) -> bool {
        is_init || self == OnStop::Retire
    }
}

/// Which process runs HAProxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The daemon runs HAProxy. It starts and retires each generation.
    Supervised,
    /// HAProxy's own unit runs HAProxy, in master-worker mode. The daemon asks the master to reload.
    Companion,
}

/// What is kept of the last configuration with which HAProxy served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LastKnownGood {
    /// Copies of its files and of the files that they name, private keys among them.
    WithFiles,
    /// Copies of its files.
    ConfigOnly,
}

/// Whether a HAProxy with `noreuseport` is let bind beside its old generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// Where it would be held otherwise.
    Auto,
    /// Never.
    Off,
}

/// Which rungs a reload may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The strongest rung that applies.
    Auto,
    /// Passed sockets only.
    FdPass,
    /// Steering only.
    Steer,
    /// The best gate that can hold SYNs.
    Hold,
    /// The qdisc gate.
    KernelFallback,
}

impl std::fmt::Display for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Strategy::Auto => "auto",
            Strategy::FdPass => "fd-pass",
            Strategy::Steer => "steer",
            Strategy::Hold => "hold",
            Strategy::KernelFallback => "kernel-fallback",
        })
    }
}

/// Whether an unproven reload is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Require {
    /// An unproven reload is allowed, and its receipt says that it is unproven.
    BestEffort,
    /// An unproven reload is refused.
    Proven,
}

/// What a reload does while `max-draining` generations drain already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtMaxDraining {
    /// Wait until one of these generations has ended.
    Wait,
    /// End the oldest of these generations.
    EndOldest,
}
