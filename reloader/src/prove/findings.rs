use std::time::Duration;

use super::{Protocol, Tally};

/// What is to be proven.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The target as it was given.
    pub target: String,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// New connections, or requests on kept ones, per second.
    pub rate: u32,
    /// How many reloads.
    pub reloads: u32,
    /// From the begin of one to the begin of the next.
    pub interval: Duration,
    /// The command that reloads; `None`: the daemon is asked.
    pub command: Option<String>,
    /// The whole command line, as a shell would take it.
    pub command_line: String,
    /// Why it may not be the target that is reloaded; then nothing is proven of it, whatever the verdict.
    pub doubt: Option<String>,
}

/// How one reload came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// In a word.
    pub way: Way,
    /// What there is to say about it, in a sentence.
    pub said: Option<String>,
    /// What the command printed, where that explains a failure.
    pub output: Vec<String>,
}

/// In a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The command ended well. Nothing is known of proofs.
    Done,
    /// The daemon's receipt is proven.
    Proven,
    /// The daemon's receipt is unproven.
    Unproven,
    /// It failed.
    Failed,
}

impl Way {
    /// What scripts and people read.
    pub fn word(self) -> &'static str {
        match self {
            Way::Done => "done",
            Way::Proven => "proven",
            Way::Unproven => "unproven",
            Way::Failed => "failed",
        }
    }
}

/// One reload, in the time of the load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// When it was begun, from the load's begin.
    pub at: Duration,
    /// Until it was over.
    pub took: Duration,
    /// How it came out.
    pub attempt: Attempt,
}

/// All that is left of a run: plain data.
#[derive(Clone)]
pub struct Findings {
    /// What was asked for.
    pub settings: Settings,
    /// The address that was connected to.
    pub address: String,
    /// When it began, in RFC 3339.
    pub at: String,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// How long the load lasted.
    pub lasted: Duration,
    /// What became of the connections.
    pub tally: Tally,
    /// Connections made; with kept ones fewer than requests.
    pub connections: u64,
    /// Kept connections that the server closed between two requests.
    pub closed_between: u64,
    /// The reloads, in order.
    pub reloads: Vec<Reloaded>,
    /// The signal that ended it early.
    pub cut_short: Option<i32>,
    /// By how much the latest start was late, or what was still due at the end.
    pub latest_start: Duration,
    /// Abandoned by the signal before their end: nothing is known of them.
    pub unfinished: u64,
}

impl Findings {
    /// Whether SYNs that were sent again could be seen at all.
    pub fn sees_syns(&self) -> bool {
        self.tally.total.connections > self.tally.total.syn_unknown
    }

    /// Whether one of the reloads failed.
    pub fn a_reload_failed(&self) -> bool {
        self.reloads.iter().any(|reload| reload.attempt.way == Way::Failed)
    }

    /// The reload that took longest.
    pub fn longest_reload(&self) -> Option<Duration> {
        self.reloads.iter().map(|reload| reload.took).max()
    }
}

/// Made-up findings for the tests of what is made of them.
#[cfg(test)]
pub(super) mod samples {
    use std::time::Instant;

    use super::*;
    use crate::load::{Failure, Outcome, Sink};
    use crate::prove::tally::Windows;

    /// So many served, one each millisecond, these failures at these milliseconds, and a reload of 40 ms each second.
    pub(in crate::prove) fn findings(served: u64, failures: &[(u64, Failure)], reloads: u32) -> Findings {
        let mut tally = Tally::new(Windows::default());
        let begin = Instant::now();
        tally.begin(begin);
        let mut record = |millis: u64, result| {
            tally.record(&Outcome {
                scheduled: begin + Duration::from_millis(millis),
                lag: Duration::ZERO,
                latency: Duration::from_micros(300 + millis * 7 % 500),
                target: 0,
                syn_resent: Some(false),
                segments_resent: Some(0),
                result,
            });
        };
        (0..served).for_each(|millis| record(millis, Ok(())));
        failures.iter().for_each(|(millis, failure)| record(*millis, Err(*failure)));
        let reload = |number: u32| Reloaded {
            at: Duration::from_secs(1) * number,
            took: Duration::from_millis(40),
            attempt: Attempt { way: Way::Done, said: None, output: Vec::new() },
        };
        Findings {
            settings: Settings {
                target: "web.example:8080".into(),
                protocol: Protocol { http: Some("/".into()), ..Protocol::default() },
                rate: 1000,
                reloads,
                interval: Duration::from_secs(1),
                command: Some("systemctl restart web".into()),
                command_line: "reloader prove --target web.example:8080 --http".into(),
                doubt: None,
            },
            address: "192.0.2.7:8080".into(),
            at: "2026-11-22T08:04:16.893Z".into(),
            kernel: Some("6.12.48".into()),
            lasted: Duration::from_secs(u64::from(reloads) + 1),
            tally,
            connections: served + failures.len() as u64,
            closed_between: 0,
            reloads: (1..=reloads).map(reload).collect(),
            cut_short: None,
            latest_start: Duration::ZERO,
            unfinished: 0,
        }
    }
}
