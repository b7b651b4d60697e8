//! Collects what of a hold could not be removed.

use std::io;

use super::error::{QdiscError, is_gone};
use crate::gate::failures::Failures;

/// What of one hold could not be removed. What was gone already does not count.
pub(super) struct RemovalFailures {
    id: u16,
    failures: Failures<QdiscError>,
}

impl RemovalFailures {
    pub(super) fn new(id: u16) -> Self {
        Self { id, failures: Failures::new() }
    }

    /// Notes how a step went. True where it was done, or there was nothing to do.
    pub(super) fn note(&mut self, what: &'static str, done: io::Result<()>) -> bool {
        match done {
            Err(source) if !is_gone(&source) => {
                self.failures.extend([QdiscError::LeftBehind { id: self.id, what, source }]);
                false
            }
            _ => true,
        }
    }

    pub(super) fn into_error(self) -> Option<QdiscError> {
        self.failures.into_error()
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn everything_that_stays_is_reported_and_what_was_gone_is_not() {
        let mut failures = RemovalFailures::new(7);
        assert!(failures.note("the plug", Ok(())));
        assert!(failures.note("a filter", Err(Errno::NOENT.into())));
        assert!(!failures.note("the prio on lo", Err(Errno::PERM.into())));
        assert!(!failures.note("the ifb device", Err(Errno::BUSY.into())));
        let error = failures.into_error().unwrap().to_string();
        assert!(error.contains("the prio on lo of hold 7") && error.contains("the ifb device of hold 7"), "{error}");
        assert!(!error.contains("a filter"), "{error}");
    }
}
