//! Provides a gate that fails, for tests of the modules that use a gate.

use super::error::GateError;
use super::operations::{Gate, Handover, Partial};
use super::stats::HoldStats;

/// A gate that can neither deliver its SYNs nor remove anything from the kernel.
pub(in crate::gate) struct BrokenGate;

impl Gate for BrokenGate {
    fn arm(&mut self) -> Result<(), GateError> {
        Ok(())
    }

    fn renew(&mut self) -> Result<(), GateError> {
        Ok(())
    }

    fn follow(&mut self, _: &mut dyn FnMut()) -> Partial<bool> {
        Partial { done: false, trouble: None }
    }

    fn handover(&self) -> Result<Handover, GateError> {
        Err(error("there is no handover"))
    }

    fn deliver(&mut self) -> Partial<HoldStats> {
        Partial { done: HoldStats::default(), trouble: Some(error("2 SYNs stay parked")) }
    }

    fn remove(&mut self) -> Result<(), GateError> {
        Err(error("a filter stays"))
    }
}

fn error(sentence: &'static str) -> GateError {
    GateError::new(std::io::Error::other(sentence))
}
