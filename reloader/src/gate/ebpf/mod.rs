//! The gate of kernels from 5.8 on: a tc program parks SYNs in a BPF ring buffer.

use super::hold::*;

/// Why the eBPF gate cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {}
/// TEMPORARY
pub struct EbpfGate;
impl EbpfGate {
    /// T
    pub fn prepare(_: &Spec) -> Result<Self, EbpfError> {
        todo!()
    }
    /// T
    pub fn restore(_: Keepsake) -> Result<Self, EbpfError> {
        todo!()
    }
}
/// T
pub fn remove_stale(_: &Living) -> Result<usize, EbpfError> {
    todo!()
}
impl Gate for EbpfGate {
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
