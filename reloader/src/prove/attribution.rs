//! Assigns each loss to a reload.

use std::time::Duration;

use super::findings::{Findings, TimedReload};
use super::loss::Loss;

/// The number of losses of each reload, in order. The last element is the number of losses before the first reload. `None` if there were too
/// many losses to record each of them.
pub(super) fn losses_per_reload(findings: &Findings) -> Option<Vec<u64>> {
    let all_kept = findings.tally.losses.len() as u64 == findings.tally.lost();
    all_kept.then(|| count_losses(&findings.tally.losses, &findings.reloads))
}

/// A connection belongs to the first reload that it overlaps in time. A connection that overlaps no reload belongs to the reload before it,
/// because the old process may end well after the reload.
fn count_losses(losses: &[Loss], reloads: &[TimedReload]) -> Vec<u64> {
    let mut counts = vec![0; reloads.len() + 1];
    for loss in losses {
        let overlaps = |reload: &TimedReload| loss.due <= reload.begin + reload.took && loss.end >= reload.begin;
        let index = reloads
            .iter()
            .position(overlaps)
            .or_else(|| reloads.iter().rposition(|reload| reload.begin <= loss.due))
            .unwrap_or(reloads.len());
        counts[index] += 1;
    }
    counts
}

/// The number of the last reload that had begun at this time, counted from 1. `None` before the first one.
pub(super) fn last_reload_at(at: Duration, reloads: &[TimedReload]) -> Option<usize> {
    reloads.iter().rposition(|reload| reload.begin <= at).map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Failure;
    use crate::prove::loss::LossClass;
    use crate::prove::samples;

    #[test]
    fn loss_belongs_to_the_reload_that_it_overlaps_or_follows() {
        let reloads = samples::findings(0, &[], 3).reloads;
        let ms = |count: u64| Duration::from_millis(count);
        let loss = |due, end| Loss { due: ms(due), end: ms(end), class: LossClass::Reset };
        assert_eq!(count_losses(&[loss(10, 20)], &reloads), [0, 0, 0, 1]);
        assert_eq!(count_losses(&[loss(990, 1001), loss(1500, 1501), loss(2000, 2001)], &reloads), [2, 1, 0, 0]);
        assert_eq!(count_losses(&[loss(9000, 9900)], &reloads), [0, 0, 1, 0]);
        assert_eq!(count_losses(&[loss(1, 2)], &[]), [1]);
    }

    #[test]
    fn incompletely_recorded_losses_are_assigned_to_no_reload() {
        let many: Vec<(u64, Failure)> = (0..20_001).map(|millis| (1000 + millis, Failure::Refused)).collect();
        assert_eq!(losses_per_reload(&samples::findings(0, &many, 3)), None);
        assert_eq!(losses_per_reload(&samples::findings(0, &many[..20_000], 3)).unwrap().iter().sum::<u64>(), 20_000);
    }

    #[test]
    fn end_belongs_to_the_reload_under_way_or_the_last_one_before() {
        let reloads = samples::findings(0, &[], 3).reloads;
        let at = |ms| last_reload_at(Duration::from_millis(ms), &reloads);
        assert_eq!([at(10), at(1001), at(1500), at(2000), at(90_000)], [None, Some(1), Some(1), Some(2), Some(3)]);
    }
}
