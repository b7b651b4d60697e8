//! Made-up findings for tests of the verdict and the reports.

use std::time::{Duration, Instant};

use super::findings::{Findings, ProofSettings, TimedReload};
use super::protocol::Protocol;
use super::reload_method::{ReceiptsCut, ReloadReport, ReloadResult};
use super::sessions::SessionFindings;
use super::tally::Tally;
use super::windows::ReloadWindows;
use crate::load::{Failure, Outcome, Sink};

/// A run with `served` connections, one due each millisecond, with these failures at these milliseconds, and with a reload of
/// 40 ms each second.
pub(super) fn findings(served: u64, failures: &[(u64, Failure)], reloads: u32) -> Findings {
    let reload = |number: u32| TimedReload {
        begin: Duration::from_secs(1) * number,
        took: Duration::from_millis(40),
        report: ReloadReport::plain(ReloadResult::Done),
    };
    Findings {
        settings: settings(reloads),
        address: "192.0.2.7:8080".into(),
        began_at: "2026-11-22T08:04:16.893Z".into(),
        kernel: Some("6.12.48".into()),
        duration: Duration::from_secs(u64::from(reloads) + 1),
        tally: tally(served, failures),
        connections: served + failures.len() as u64,
        closed_between: 0,
        sessions: None,
        reloads: (1..=reloads).map(reload).collect(),
        cut_short: None,
        max_start_delay: Duration::ZERO,
        unfinished: 0,
    }
}

fn settings(reloads: u32) -> ProofSettings {
    ProofSettings {
        target: "web.example:8080".into(),
        protocol: Protocol { http: Some("/".into()), ..Protocol::default() },
        rate: 1000,
        reloads,
        interval: Duration::from_secs(1),
        sessions: None,
        command: Some("systemctl restart web".into()),
        command_line: "reloader prove --target web.example:8080 --http".into(),
        doubt: None,
    }
}

fn tally(served: u64, failures: &[(u64, Failure)]) -> Tally {
    let mut tally = Tally::new(ReloadWindows::default());
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
    tally
}

/// Long sessions of which so many lived, and the others ended at these milliseconds.
pub(super) fn sessions(alive: usize, lost: &[(u64, Failure)], receipts: ReceiptsCut) -> SessionFindings {
    let alive = (0..alive).map(|_| (Duration::from_secs(9), Ok(())));
    let lost = lost.iter().map(|(millis, failure)| (Duration::from_millis(*millis), Err(*failure)));
    SessionFindings { has_request: true, ends: alive.chain(lost).collect(), receipts }
}
