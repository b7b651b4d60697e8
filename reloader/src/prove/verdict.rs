//! What the findings say. Pure.

use std::fmt;

use hdrhistogram::Histogram;

use super::findings::{Findings, Reloaded};
use super::tally::{Class, Loss};
use crate::load::{Failure, MAX_START_DELAY, kept_schedule};
use crate::units::format_micros;

/// The one sentence that everything is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every connection was served, through every reload.
    Lossless,
    /// Connections were lost.
    Lost,
    /// Nothing was lost, but a reload failed.
    ReloadFailed,
    /// Nothing can be said, for this reason: the figures would be the generator's, not the service's.
    Unmeasured(String),
}

impl Verdict {
    /// What scripts read.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Lossless => "lossless",
            Verdict::Lost => "lost",
            Verdict::ReloadFailed => "reload-failed",
            Verdict::Unmeasured(_) => "unmeasured",
        }
    }
}

/// The verdict on a run.
pub fn verdict(findings: &Findings) -> Verdict {
    if let Some(reason) = fell_behind(findings) {
        return Verdict::Unmeasured(reason);
    }
    // A service that hangs uses up this machine's descriptors: what it lost by then, it has lost.
    if findings.tally.lost() > 0 {
        return Verdict::Lost;
    }
    if let Some(reason) = uncarried(findings).or_else(|| unfinished(findings)) {
        return Verdict::Unmeasured(reason);
    }
    if findings.a_reload_failed() {
        return Verdict::ReloadFailed;
    }
    match findings.reloads.is_empty() {
        true => Verdict::Unmeasured("it ended before anything was reloaded".into()),
        false => Verdict::Lossless,
    }
}

/// Late starts are looked at twice: reloads are what may keep the generator from its work, and what is to be proven.
fn fell_behind(findings: &Findings) -> Option<String> {
    let tally = &findings.tally;
    let behind = match (kept_schedule(&tally.total.lag), kept_schedule(&tally.lag_in_reloads)) {
        (false, _) => format!(": {}", late_starts(&tally.total.lag)),
        (true, false) => format!(" while reloads were under way: {}", late_starts(&tally.lag_in_reloads)),
        (true, true) if findings.latest_start > MAX_START_DELAY => {
            format!(
                ": what was due {:.0} ms before the end was not started",
                findings.latest_start.as_secs_f64() * 1000.0
            )
        }
        (true, true) => return None,
    };
    Some(format!(
        "the generator fell behind its schedule of {}/s{behind}; give a lower --rate, or a machine with less to do",
        findings.settings.rate
    ))
}

fn late_starts(lag: &Histogram<u64>) -> String {
    let ms = |micros: u64| micros as f64 / 1000.0;
    let (p99, max) = (lag.value_at_quantile(0.99), lag.max());
    format!("one start in a hundred was more than {:.0} ms late, the latest {:.0} ms", ms(p99), ms(max))
}

fn uncarried(findings: &Findings) -> Option<String> {
    let (tally, rate) = (&findings.tally, findings.settings.rate);
    let unit = findings.settings.protocol.unit();
    if let (Some(count), Some(pool)) =
        (tally.reasons.get(&Failure::NoFreeConnection), findings.settings.protocol.keep_alive)
    {
        let median = format_micros(tally.total.latency.value_at_quantile(0.5));
        return Some(format!(
            "{pool} connections could not carry {rate} {unit}/s: for {count} of {} none was free in time, though the service \
             answered (half of it within {median}, from when it was due); give more by --keep-alive=N, or a lower --rate",
            tally.total.connections
        ));
    }
    let (text, count) = tally.total.local.iter().next()?;
    Some(format!(
        "this machine could not carry {rate} {unit}/s: {count} of {} failed on it, not on the service ({text}); give a lower --rate",
        tally.total.connections
    ))
}

fn unfinished(findings: &Findings) -> Option<String> {
    let count = findings.unfinished;
    (count > 0).then(|| format!("it was cut short while {count} {} were open", findings.settings.protocol.unit()))
}

