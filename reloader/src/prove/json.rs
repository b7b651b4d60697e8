//! The JSON object of `reloader prove --json`. Scripts rely on its keys, which `docs/guide/prove.md` describes. A figure that was
//! not measured is null.

use std::collections::BTreeMap;

use serde::Serialize;

use super::attribution::{last_reload_at, losses_per_reload};
use super::findings::{Findings, ProofSettings};
use super::loss::LossClass;
use super::reload_method::ReceiptsCut;
use super::sentences::verdict_sentence;
use super::sessions::{SessionFindings, reason};
use super::verdict::Verdict;
use crate::units::to_micros;

/// The whole object.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Json {
    result: String,
    reason: Option<String>,
    doubt: Option<String>,
    cut_short: Option<bool>,
    target: String,
    address: Option<String>,
    protocol: &'static str,
    keep_alive: Option<usize>,
    unit: &'static str,
    rate: u32,
    at: Option<String>,
    kernel: Option<String>,
    seconds: Option<f64>,
    total: Option<u64>,
    served: Option<u64>,
    lost: Option<Lost>,
    late: Option<Late>,
    not_carried: Option<u64>,
    unfinished: Option<u64>,
    segments_resent: Option<u64>,
    connections: Option<u64>,
    closed_between: Option<u64>,
    latency_us: Latency,
    schedule_us: Schedule,
    hold: Option<Hold>,
    reloads: Option<Vec<Reload>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Lost {
    total: u64,
    refused: u64,
    reset: u64,
    empty: u64,
    cut_short: u64,
    timed_out: u64,
    bad_status: u64,
    tls: u64,
    other: u64,
    reasons: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Late {
    total: u64,
    slow: u64,
    syn_resent: Option<u64>,
}

#[derive(Debug, Default, Serialize)]
struct Latency {
    p50: Option<u64>,
    p90: Option<u64>,
    p99: Option<u64>,
    #[serde(rename = "p99-9")]
    p99_9: Option<u64>,
    max: Option<u64>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Schedule {
    late_p99: Option<u64>,
    late_max: Option<u64>,
    reloads_late_p99: Option<u64>,
    reloads_late_max: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Reload {
    at_us: u64,
    took_us: u64,
    result: &'static str,
    said: Option<String>,
    output: Vec<String>,
    lost: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Hold {
    what: &'static str,
    sessions: u64,
    alive: u64,
    lost: u64,
    reasons: BTreeMap<String, u64>,
    ends: Vec<SessionEnd>,
    receipts_cut: Option<u64>,
    seen_cut: u64,
    receipts_agree: Option<bool>,
}

/// The end of a lost session.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct SessionEnd {
    at_us: u64,
    reload: Option<usize>,
    reason: String,
}

/// The object for these findings. Where nothing was measured it holds no figures.
pub fn json(findings: &Findings, verdict: &Verdict) -> Json {
    if let Verdict::Unmeasured(reason) = verdict {
        let address = Some(findings.address.clone());
        let (at, kernel) = (Some(findings.began_at.clone()), findings.kernel.clone());
        let cut_short = Some(findings.cut_short.is_some());
        let bare = json_without_figures(&findings.settings, verdict.word(), reason);
        return Json { address, at, kernel, cut_short, ..bare };
    }
    let tally = &findings.tally;
    let keeps_connections = findings.settings.protocol.keep_alive.is_some();
    Json {
        reason: Some(verdict_sentence(findings, verdict)),
        cut_short: Some(findings.cut_short.is_some()),
        address: Some(findings.address.clone()),
        at: Some(findings.began_at.clone()),
        kernel: findings.kernel.clone(),
        // Exact to the microsecond, as the other times.
        seconds: Some(to_micros(findings.duration) as f64 / 1e6),
        total: Some(tally.tried()),
        served: Some(tally.total.ok),
        lost: Some(lost(findings)),
        late: Some(Late {
            total: tally.late,
            slow: tally.total.slow,
            syn_resent: findings.sees_syns().then_some(tally.total.syn_resent),
        }),
        not_carried: Some(tally.not_carried()),
        unfinished: Some(findings.unfinished),
        segments_resent: findings.sees_syns().then_some(tally.total.segments_resent),
        connections: Some(findings.connections),
        closed_between: keeps_connections.then_some(findings.closed_between),
        latency_us: latency(findings),
        schedule_us: schedule(findings),
        hold: findings.sessions.as_ref().map(|sessions| hold(findings, sessions)),
        reloads: Some(reloads(findings)),
        ..json_without_figures(&findings.settings, verdict.word(), "")
    }
}

/// The object for a run without figures. `result` and `reason` say why.
pub fn json_without_figures(settings: &ProofSettings, result: &str, reason: &str) -> Json {
    Json {
        result: result.to_owned(),
        reason: Some(reason.to_owned()),
        doubt: settings.doubt.clone(),
        cut_short: None,
        target: settings.target.clone(),
        address: None,
        protocol: settings.protocol.word(),
        keep_alive: settings.protocol.keep_alive,
        unit: settings.protocol.unit(),
        rate: settings.rate,
        at: None,
        kernel: None,
        seconds: None,
        total: None,
        served: None,
        lost: None,
        late: None,
        not_carried: None,
        unfinished: None,
        segments_resent: None,
        connections: None,
        closed_between: None,
        latency_us: Latency::default(),
        schedule_us: Schedule::default(),
        hold: None,
        reloads: None,
    }
}

fn hold(findings: &Findings, sessions: &SessionFindings) -> Hold {
    let end = |(at, failure)| SessionEnd {
        at_us: to_micros(at),
        reload: last_reload_at(at, &findings.reloads),
        reason: reason(failure),
    };
    Hold {
        what: if sessions.has_request { "requests" } else { "connections" },
        sessions: sessions.count(),
        alive: sessions.count() - sessions.lost_count(),
        lost: sessions.lost_count(),
        reasons: sessions.reasons(),
        ends: sessions.lost().into_iter().map(end).collect(),
        receipts_cut: match sessions.receipts {
            ReceiptsCut::Count(cut) => Some(cut),
            ReceiptsCut::None | ReceiptsCut::Unknown => None,
        },
        seen_cut: findings.seen_cut(),
        receipts_agree: findings.receipts_agree(),
    }
}

fn latency(findings: &Findings) -> Latency {
    let latency = &findings.tally.total.latency;
    let quantile = |share| (!latency.is_empty()).then(|| latency.value_at_quantile(share));
    Latency { p50: quantile(0.5), p90: quantile(0.9), p99: quantile(0.99), p99_9: quantile(0.999), max: quantile(1.0) }
}

fn schedule(findings: &Findings) -> Schedule {
    let (all, within) = (&findings.tally.total.lag, &findings.tally.lag_in_reloads);
    let within_reloads = |share| (!within.is_empty()).then(|| within.value_at_quantile(share));
    Schedule {
        late_p99: Some(all.value_at_quantile(0.99)),
        late_max: Some(all.max()),
        reloads_late_p99: within_reloads(0.99),
        reloads_late_max: within_reloads(1.0),
    }
}

fn lost(findings: &Findings) -> Lost {
    let tally = &findings.tally;
    let reasons = tally.reasons.iter().filter(|(failure, _)| LossClass::from_failure(**failure).is_some());
    Lost {
        total: tally.lost(),
        refused: tally.count(LossClass::Refused),
        reset: tally.count(LossClass::Reset),
        empty: tally.count(LossClass::Empty),
        cut_short: tally.count(LossClass::CutShort),
        timed_out: tally.count(LossClass::TimedOut),
        bad_status: tally.count(LossClass::BadStatus),
        tls: tally.count(LossClass::Tls),
        other: tally.count(LossClass::Other),
        reasons: reasons.map(|(failure, count)| (failure.to_string(), *count)).collect(),
    }
}

fn reloads(findings: &Findings) -> Vec<Reload> {
    let losses = losses_per_reload(findings);
    let reloads = findings.reloads.iter().enumerate().map(|(index, reload)| Reload {
        at_us: to_micros(reload.begin),
        took_us: to_micros(reload.took),
        result: reload.report.result.word(),
        said: reload.report.reason.clone(),
        output: reload.report.output.clone(),
        lost: losses.as_ref().map(|losses| losses[index]),
    });
    reloads.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Failure;
    use crate::prove::samples;
    use crate::prove::verdict::verdict;

    fn value(findings: &Findings) -> serde_json::Value {
        serde_json::to_value(json(findings, &verdict(findings))).unwrap()
    }

    #[test]
    fn measured_figures_are_present_and_others_are_null() {
        let lost = value(&samples::findings(3000, &[(1001, Failure::Refused), (1002, Failure::Status(503))], 2));
        assert_eq!(
            (&lost["result"], &lost["lost"]["total"], &lost["lost"]["bad-status"]),
            (&"lost".into(), &2.into(), &1.into())
        );
        assert_eq!((&lost["lost"]["reasons"]["HTTP 503"], &lost["reloads"][0]["lost"]), (&1.into(), &2.into()));
        assert!(lost["closed-between"].is_null() && lost["keep-alive"].is_null(), "no connection was kept");
        assert!(lost["latency-us"]["p99-9"].as_u64() > lost["latency-us"]["p50"].as_u64());
        let mut unseen = samples::findings(10, &[], 1);
        unseen.tally.total.syn_unknown = 10;
        assert!(value(&unseen)["late"]["syn-resent"].is_null());
    }

    #[test]
    fn lost_session_is_a_loss_with_its_reload() {
        let mut findings = samples::findings(100, &[(1500, Failure::Empty)], 2);
        assert!(value(&findings)["hold"].is_null());
        findings.sessions = Some(samples::sessions(19, &[(2100, Failure::ResetAfterConnect)], ReceiptsCut::Count(2)));
        let value = value(&findings);
        assert_eq!(
            value["hold"],
            serde_json::json!({
                "what": "requests", "sessions": 20, "alive": 19, "lost": 1, "reasons": { "reset": 1 },
                "ends": [{ "at-us": 2_100_000, "reload": 2, "reason": "reset" }],
                "receipts-cut": 2, "seen-cut": 2, "receipts-agree": true,
            })
        );
        findings.tally = samples::findings(100, &[], 2).tally;
        assert_eq!(verdict(&findings), Verdict::Lost);
    }

    #[test]
    fn failures_of_this_machine_have_a_key_of_their_own() {
        let both = value(&samples::findings(1000, &[(1001, Failure::Local(24)), (1002, Failure::Timeout)], 1));
        assert_eq!(
            (&both["total"], &both["lost"]["total"], &both["not-carried"]),
            (&1001.into(), &1.into(), &1.into())
        );
        assert_eq!(both["lost"]["reasons"], serde_json::json!({ "timeout": 1 }));
    }

    #[test]
    fn unmeasured_run_has_no_figures() {
        let short = value(&samples::findings(1000, &[(1, Failure::Local(24))], 2));
        assert_eq!(short["result"], "unmeasured");
        for key in ["total", "served", "lost", "late", "seconds", "reloads", "not-carried", "unfinished"] {
            assert!(short[key].is_null(), "{key}");
        }
        assert!(short["latency-us"]["max"].is_null() && short["reason"].as_str().unwrap().contains("--rate"));
    }
}
