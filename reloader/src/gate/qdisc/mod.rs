//! The gate of kernels without bpf(2): u32 filters and the plug qdisc, Yelp's technique.

use super::hold::*;

/// Why the qdisc gate cannot hold.
#[derive(Debug, thiserror::Error)]
#[error("not in this build")]
pub struct QdiscError;
/// TEMPORARY
pub struct QdiscGate;
impl QdiscGate {
    /// T
    pub fn prepare(_: &Spec) -> Result<Self, QdiscError> {
        Err(QdiscError)
    }
    /// T
    pub fn restore(_: Keepsake) -> Result<Self, QdiscError> {
        Err(QdiscError)
    }
}
/// T
pub fn remove_stale(_: &Living) -> Result<usize, QdiscError> {
    Ok(0)
}
impl Gate for QdiscGate {
    fn arm(&mut self) -> Result<(), HoldError> {
        Err(QdiscError.into())
    }
    fn renew(&mut self) -> Result<(), HoldError> {
        Err(QdiscError.into())
    }
    fn follow(&mut self) -> Result<bool, HoldError> {
        Err(QdiscError.into())
    }
    fn keepsake(&self) -> Result<Keepsake, HoldError> {
        Err(QdiscError.into())
    }
    fn deliver(&mut self) -> Result<Figures, HoldError> {
        Err(QdiscError.into())
    }
    fn remove(&mut self) -> Result<(), HoldError> {
        Err(QdiscError.into())
    }
}
