//! Names the two gates.

use serde::{Deserialize, Serialize};

/// One of the two gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// A tc program and a ring buffer.
    Ebpf,
    /// u32 filters and the plug qdisc.
    Qdisc,
}
