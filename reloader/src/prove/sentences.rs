//! Writes the sentences about findings that the text, the JSON object and the HTML report share.

use super::attribution::{last_reload_at, losses_per_reload};
use super::findings::{Findings, TimedReload};
use super::loss::LossClass;
use super::reload_method::ReceiptsCut;
use super::sessions::SessionFindings;
use super::verdict::Verdict;

/// The verdict in one sentence.
pub(super) fn verdict_sentence(findings: &Findings, verdict: &Verdict) -> String {
    let settings = &findings.settings;
    let (total, unit) = (findings.tally.tried(), settings.protocol.unit());
    let reloads = match findings.reloads.len() {
        1 => "1 reload".to_owned(),
        count => format!("{count} reloads"),
    };
    match verdict {
        Verdict::Lossless | Verdict::Lost => {
            let sessions = findings
                .sessions
                .as_ref()
                .map(|sessions| format!(", and {} long sessions", share_lost(sessions.lost_count(), sessions.count())));
            let connections = format!("{} {unit}", share_lost(findings.tally.lost(), total));
            let were = if findings.tally.lost() <= 1 && sessions.is_none() { "was" } else { "were" };
            let sessions = sessions.unwrap_or_default();
            format!("{connections}{sessions} {were} lost at {}/s through {reloads}", settings.rate)
        }
        Verdict::ReloadFailed => format!("none of {total} {unit} was lost, but the last of {reloads} failed"),
        Verdict::Unmeasured(reason) => reason.clone(),
    }
}

/// `none of 20`, or `3 of 20`.
fn share_lost(lost: u64, all: u64) -> String {
    match lost {
        0 => format!("none of {all}"),
        lost => format!("{lost} of {all}"),
    }
}

/// What became of the long sessions.
pub(super) fn sessions_sentence(sessions: &SessionFindings, reloads: &[TimedReload]) -> String {
    let what = if sessions.has_request { "requests in progress" } else { "open connections" };
    let alive = sessions.count() - sessions.lost_count();
    let mut words = format!("{alive} of {} {what} lived to the end", sessions.count());
    if let Some((at, _)) = sessions.lost().first() {
        let reasons = sessions.reasons();
        let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let after = last_reload_at(*at, reloads)
            .map_or("before the first reload".to_owned(), |number| format!("in or after reload {number}"));
        words.push_str(&format!(
            "; lost: {}, the first {:.1} s after the start, {after}",
            reasons.join(", "),
            at.as_secs_f64()
        ));
    }
    words
}

/// Compares what the receipts say was cut with what was seen. `None` if there is nothing to compare.
pub(super) fn receipts_sentence(findings: &Findings) -> Option<String> {
    let seen = findings.seen_cut();
    match findings.sessions.as_ref()?.receipts {
        ReceiptsCut::Count(0) if seen == 0 => None,
        ReceiptsCut::Count(cut) if cut == seen => Some(format!("they say that {cut} were cut, as many as were seen")),
        ReceiptsCut::Count(cut) => Some(format!("they say that {cut} were cut, and {seen} were seen")),
        ReceiptsCut::Unknown if seen > 0 => Some(format!("they do not say how many were cut, and {seen} were seen")),
        ReceiptsCut::Unknown | ReceiptsCut::None => None,
    }
}

/// The losses by class: `12 refused, 3 reset`.
pub(super) fn losses_by_class(findings: &Findings) -> String {
    let counted = LossClass::ALL.iter().map(|class| (findings.tally.count(*class), class.words()));
    let words: Vec<String> =
        counted.filter(|(count, _)| *count > 0).map(|(count, words)| format!("{count} {words}")).collect();
    words.join(", ")
}

/// What the figures leave out, a sentence each.
pub(super) fn exclusions(findings: &Findings) -> Vec<String> {
    let unit = findings.settings.protocol.unit();
    let local = findings.tally.total.local.iter();
    let mut sentences: Vec<String> = local
        .map(|(text, count)| format!("{count} more {unit} failed on this machine, not on the service ({text})"))
        .collect();
    if findings.unfinished > 0 {
        sentences.push(format!("{} more {unit} were open when the run was cut short", findings.unfinished));
    }
    let before = losses_per_reload(findings).and_then(|losses| losses.last().copied());
    if let Some(before) = before.filter(|count| *count > 0) {
        sentences.push(format!("{before} of those lost were lost before the first reload"));
    }
    sentences
}

