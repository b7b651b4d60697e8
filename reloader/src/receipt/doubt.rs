//! Defines the reason why something has no proof.

use super::ReasonCode;

/// Why something has no proof: for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// The reason as a code, for programs.
    pub code: ReasonCode,
    /// The reason as a sentence, for people.
    pub why: String,
}

impl Doubt {
    /// A doubt of one kind.
    pub fn new(code: ReasonCode, why: impl Into<String>) -> Doubt {
        Doubt { code, why: why.into() }
    }

    /// The same doubt about one listener, as a sentence about the reload.
    pub(crate) fn about(&self, what: impl std::fmt::Display) -> Doubt {
        Doubt { code: self.code, why: format!("{what}: {}", self.why) }
    }
}