/// What else is to be said beside a loss: what the figures leave out.
pub(super) fn left_out(findings: &Findings) -> Vec<String> {
    let unit = findings.settings.protocol.unit();
    let own = findings.tally.total.local.iter();
    let mut words: Vec<String> = own
        .map(|(text, count)| format!("{count} more {unit} failed on this machine, not on the service ({text})"))
        .collect();
    if findings.unfinished > 0 {
        words.push(format!("{} more {unit} were open when it was cut short", findings.unfinished));
    }
    if let Some(before) =
        losses_by_reload(findings).and_then(|losses| losses.last().copied()).filter(|count| *count > 0)
    {
        words.push(format!("{before} of those lost were lost before the first reload"));
    }
    words
}

/// How many were lost by each reload, and last how many before the first; `None` where so many were lost that they were not
/// kept one by one.
pub(super) fn losses_by_reload(findings: &Findings) -> Option<Vec<u64>> {
    let is_whole = findings.tally.losses.len() as u64 == findings.tally.lost();
    is_whole.then(|| losses_of(&findings.tally.losses, &findings.reloads))
}

/// How many were lost by each reload, and last how many before the first of them. A connection belongs to the first reload
/// that its life overlaps, and else to the one before it: an old process may end well after the reload.
pub fn losses_of(losses: &[Loss], reloads: &[Reloaded]) -> Vec<u64> {
    let mut counts = vec![0; reloads.len() + 1];
    for loss in losses {
        let overlaps = |reload: &Reloaded| loss.due <= reload.at + reload.took && loss.over >= reload.at;
        let index = reloads
            .iter()
            .position(overlaps)
            .or_else(|| reloads.iter().rposition(|reload| reload.at <= loss.due))
            .unwrap_or(reloads.len());
        counts[index] += 1;
    }
    counts
}

/// The verdict in one sentence.
pub(super) fn sentence(findings: &Findings, verdict: &Verdict) -> String {
    let settings = &findings.settings;
    let (total, unit) = (findings.tally.tried(), settings.protocol.unit());
    let reloads = Reloads(findings.reloads.len());
    match verdict {
        Verdict::Lossless => format!("none of {total} {unit} was lost at {}/s through {reloads}", settings.rate),
        Verdict::Lost => {
            let (lost, were) = (findings.tally.lost(), if findings.tally.lost() == 1 { "was" } else { "were" });
            format!("{lost} of {total} {unit} {were} lost at {}/s through {reloads}", settings.rate)
        }
        Verdict::ReloadFailed => format!("none of {total} {unit} was lost, but the last of {reloads} failed"),
        Verdict::Unmeasured(reason) => reason.clone(),
    }
}

struct Reloads(usize);

impl fmt::Display for Reloads {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.0, if self.0 == 1 { "reload" } else { "reloads" })
    }
}

