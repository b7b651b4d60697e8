//! The long sessions of a run: what was asked for, and what became of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::reload_method::ReceiptsCut;
use crate::load::{Failure, SessionResult};

/// What became of the long sessions of a run.
#[derive(Debug, Clone)]
pub struct SessionFindings {
    /// Whether each session is a request in progress. Otherwise it is a connection on which nothing is sent.
    pub has_request: bool,
    /// When each session ended, from the start of the load, and how.
    pub ends: Vec<(Duration, SessionResult)>,
    /// What the receipts say.
    pub receipts: ReceiptsCut,
}

impl SessionFindings {
    /// The number of sessions.
    pub fn count(&self) -> u64 {
        self.ends.len() as u64
    }

    /// The sessions that did not live until their client ended them, in the order of their ends.
    pub fn lost(&self) -> Vec<(Duration, Failure)> {
        let mut lost: Vec<_> = self.ends.iter().filter_map(|(at, result)| Some((*at, result.err()?))).collect();
        lost.sort_by_key(|(at, _)| *at);
        lost
    }

    /// The number of lost sessions.
    pub fn lost_count(&self) -> u64 {
        self.ends.iter().filter(|(_, result)| result.is_err()).count() as u64
    }

    /// The number of lost sessions for each reason.
    pub fn reasons(&self) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        for (_, failure) in self.lost() {
            *reasons.entry(reason(failure)).or_default() += 1;
        }
        reasons
    }
}

/// Why a session was lost.
pub(super) fn reason(failure: Failure) -> String {
    match failure {
        Failure::Empty => "closed".into(),
        Failure::ResetAfterConnect => "reset".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove::samples;

    #[test]
    fn lost_sessions_are_listed_in_the_order_of_their_ends() {
        let sessions =
            samples::sessions(18, &[(2500, Failure::Empty), (1200, Failure::Status(408))], ReceiptsCut::None);
        assert_eq!((sessions.count(), sessions.lost_count()), (20, 2));
        assert_eq!(sessions.lost()[0], (Duration::from_millis(1200), Failure::Status(408)));
        let reasons: Vec<_> = sessions.reasons().into_iter().collect();
        assert_eq!(reasons, [("HTTP 408".to_owned(), 1), ("closed".to_owned(), 1)]);
    }
}
