//! The findings on a terminal.

use super::findings::{Findings, Way};
use super::verdict::{Verdict, left_out, losses_by_reload, lost_words, sentence};

/// A few lines; the first is the verdict.
pub fn text(findings: &Findings, verdict: &Verdict, word: &str) -> String {
    let mut lines = vec![format!("{word}: {}", sentence(findings, verdict))];
    if matches!(verdict, Verdict::Unmeasured(_)) {
        return lines.remove(0) + "\n";
    }
    let tally = &findings.tally;
    if tally.lost() > 0 {
        lines.push(format!("lost       {}", lost_words(findings)));
    }
    if tally.late > 0 {
        lines.push(format!("late       {}", late_words(findings)));
    }
    if tally.total.ok > 0 {
        lines.push(format!("latency    {}", latency_words(findings)));
    }
    if findings.settings.protocol.keep_alive.is_some() {
        lines.push(format!(
            "kept       {} connections made, {} closed by the service between two requests",
            findings.connections, findings.closed_between
        ));
    }
    lines.push(format!("reloads    {}", reload_words(findings)));
    lines.push(format!("schedule   {}", schedule_words(findings)));
    lines.extend(left_out(findings).into_iter().map(|words| format!("besides    {words}")));
    lines.extend(findings.settings.doubt.iter().map(|doubt| format!("doubt      {doubt}")));
    if let Some(signal) = findings.cut_short {
        lines.push(format!(
            "cut short  by signal {signal}, after {} of {} reloads",
            findings.reloads.len(),
            findings.settings.reloads
        ));
    }
    lines.join("\n") + "\n"
}

/// Served, but late.
pub(super) fn late_words(findings: &Findings) -> String {
    let total = &findings.tally.total;
    let mut words = format!("{} served late: {} took over 900 ms", findings.tally.late, total.slow);
    if findings.sees_syns() {
        words.push_str(&format!(", {} had to send their SYN again", total.syn_resent));
    }
    words
}

fn latency_words(findings: &Findings) -> String {
    let latency = &findings.tally.total.latency;
    let at = |share| tenths(latency.value_at_quantile(share));
    format!("p50 {}, p99 {}, p99.9 {}, max {}", at(0.5), at(0.99), at(0.999), tenths(latency.max()))
}

/// Whether the figures are those of an open loop can be judged from how late it was.
pub(super) fn schedule_words(findings: &Findings) -> String {
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

fn reload_words(findings: &Findings) -> String {
    let count = findings.reloads.len();
    let mut words = count.to_string();
    for way in [Way::Proven, Way::Unproven, Way::Failed] {
        let so = findings.reloads.iter().filter(|reload| reload.attempt.way == way).count();
        if so > 0 {
            words.push_str(&format!(", {so} {}", way.word()));
        }
    }
    let losing = losses_by_reload(findings).map(|losses| losses[..count].iter().filter(|lost| **lost > 0).count());
    if let Some(losing) = losing.filter(|losing| *losing > 0) {
        words.push_str(&format!(", {losing} of which lost something"));
    }
    if let Some(longest) = findings.longest_reload() {
        words.push_str(&format!(", the longest {}", tenths(crate::units::to_micros(longest))));
    }
    words
}

/// All in one unit, so that figures of several runs can be set below each other.
fn tenths(micros: u64) -> String {
    format!("{:.1} ms", micros as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Failure;
    use crate::prove::findings::samples;
    use crate::prove::verdict;

    #[test]
    fn the_verdict_comes_first_and_then_what_it_rests_on() {
        let lost = samples::findings(3000, &[(1001, Failure::Refused), (1002, Failure::ResetAfterConnect)], 2);
        let said = text(&lost, &verdict(&lost), "lost");
        assert!(said.starts_with("lost: 2 of 3002 connections were lost at 1000/s through 2 reloads\n"), "{said}");
        assert!(said.contains("\nlost       1 refused, 1 reset\n"), "{said}");
        assert!(said.contains("\nreloads    2, 1 of which lost something, the longest 40.0 ms\n"), "{said}");
    }

    #[test]
    fn more_losses_than_were_kept_are_laid_to_no_reload() {
        let many: Vec<(u64, Failure)> = (0..20_001).map(|millis| (1000 + millis, Failure::Refused)).collect();
        let lost = samples::findings(0, &many, 25);
        let said = text(&lost, &verdict(&lost), "lost");
        assert!(said.contains("\nreloads    25, the longest"), "{said}");
    }

    #[test]
    fn a_doubt_is_told_beside_the_verdict() {
        let mut elsewhere = samples::findings(3000, &[], 2);
        elsewhere.settings.doubt = Some("the daemon serves nothing there".into());
        let said = text(&elsewhere, &verdict(&elsewhere), "lossless");
        assert!(said.ends_with("\ndoubt      the daemon serves nothing there\n"), "{said}");
    }

    #[test]
    fn an_unmeasured_run_is_one_line() {
        let short = samples::findings(1000, &[(1, Failure::Local(24))], 2);
        assert_eq!(text(&short, &verdict(&short), "unmeasured").lines().count(), 1);
    }
}
