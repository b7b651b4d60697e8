//! The text that `reloader prove` prints.

use super::attribution::losses_per_reload;
use super::findings::Findings;
use super::reload_method::ReloadResult;
use super::sentences::{
    exclusions, late_sentence, losses_by_class, receipts_sentence, schedule_sentence, sessions_sentence, tenths,
    verdict_sentence,
};
use super::verdict::Verdict;
use crate::units::to_micros;

/// A few lines. The first one is the verdict, after `word`: its word, which may be coloured.
pub fn text(findings: &Findings, verdict: &Verdict, word: &str) -> String {
    let first = format!("{word}: {}\n", verdict_sentence(findings, verdict));
    if matches!(verdict, Verdict::Unmeasured(_)) {
        return first;
    }
    let lines = rows(findings).into_iter().map(|(name, value)| format!("{name:<10} {value}\n"));
    std::iter::once(first).chain(lines).collect()
}

fn rows(findings: &Findings) -> Vec<(&'static str, String)> {
    let tally = &findings.tally;
    let mut rows = Vec::new();
    if tally.lost() > 0 {
        rows.push(("lost", losses_by_class(findings)));
    }
    if tally.late > 0 {
        rows.push(("late", late_sentence(findings)));
    }
    if tally.total.ok > 0 {
        rows.push(("latency", latencies(findings)));
    }
    if findings.settings.protocol.keep_alive.is_some() {
        let (made, closed) = (findings.connections, findings.closed_between);
        rows.push(("kept", format!("{made} connections made, {closed} closed by the service between two requests")));
    }
    if let Some(sessions) = &findings.sessions {
        rows.push(("held", sessions_sentence(sessions, &findings.reloads)));
    }
    rows.push(("reloads", reloads(findings)));
    rows.extend(receipts_sentence(findings).map(|sentence| ("receipts", sentence)));
    rows.push(("schedule", schedule_sentence(findings)));
    rows.extend(exclusions(findings).into_iter().map(|sentence| ("also", sentence)));
    rows.extend(findings.settings.doubt.iter().map(|doubt| ("doubt", doubt.clone())));
    if let Some(signal) = findings.cut_short {
        let (done, all) = (findings.reloads.len(), findings.settings.reloads);
        rows.push(("cut short", format!("by signal {signal}, after {done} of {all} reloads")));
    }
    rows
}

fn latencies(findings: &Findings) -> String {
    let latency = &findings.tally.total.latency;
    let at = |share| tenths(latency.value_at_quantile(share));
    format!("p50 {}, p99 {}, p99.9 {}, max {}", at(0.5), at(0.99), at(0.999), tenths(latency.max()))
}

fn reloads(findings: &Findings) -> String {
    let total = findings.reloads.len();
    let mut words = total.to_string();
    for result in [ReloadResult::Proven, ReloadResult::Unproven, ReloadResult::Failed] {
        let count = findings.reloads.iter().filter(|reload| reload.report.result == result).count();
        if count > 0 {
            words.push_str(&format!(", {count} {}", result.word()));
        }
    }
    let losing = losses_per_reload(findings).map(|losses| losses[..total].iter().filter(|lost| **lost > 0).count());
    if let Some(losing) = losing.filter(|losing| *losing > 0) {
        words.push_str(&format!(", {losing} of which lost something"));
    }
    if let Some(longest) = findings.longest_reload() {
        words.push_str(&format!(", the longest {}", tenths(to_micros(longest))));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Failure;
    use crate::prove::samples;
    use crate::prove::verdict::verdict;

    fn text_of(findings: &Findings) -> String {
        let verdict = verdict(findings);
        text(findings, &verdict, verdict.word())
    }

    #[test]
    fn verdict_comes_first_and_the_figures_after_it() {
        let lost = samples::findings(3000, &[(1001, Failure::Refused), (1002, Failure::ResetAfterConnect)], 2);
        let text = text_of(&lost);
        assert!(text.starts_with("lost: 2 of 3002 connections were lost at 1000/s through 2 reloads\n"), "{text}");
        assert!(text.contains("\nlost       1 refused, 1 reset\n"), "{text}");
        assert!(text.contains("\nreloads    2, 1 of which lost something, the longest 40.0 ms\n"), "{text}");
    }

    #[test]
    fn incompletely_recorded_losses_are_counted_for_no_reload() {
        let many: Vec<(u64, Failure)> = (0..20_001).map(|millis| (1000 + millis, Failure::Refused)).collect();
        let text = text_of(&samples::findings(0, &many, 25));
        assert!(text.contains("\nreloads    25, the longest"), "{text}");
    }

    #[test]
    fn doubt_is_printed_after_the_verdict() {
        let mut elsewhere = samples::findings(3000, &[], 2);
        elsewhere.settings.doubt = Some("the daemon serves nothing there".into());
        let text = text_of(&elsewhere);
        assert!(text.ends_with("\ndoubt      the daemon serves nothing there\n"), "{text}");
    }

    #[test]
    fn unmeasured_run_is_one_line() {
        let short = samples::findings(1000, &[(1, Failure::Local(24))], 2);
        assert_eq!(text_of(&short).lines().count(), 1);
    }
}