/// How many connections or requests were served late, and why.
pub(super) fn late_sentence(findings: &Findings) -> String {
    let total = &findings.tally.total;
    let mut words = format!("{} served late: {} took over 900 ms", findings.tally.late, total.slow);
    if findings.sees_syns() {
        words.push_str(&format!(", {} had to send their SYN again", total.syn_resent));
    }
    words
}

/// How late the generator started its connections. This tells whether the load was an open loop.
pub(super) fn schedule_sentence(findings: &Findings) -> String {
    let (all, within) = (&findings.tally.total.lag, &findings.tally.lag_in_reloads);
    let mut words = format!(
        "99 % of starts at most {} late, the latest {}",
        tenths(all.value_at_quantile(0.99)),
        tenths(all.max())
    );
    if !within.is_empty() {
        words.push_str(&format!(
            "; in reloads {} and {}",
            tenths(within.value_at_quantile(0.99)),
            tenths(within.max())
        ));
    }
    words
}

/// Formats microseconds as milliseconds with one decimal. The same unit everywhere makes several runs comparable.
pub(super) fn tenths(micros: u64) -> String {
    format!("{:.1} ms", micros as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Failure;
    use crate::prove::samples;
    use crate::prove::verdict::verdict;

    #[test]
    fn loss_is_counted_in_the_sentence_and_by_class() {
        let lost = samples::findings(1000, &[(1500, Failure::Refused)], 3);
        let sentence = verdict_sentence(&lost, &Verdict::Lost);
        assert_eq!(sentence, "1 of 1001 connections was lost at 1000/s through 3 reloads");
        assert_eq!(losses_by_class(&lost), "1 refused");
    }

    #[test]
    fn sessions_are_counted_in_the_sentence_and_compared_with_the_receipts() {
        let mut findings = samples::findings(1000, &[], 3);
        let sentence = |findings: &Findings| verdict_sentence(findings, &verdict(findings));
        findings.sessions = Some(samples::sessions(20, &[], ReceiptsCut::Count(0)));
        let lossless = "none of 1000 connections, and none of 20 long sessions were lost at 1000/s through 3 reloads";
        assert_eq!((sentence(&findings).as_str(), receipts_sentence(&findings)), (lossless, None));
        for (receipts, expected) in [
            (ReceiptsCut::Count(1), "they say that 1 were cut, as many as were seen"),
            (ReceiptsCut::Count(0), "they say that 0 were cut, and 1 were seen"),
            (ReceiptsCut::Unknown, "they do not say how many were cut, and 1 were seen"),
        ] {
            findings.sessions = Some(samples::sessions(19, &[(2100, Failure::ResetAfterConnect)], receipts));
            assert_eq!(receipts_sentence(&findings).as_deref(), Some(expected));
        }
        assert!(sentence(&findings).starts_with("none of 1000 connections, and 1 of 20 long sessions were lost"));
        let words = sessions_sentence(findings.sessions.as_ref().unwrap(), &findings.reloads);
        let expected = "19 of 20 requests in progress lived to the end; lost: 1 reset, the first 2.1 s after the start, in or after reload 2";
        assert_eq!(words, expected);
    }

    #[test]
    fn failure_of_this_machine_is_named_beside_the_losses() {
        let both = samples::findings(1000, &[(1500, Failure::Local(24)), (1600, Failure::Timeout)], 3);
        let sentence = verdict_sentence(&both, &Verdict::Lost);
        assert_eq!(sentence, "1 of 1001 connections was lost at 1000/s through 3 reloads");
        let exclusions = exclusions(&both);
        assert!(exclusions[0].starts_with("1 more connections failed on this machine"), "{exclusions:?}");
    }

    #[test]
    fn losses_before_the_first_reload_are_named() {
        let early = samples::findings(1000, &[(5, Failure::Refused)], 1);
        assert_eq!(exclusions(&early), ["1 of those lost were lost before the first reload"]);
    }
}
