//! The gate of kernels from 5.8 on: a tc program parks SYNs in a BPF ring buffer.

use super::hold::*;

/// Why the qdisc gate cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum QdiscError {}
/// TEMPORARY
pub struct QdiscGate;
impl QdiscGate {
    /// T
    pub fn prepare(_: &Spec) -> Result<Self, QdiscError> {
        todo!()
    }
    /// T
    pub fn restore(_: Keepsake) -> Result<Self, QdiscError> {
        todo!()
    }
}
/// T
pub fn remove_stale(_: &Living) -> Result<usize, QdiscError> {
    todo!()
}
impl Gate for QdiscGate {
    fn arm(&mut self) -> Result<(), HoldError> {
        todo!()
    }
    fn renew(&mut self) -> Result<(), HoldError> {
        todo!()
    }
    fn follow(&mut self) -> Result<bool, HoldError> {
        todo!()
    }
    fn keepsake(&self) -> Result<Keepsake, HoldError> {
        todo!()
    }
    fn deliver(&mut self) -> Result<Figures, HoldError> {
        todo!()
    }
    fn remove(&mut self) -> Result<(), HoldError> {
        todo!()
    }
}
