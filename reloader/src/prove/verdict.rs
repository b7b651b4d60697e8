//! The verdict on a run.

use hdrhistogram::Histogram;

use super::findings::Findings;
use crate::load::{Failure, MAX_START_DELAY, kept_schedule};
use crate::units::format_micros;

/// What a run proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every connection was served, and every long session lived, through every reload.
    Lossless,
    /// Connections or long sessions were lost.
    Lost,
    /// Nothing was lost, but a reload failed.
    ReloadFailed,
    /// The run proves nothing, for this reason. Its figures would describe the load generator and not the service.
    Unmeasured(String),
}

impl Verdict {
    /// The word for this verdict in the JSON object and the reports.
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
    // Losses are checked before the limits of this machine. A service that hangs uses up the machine's descriptors, but the connections that
    // were lost before that are losses all the same.
    if findings.tally.lost() > 0 || findings.lost_sessions() > 0 {
        return Verdict::Lost;
    }
    if let Some(reason) = not_carried(findings).or_else(|| unfinished(findings)) {
        return Verdict::Unmeasured(reason);
    }
    if findings.has_failed_reload() {
        return Verdict::ReloadFailed;
    }
    match findings.reloads.is_empty() {
        true => Verdict::Unmeasured("the run ended before the first reload".into()),
        false => Verdict::Lossless,
    }
}

/// Checks the start delays of the whole load, and then the start delays during reloads alone. Reloads may take the processor from the generator,
/// and only the time of the reloads proves anything.
fn fell_behind(findings: &Findings) -> Option<String> {
    let tally = &findings.tally;
    let behind = match (kept_schedule(&tally.total.lag), kept_schedule(&tally.lag_in_reloads)) {
        (false, _) => format!(": {}", late_starts(&tally.total.lag)),
        (true, false) => format!(" while reloads were under way: {}", late_starts(&tally.lag_in_reloads)),
        (true, true) if findings.max_start_delay > MAX_START_DELAY => format!(
            ": a connection that was due {:.0} ms before the end was not started",
            findings.max_start_delay.as_secs_f64() * 1000.0
        ),
        (true, true) => return None,
    };
    Some(format!(
        "the generator fell behind its schedule of {}/s{behind}; give a lower --rate, or use a machine that is less busy",
        findings.settings.rate
    ))
}

fn late_starts(lag: &Histogram<u64>) -> String {
    let ms = |micros: u64| micros as f64 / 1000.0;
    let (p99, max) = (lag.value_at_quantile(0.99), lag.max());
    format!("one start in a hundred was more than {:.0} ms late, the latest {:.0} ms", ms(p99), ms(max))
}

fn not_carried(findings: &Findings) -> Option<String> {
    let (tally, rate) = (&findings.tally, findings.settings.rate);
    let unit = findings.settings.protocol.unit();
    if let (Some(count), Some(pool)) =
        (tally.reasons.get(&Failure::NoFreeConnection), findings.settings.protocol.keep_alive)
    {
        let median = format_micros(tally.total.latency.value_at_quantile(0.5));
        return Some(format!(
            "{pool} connections could not carry {rate} {unit}/s: for {count} of {} none was free in time, although the service \
             answered (half of the {unit} ended within {median} after they were due); give more connections by \
             --keep-alive=N, or a lower --rate",
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
    (count > 0).then(|| format!("the run was cut short while {count} {} were open", findings.settings.protocol.unit()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::prove::reload_method::ReloadResult;
    use crate::prove::samples;

    #[track_caller]
    fn unmeasured(findings: &Findings) -> String {
        match verdict(findings) {
            Verdict::Unmeasured(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lossless_needs_a_reload_and_no_loss() {
        assert_eq!(verdict(&samples::findings(1000, &[], 3)), Verdict::Lossless);
        assert!(unmeasured(&samples::findings(1000, &[], 0)).contains("before the first reload"));
        assert_eq!(verdict(&samples::findings(1000, &[(1500, Failure::Refused)], 3)), Verdict::Lost);
    }

    #[test]
    fn failed_reload_without_a_loss_has_its_own_verdict() {
        let mut failed = samples::findings(1000, &[], 2);
        failed.reloads[1].report.result = ReloadResult::Failed;
        assert_eq!(verdict(&failed), Verdict::ReloadFailed);
    }

    #[test]
    fn failure_of_this_machine_is_not_a_loss_of_the_service() {
        let short = samples::findings(1000, &[(1500, Failure::Local(24))], 3);
        let reason = unmeasured(&short);
        assert!(reason.contains("--rate") && reason.contains("EMFILE"), "{reason}");
    }

    /// A service that hangs takes a descriptor for each connection, until none is left.
    #[test]
    fn loss_stays_a_loss_where_this_machine_reached_its_limit_too() {
        let both = samples::findings(1000, &[(1500, Failure::Local(24)), (1600, Failure::Timeout)], 3);
        assert_eq!(verdict(&both), Verdict::Lost);
    }

    #[test]
    fn pool_that_is_too_small_is_named_as_the_reason() {
        let mut few = samples::findings(1000, &[(1500, Failure::NoFreeConnection)], 3);
        few.settings.protocol.keep_alive = Some(50);
        let reason = unmeasured(&few);
        assert!(
            reason.contains("50 connections could not carry 1000 requests/s") && reason.contains("--keep-alive=N"),
            "{reason}"
        );
    }

    #[test]
    fn late_generator_measures_nothing() {
        let mut late = samples::findings(1000, &[(1500, Failure::Refused)], 3);
        late.tally.total.lag.saturating_record_n(400_000, 20);
        assert!(unmeasured(&late).contains("fell behind"));
        let mut late_in_reloads = samples::findings(1000, &[], 3);
        late_in_reloads.tally.lag_in_reloads.saturating_record_n(1_000, 90);
        assert_eq!(verdict(&late_in_reloads), Verdict::Lossless);
        late_in_reloads.tally.lag_in_reloads.saturating_record_n(20_000, 10);
        assert!(unmeasured(&late_in_reloads).contains("while reloads were under way"));
        let mut late_at_the_end = samples::findings(1000, &[], 3);
        late_at_the_end.max_start_delay = Duration::from_millis(300);
        assert!(unmeasured(&late_at_the_end).contains("due 300 ms before the end"));
    }

    #[test]
    fn abandoned_connections_leave_the_run_unmeasured() {
        let mut abandoned = samples::findings(1000, &[], 3);
        (abandoned.cut_short, abandoned.unfinished) = (Some(2), 7);
        assert!(unmeasured(&abandoned).contains("7 connections were open"));
    }
}
