//! The error of a gate.

use std::error::Error;

use crate::gate::failures::ErrorList;

/// The error of a gate, or several of them. Its sentence says which gate it was, and what helps.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct GateError(Box<dyn Error + Send + Sync>);

impl GateError {
    /// Wraps the error of one kind of gate.
    pub(in crate::gate) fn new(error: impl Error + Send + Sync + 'static) -> GateError {
        GateError(Box::new(error))
    }
}

impl From<ErrorList<GateError>> for GateError {
    fn from(errors: ErrorList<GateError>) -> GateError {
        GateError::new(errors)
    }
}
