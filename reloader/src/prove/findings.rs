//! The results of a run, as plain data.

use std::time::Duration;

use super::protocol::Protocol;
use super::reload_method::{ReloadReport, ReloadResult};
use super::tally::Tally;

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
    /// The command that reloads; `None`: the daemon reloads.
    pub command: Option<String>,
    /// The whole command line of the run, quoted for a shell.
    pub command_line: String,
    /// The reason to doubt that the reloaded service is the target. A run with a doubt proves nothing about the target, whatever its verdict.
    pub doubt: Option<String>,
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

    /// The time of the longest reload.
    pub fn longest_reload(&self) -> Option<Duration> {
        self.reloads.iter().map(|reload| reload.took).max()
    }
}
