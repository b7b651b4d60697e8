//! The results of a run, as plain data.

use std::time::Duration;

use super::protocol::{Protocol, SessionSettings};
use super::reload_method::{ReceiptsCut, ReloadReport, ReloadResult};
use super::sessions::SessionFindings;
use super::tally::Tally;
use crate::load::Failure;

/// What the operator asked for.
#[derive(Debug, Clone)]
pub struct ProofSettings {
    /// The argument of `--target`.
    pub target: String,
    /// What is done on each connection.
    pub protocol: Protocol,
    /// New connections per second, or requests per second where connections are kept.
    pub rate: u32,
    /// The number of reloads.
    pub reloads: u32,
    /// The time from the beginning of one reload to the beginning of the next.
    pub interval: Duration,
    /// The long sessions beside the load; `None`: there are none.
    pub sessions: Option<SessionSettings>,
    /// The command that reloads; `None`: the daemon reloads.
    pub command: Option<String>,
    /// The whole command line of the run, quoted for a shell.
    pub command_line: String,
    /// The reason to doubt that the reloaded service is the target. A run with a doubt proves nothing about the target, whatever its verdict.
    pub doubt: Option<String>,
}

impl ProofSettings {
    /// Whether the long sessions are requests in progress. Otherwise they are connections on which nothing is sent.
    pub fn holds_requests(&self) -> bool {
        let post = self.sessions.as_ref().and_then(|sessions| sessions.post.as_ref());
        post.or(self.protocol.http.as_ref()).is_some()
    }
}

/// One reload of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimedReload {
    /// When it began, from the start of the load.
    pub begin: Duration,
    /// How long it took.
    pub took: Duration,
    /// What is known about it.
    pub report: ReloadReport,
}

/// All results of a run.
#[derive(Clone)]
pub struct Findings {
    /// What the operator asked for.
    pub settings: ProofSettings,
    /// The address that the load connected to.
    pub address: String,
    /// When the run began, in RFC 3339.
    pub began_at: String,
    /// The release of the running kernel, as uname(2) gives it.
    pub kernel: Option<String>,
    /// How long the load lasted.
    pub duration: Duration,
    /// The outcomes of the connections.
    pub tally: Tally,
    /// Connections made. Where connections are kept, these are fewer than the requests.
    pub connections: u64,
    /// Kept connections that the service closed between two requests.
    pub closed_between: u64,
    /// What became of the long sessions.
    pub sessions: Option<SessionFindings>,
    /// The reloads, in order.
    pub reloads: Vec<TimedReload>,
    /// The signal that ended the run early.
    pub cut_short: Option<i32>,
    /// The largest delay of a start. A start that was due when the load ended, but was not made, counts too.
    pub max_start_delay: Duration,
    /// Connections or requests that were abandoned because of a signal. Their outcome is unknown.
    pub unfinished: u64,
}

impl Findings {
    /// Whether the kernel reported, for at least one connection, how often its SYN was sent.
    pub fn sees_syns(&self) -> bool {
        self.tally.total.connections > self.tally.total.syn_unknown
    }

    /// Whether one of the reloads failed.
    pub fn has_failed_reload(&self) -> bool {
        self.reloads.iter().any(|reload| reload.report.result == ReloadResult::Failed)
    }

    /// The number of long sessions that were lost.
    pub fn lost_sessions(&self) -> u64 {
        self.sessions.as_ref().map_or(0, SessionFindings::lost_count)
    }

    /// The long sessions and the connections of the load that were established and then cut. What got an error as its reply, or no
    /// reply in time, was lost, but no end of a process cut it.
    pub fn seen_cut(&self) -> u64 {
        let is_cut =
            |failure: &Failure| matches!(failure, Failure::ResetAfterConnect | Failure::Empty | Failure::CutShort);
        let reasons = self.tally.reasons.iter();
        let of_load: u64 = reasons.filter(|(failure, _)| is_cut(failure)).map(|(_, count)| count).sum();
        let sessions = self.sessions.as_ref().map(SessionFindings::lost).unwrap_or_default();
        of_load + sessions.iter().filter(|(_, failure)| is_cut(failure)).count() as u64
    }

    /// Whether the receipts say that as many were cut as were seen. `None` if there are no sessions, or the receipts do not say.
    pub fn receipts_agree(&self) -> Option<bool> {
        match self.sessions.as_ref()?.receipts {
            ReceiptsCut::Count(cut) => Some(cut == self.seen_cut()),
            ReceiptsCut::None | ReceiptsCut::Unknown => None,
        }
    }

    /// The time of the longest reload.
    pub fn longest_reload(&self) -> Option<Duration> {
        self.reloads.iter().map(|reload| reload.took).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove::samples;

    #[test]
    fn session_that_was_answered_or_timed_out_was_not_cut() {
        let mut findings = samples::findings(10, &[(5, Failure::CutShort), (6, Failure::Timeout)], 1);
        let lost = [Failure::Empty, Failure::ResetAfterConnect, Failure::Status(408), Failure::Timeout];
        findings.sessions = Some(samples::sessions(16, &lost.map(|failure| (1200, failure)), ReceiptsCut::Count(3)));
        assert_eq!((findings.lost_sessions(), findings.seen_cut()), (4, 3));
        assert_eq!(findings.receipts_agree(), Some(true));
    }
}