/// What was lost, by class: `12 refused, 3 reset`.
pub(super) fn lost_words(findings: &Findings) -> String {
    let counted = Class::ALL.iter().map(|class| (findings.tally.count(*class), class.words()));
    let words: Vec<String> =
        counted.filter(|(count, _)| *count > 0).map(|(count, words)| format!("{count} {words}")).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::Failure;
    use crate::prove::Way;
    use crate::prove::findings::samples;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn lossless_needs_a_reload_and_no_loss() {
        let good = samples::findings(1000, &[], 3);
        assert_eq!(verdict(&good), Verdict::Lossless);
        assert!(matches!(verdict(&samples::findings(1000, &[], 0)), Verdict::Unmeasured(_)));
        let lost = samples::findings(1000, &[(1500, Failure::Refused)], 3);
        assert_eq!(verdict(&lost), Verdict::Lost);
        assert_eq!(sentence(&lost, &Verdict::Lost), "1 of 1001 connections was lost at 1000/s through 3 reloads");
        assert_eq!(lost_words(&lost), "1 refused");
    }

    #[test]
    fn a_failed_reload_is_no_proof() {
        let mut failed = samples::findings(1000, &[], 2);
        failed.reloads[1].attempt.way = Way::Failed;
        assert_eq!(verdict(&failed), Verdict::ReloadFailed);
    }

    #[track_caller]
    fn unmeasured(findings: &Findings) -> String {
        match verdict(findings) {
            Verdict::Unmeasured(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_this_machine_cannot_carry_is_no_loss_of_the_service() {
        let short = samples::findings(1000, &[(1500, Failure::Local(24))], 3);
        let reason = unmeasured(&short);
        assert!(reason.contains("--rate") && reason.contains("EMFILE"), "{reason}");
    }

    /// A service that hangs takes a descriptor for each connection, until there is none.
    #[test]
    fn a_loss_stays_one_where_this_machine_came_to_its_limit_too() {
        let both = samples::findings(1000, &[(1500, Failure::Local(24)), (1600, Failure::Timeout)], 3);
        assert_eq!(verdict(&both), Verdict::Lost);
        assert_eq!(sentence(&both, &Verdict::Lost), "1 of 1001 connections was lost at 1000/s through 3 reloads");
        assert!(left_out(&both)[0].starts_with("1 more connections failed on this machine"), "{:?}", left_out(&both));
    }

    #[test]
    fn a_pool_that_is_too_small_is_told_as_such() {
        let mut few = samples::findings(1000, &[(1500, Failure::NoFreeConnection)], 3);
        few.settings.protocol.keep_alive = Some(50);
        let reason = unmeasured(&few);
        assert!(
            reason.contains("50 connections could not carry 1000 requests/s") && reason.contains("--keep-alive=N"),
            "{reason}"
        );
    }

    #[test]
    fn a_late_generator_measures_nothing() {
        let mut late = samples::findings(1000, &[(1500, Failure::Refused)], 3);
        late.tally.total.lag.saturating_record_n(400_000, 20);
        assert!(unmeasured(&late).contains("fell behind"));
        let mut late_in_reloads = samples::findings(1000, &[], 3);
        late_in_reloads.tally.lag_in_reloads.saturating_record_n(1_000, 90);
        assert_eq!(verdict(&late_in_reloads), Verdict::Lossless);
        late_in_reloads.tally.lag_in_reloads.saturating_record_n(20_000, 10);
        assert!(unmeasured(&late_in_reloads).contains("while reloads were under way"));
        let mut late_at_the_end = samples::findings(1000, &[], 3);
        late_at_the_end.latest_start = 300 * MS;
        assert!(unmeasured(&late_at_the_end).contains("due 300 ms before the end"));
    }

    #[test]
    fn what_was_abandoned_may_have_been_lost() {
        let mut abandoned = samples::findings(1000, &[], 3);
        (abandoned.cut_short, abandoned.unfinished) = (Some(2), 7);
        assert!(unmeasured(&abandoned).contains("7 connections were open"));
    }

    #[test]
    fn where_losses_were_not_all_kept_no_reload_is_said_to_have_lost_none() {
        let many: Vec<(u64, Failure)> = (0..20_001).map(|millis| (1000 + millis, Failure::Refused)).collect();
        assert_eq!(losses_by_reload(&samples::findings(0, &many, 3)), None);
        assert_eq!(losses_by_reload(&samples::findings(0, &many[..20_000], 3)).unwrap().iter().sum::<u64>(), 20_000);
        let early = samples::findings(1000, &[(5, Failure::Refused)], 1);
        assert_eq!(left_out(&early), ["1 of those lost were lost before the first reload"]);
    }

    #[test]
    fn a_loss_belongs_to_the_reload_that_it_overlaps_or_follows() {
        let reloads = samples::findings(0, &[], 3).reloads;
        let loss = |due: u32, over: u32| Loss { due: MS * due, over: MS * over, class: Class::Reset };
        assert_eq!(losses_of(&[loss(10, 20)], &reloads), [0, 0, 0, 1]);
        assert_eq!(losses_of(&[loss(990, 1001), loss(1500, 1501), loss(2000, 2001)], &reloads), [2, 1, 0, 0]);
        assert_eq!(losses_of(&[loss(9000, 9900)], &reloads), [0, 0, 1, 0]);
        assert_eq!(losses_of(&[loss(1, 2)], &[]), [1]);
    }
}
