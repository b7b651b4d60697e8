//! The object that `--json` prints, an interface: see `docs/guide/prove.md`. What was not measured is null.

use std::collections::BTreeMap;

use serde::Serialize;

use super::findings::{Findings, Settings};
use super::tally::Class;
use super::verdict::{Verdict, losses_by_reload, sentence};

/// The whole of it.
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

/// Of findings. Where the verdict is that nothing was measured, there are no figures in it.
pub fn json(findings: &Findings, verdict: &Verdict) -> Json {
    if let Verdict::Unmeasured(reason) = verdict {
        let address = Some(findings.address.clone());
        let (at, kernel) = (Some(findings.at.clone()), findings.kernel.clone());
        let cut_short = Some(findings.cut_short.is_some());
        let bare = json_without_figures(&findings.settings, verdict.word(), reason);
        return Json { address, at, kernel, cut_short, ..bare };
    }
    let tally = &findings.tally;
    let quantile = |share| (tally.total.ok > 0).then(|| tally.total.latency.value_at_quantile(share));
    let within = &tally.lag_in_reloads;
    let quantile_in_reloads = |share| (!within.is_empty()).then(|| within.value_at_quantile(share));
    let keeps = findings.settings.protocol.keep_alive.is_some();
    Json {
        reason: Some(sentence(findings, verdict)),
        cut_short: Some(findings.cut_short.is_some()),
        address: Some(findings.address.clone()),
        at: Some(findings.at.clone()),
        kernel: findings.kernel.clone(),
        // To the microsecond, as all the other times.
        seconds: Some(crate::units::to_micros(findings.lasted) as f64 / 1e6),
        total: Some(tally.tried()),
        served: Some(tally.total.ok),
        lost: Some(lost(findings)),
        late: Some(Late {
            total: tally.late,
            slow: tally.total.slow,
            syn_resent: findings.sees_syns().then_some(tally.total.syn_resent),
        }),
        not_carried: Some(tally.own()),
        unfinished: Some(findings.unfinished),
        segments_resent: findings.sees_syns().then_some(tally.total.segments_resent),
        connections: Some(findings.connections),
        closed_between: keeps.then_some(findings.closed_between),
        latency_us: Latency {
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: quantile(1.0),
        },
        schedule_us: Schedule {
            late_p99: Some(tally.total.lag.value_at_quantile(0.99)),
            late_max: Some(tally.total.lag.max()),
            reloads_late_p99: quantile_in_reloads(0.99),
            reloads_late_max: quantile_in_reloads(1.0),
        },
        reloads: Some(reloads(findings)),
        ..json_without_figures(&findings.settings, verdict.word(), "")
    }
}

/// Of a run that has none: `result` and `reason` say why.
pub fn json_without_figures(settings: &Settings, result: &str, reason: &str) -> Json {
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
        reloads: None,
    }
}

fn lost(findings: &Findings) -> Lost {
    let tally = &findings.tally;
    let reasons = tally.reasons.iter().filter(|(failure, _)| Class::of(**failure).is_some());
    Lost {
        total: tally.lost(),
        refused: tally.count(Class::Refused),
        reset: tally.count(Class::Reset),
        empty: tally.count(Class::Empty),
        cut_short: tally.count(Class::CutShort),
        timed_out: tally.count(Class::TimedOut),
        bad_status: tally.count(Class::BadStatus),
        tls: tally.count(Class::Tls),
        other: tally.count(Class::Other),
        reasons: reasons.map(|(failure, count)| (failure.to_string(), *count)).collect(),
    }
}

fn reloads(findings: &Findings) -> Vec<Reload> {
    let losses = losses_by_reload(findings);
    let told = findings.reloads.iter().enumerate().map(|(index, reload)| Reload {
        at_us: crate::units::to_micros(reload.at),
        took_us: crate::units::to_micros(reload.took),
        result: reload.attempt.way.word(),
        said: reload.attempt.said.clone(),
        output: reload.attempt.output.clone(),
        lost: losses.as_ref().map(|losses| losses[index]),
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Failure;
    use crate::prove::findings::samples;
    use crate::prove::verdict;

    fn value(findings: &Findings) -> serde_json::Value {
        serde_json::to_value(json(findings, &verdict(findings))).unwrap()
    }

    #[test]
    fn figures_are_there_and_what_was_not_measured_is_null() {
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
    fn what_this_machine_could_not_carry_stands_apart() {
        let both = value(&samples::findings(1000, &[(1001, Failure::Local(24)), (1002, Failure::Timeout)], 1));
        assert_eq!(
            (&both["total"], &both["lost"]["total"], &both["not-carried"]),
            (&1001.into(), &1.into(), &1.into())
        );
        assert_eq!(both["lost"]["reasons"], serde_json::json!({ "timeout": 1 }));
    }

    #[test]
    fn an_unmeasured_run_has_no_figures() {
        let short = value(&samples::findings(1000, &[(1, Failure::Local(24))], 2));
        assert_eq!(short["result"], "unmeasured");
        for key in ["total", "served", "lost", "late", "seconds", "reloads", "not-carried", "unfinished"] {
            assert!(short[key].is_null(), "{key}");
        }
        assert!(short["latency-us"]["max"].is_null() && short["reason"].as_str().unwrap().contains("--rate"));
    }
}
