//! Plans which way gets which share of the load, and when. Pure.

use reloader_tests::bench::{Share, Way};
use serde::{Deserialize, Serialize};

/// The default number of connections between two reloads: at 4,000/s a reload begins every second and a quarter.
const FOR_EACH_RELOAD: u64 = 5_000;
/// Connections of a share of a large load: ten seconds at 4,000/s.
const SHARE: u64 = 40_000;
const MOST_ROUNDS: u64 = 25;
/// How many rounds of a large load include the ways without reloader. Their losses show soon; a loss of reloader would be rare and needs the
/// whole load.
const OTHERS_ROUNDS: u64 = 5;
/// Connections in an emulated guest.
const GUEST_CONNECTIONS: u64 = 40_000;
/// Reloads in an emulated guest. One takes nearly half a second there, and the guest carries little more than a thousand connections a second.
const GUEST_RELOADS: u64 = 40;
const GUEST_ROUNDS: u64 = 2;

/// The load of each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Load {
    pub(super) connections: u64,
    pub(super) reloads: u64,
    /// New connections each second.
    pub(super) rate: u32,
    pub(super) rounds: u64,
    /// The number of rounds that include the ways without reloader.
    pub(super) others_rounds: u64,
}

/// One way's share in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) way: Way,
    pub(super) share: Share,
    pub(super) round: u64,
}

impl Load {
    /// The same load for all ways, or with `all` unset, less of a large load for the ways without reloader.
    pub(super) fn new(connections: u64, reloads: Option<u64>, rate: u32, all: bool) -> Load {
        let reloads = reloads.unwrap_or((connections / FOR_EACH_RELOAD).max(2));
        let rounds = (connections / SHARE).clamp(2, MOST_ROUNDS).min(reloads);
        let others_rounds = if all { rounds } else { rounds.min(OTHERS_ROUNDS) };
        Load { connections, reloads, rate, rounds, others_rounds }
    }

    /// The smaller load for a guest.
    pub(super) fn for_guest(&self) -> Load {
        let reloads = self.reloads.min(GUEST_RELOADS);
        let rounds = GUEST_ROUNDS.min(reloads);
        let connections = self.connections.min(GUEST_CONNECTIONS);
        Load { connections, reloads, rate: self.rate, rounds, others_rounds: rounds }
    }

    fn share(&self, round: u64) -> Share {
        let part = |whole: u64| whole * (round + 1) / self.rounds - whole * round / self.rounds;
        Share { connections: part(self.connections), rate: self.rate, reloads: part(self.reloads) }
    }

    /// The shares of a way that takes part in every round.
    pub(super) fn shares(&self) -> Vec<Share> {
        (0..self.rounds).map(|round| self.share(round)).collect()
    }

    /// Whether a way takes part in a round. Some ways take part in some of the rounds only. These rounds are evenly spread, so that a drift of
    /// the machine affects these ways as much as the others.
    fn takes_part(&self, way: Way, round: u64) -> bool {
        let middle = |index: u64| (2 * index + 1) * self.rounds / (2 * self.others_rounds);
        way.rung().is_some() || (0..self.others_rounds).any(|index| middle(index) == round)
    }

    /// All shares of all ways, in order. Every second round is reversed, so that a steady drift affects all ways equally. Every pair of rounds
    /// begins with another way, so that no way always follows the same one.
    pub(super) fn tasks(&self, ways: &[Way]) -> Vec<Task> {
        let mut tasks = Vec::new();
        for round in 0..self.rounds {
            let mut order = ways.to_vec();
            if !order.is_empty() {
                order.rotate_left((round / 2) as usize % ways.len());
            }
            if round % 2 == 1 {
                order.reverse();
            }
            order.retain(|way| self.takes_part(*way, round));
            tasks.extend(order.into_iter().map(|way| Task { way, share: self.share(round), round }));
        }
        tasks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_gets_the_whole_load() {
        for (connections, reloads) in [(1_000_000, None), (20_000, Some(7)), (2_000, None), (100, Some(1))] {
            let load = Load::new(connections, reloads, 4_000, true);
            for load in [load, load.for_guest()] {
                for way in Way::ALL {
                    let tasks = load.tasks(&Way::ALL);
                    let own: Vec<_> = tasks.iter().filter(|task| task.way == way).map(|task| task.share).collect();
                    assert_eq!(own, load.shares());
                    assert_eq!(own.iter().map(|share| share.connections).sum::<u64>(), load.connections);
                    assert_eq!(own.iter().map(|share| share.reloads).sum::<u64>(), load.reloads);
                    assert!(own.iter().all(|share| share.reloads > 0), "a share without a reload measures nothing");
                }
            }
        }
        assert_eq!(Load::new(1_000_000, None, 4_000, true).reloads, 200);
    }

    #[test]
    fn steady_drift_affects_all_ways_equally() {
        let tasks = Load { connections: 100, reloads: 8, rate: 1, rounds: 4, others_rounds: 4 }.tasks(&Way::ALL);
        let place =
            |way| tasks.iter().enumerate().filter(|(_, task)| task.way == way).map(|(index, _)| index).sum::<usize>();
        assert!(Way::ALL.into_iter().all(|way| place(way) == place(Way::Passed)));
        assert_ne!(tasks[0].way, tasks[2 * Way::ALL.len()].way);
    }

    #[test]
    fn ways_without_reloader_get_an_evenly_spread_fifth_of_a_long_load() {
        let load = Load::new(1_000_000, None, 4_000, false);
        let tasks = load.tasks(&Way::ALL);
        let rounds = |way| tasks.iter().filter(|task| task.way == way).map(|task| task.round).collect::<Vec<_>>();
        assert_eq!(rounds(Way::SoftStop), [2, 7, 12, 17, 22]);
        assert_eq!(rounds(Way::Passed).len(), 25);
        let connections =
            |way| tasks.iter().filter(|task| task.way == way).map(|task| task.share.connections).sum::<u64>();
        assert_eq!([Way::SoftStop, Way::Passed].map(connections), [200_000, 1_000_000]);
        let short = Load::new(20_000, None, 4_000, false);
        assert_eq!(short.rounds, short.others_rounds);
    }
}
