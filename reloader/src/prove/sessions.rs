//! The long sessions of a run: what was asked for, and what became of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::findings::TimedReload;
use super::protocol::{ProtocolError, check_path};
use super::reload_method::ReceiptsCut;
use crate::load::{Failure, SessionResult};

/// What the operator asked for by `--hold`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSettings {
    /// The number of sessions.
    pub count: usize,
    /// The path of the POST requests that are held. `None`: GET requests for the path of `--http`, or nothing but connections.
    pub post: Option<String>,
}

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

impl SessionSettings {
    /// Checks that HTTP can carry the path.
    ///
    /// # Errors
    /// [`ProtocolError::Path`].
    pub fn check(&self) -> Result<(), ProtocolError> {
        self.post.as_ref().map_or(Ok(()), |path| check_path("--hold-post", path))
    }
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

/// The number of the last reload that had begun at this time, counted from 1. `None` before the first one.
pub(super) fn last_reload_at(at: Duration, reloads: &[TimedReload]) -> Option<usize> {
    reloads.iter().rposition(|reload| reload.begin <= at).map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove::samples;

    #[test]
    fn end_belongs_to_the_reload_under_way_or_the_last_one_before() {
        let reloads = samples::findings(0, &[], 3).reloads;
        let at = |ms| last_reload_at(Duration::from_millis(ms), &reloads);
        assert_eq!([at(10), at(1001), at(1500), at(2000), at(90_000)], [None, Some(1), Some(1), Some(2), Some(3)]);
    }

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
