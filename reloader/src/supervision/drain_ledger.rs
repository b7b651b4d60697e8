//! Keeps how many connections the processes of a retired generation had when they were last looked at. When a process has ended,
//! its connections can no longer be counted.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::kernel::sock_diag::Endpoints;
use crate::process::{Ended, Handle};

/// A process by its pid and start time.
pub(super) type ProcessKey = (u32, u64);

/// The connections of one process at the last look that found it alive.
#[derive(Debug)]
struct Entry {
    process: Followed,
    connections: u64,
}

/// A process, or how it has ended: a handle takes a descriptor.
#[derive(Debug)]
enum Followed {
    Alive(Handle),
    Ended(Ended),
}

/// What the looks at one generation found.
#[derive(Debug, Default)]
pub(crate) struct DrainLedger {
    processes: HashMap<ProcessKey, Entry>,
    /// The sum of each look, oldest first.
    sums: Vec<(Instant, u64)>,
    /// A sample of the connections of an earlier look, and when that began.
    earlier: Option<(Instant, HashSet<Endpoints>)>,
    /// Those of the sample that all later looks have found too.
    lasting: HashSet<Endpoints>,
}

/// What one look found.
#[derive(Debug)]
pub(super) struct Found {
    /// When the look began.
    pub(super) at: Instant,
    /// The connections of each process that was alive after it had been looked at.
    pub(super) processes: Vec<(Handle, u64)>,
    /// A sample of these connections.
    pub(super) sample: HashSet<Endpoints>,
}

/// How many sums are kept. A hard stop asks for the last one before it, and HAProxy ends at most two seconds after that.
const KEPT_SUMS: usize = 8;

/// A look that is near a moment tells what was alive at that moment.
const NEAR: Duration = Duration::from_secs(2);

/// From this age on a connection counts as a lasting one.
const LASTING: Duration = Duration::from_millis(500);

impl DrainLedger {
    /// Notes what a look found.
    pub(super) fn note(&mut self, found: Found) {
        let Found { at, processes, sample } = found;
        self.sums.push((at, processes.iter().map(|(_, connections)| connections).sum()));
        if self.sums.len() > KEPT_SUMS {
            self.sums.remove(0);
        }
        // Of a process without connections nothing can be cut.
        for (process, connections) in processes {
            let key = (process.pid(), process.start_time());
            match connections {
                0 => drop(self.processes.remove(&key)),
                _ => drop(self.processes.insert(key, Entry { process: Followed::Alive(process), connections })),
            }
        }
        for entry in self.processes.values_mut() {
            if let Some(ended) = entry.ended() {
                entry.process = Followed::Ended(ended);
            }
        }
        self.processes.retain(|_, entry| !matches!(entry.process, Followed::Ended(ended) if ended.is_orderly()));
        match &self.earlier {
            // `status` may ask for looks at any moment.
            Some((earlier, _)) if at.duration_since(*earlier) < LASTING => {
                self.lasting.retain(|ends| sample.contains(ends))
            }
            Some((_, earlier)) => {
                self.lasting = earlier.intersection(&sample).copied().collect();
                self.earlier = Some((at, sample));
            }
            None => self.earlier = Some((at, sample)),
        }
    }

    /// A sample of the connections that the last look found, and that had lived for at least half a second then.
    pub(super) fn lasting(&self) -> &HashSet<Endpoints> {
        &self.lasting
    }

    /// The connections at the last look. `None` if there was none.
    pub(super) fn last_sum(&self) -> Option<u64> {
        self.sums.last().map(|(_, connections)| *connections)
    }

    /// When the generation was last looked at.
    pub(super) fn last_look(&self) -> Option<Instant> {
        self.sums.last().map(|(at, _)| *at)
    }

    /// The connections at the last look that began before `moment`, and less than two seconds before it. `None` if there was no such look.
    pub(super) fn count_just_before(&self, moment: Instant) -> Option<u64> {
        let is_near = |at: &Instant| *at < moment && moment.duration_since(*at) <= NEAR;
        self.sums.iter().rev().find(|(at, _)| is_near(at)).map(|(_, connections)| *connections)
    }

    /// How each process ended that was seen with connections, and how many it had; and those that live.
    pub(super) fn ends(&self) -> (Vec<ProcessEnd>, Vec<u32>) {
        let (mut ends, mut living) = (Vec::new(), Vec::new());
        for ((pid, start_time), entry) in &self.processes {
            match entry.ended() {
                Some(ended) => {
                    ends.push(ProcessEnd { pid: *pid, start_time: *start_time, ended, connections: entry.connections })
                }
                None => living.push(*pid),
            }
        }
        (ends, living)
    }

    /// Forgets processes whose ends have been judged: a process that outlived them shares this ledger.
    pub(super) fn forget(&mut self, judged: &[ProcessEnd]) {
        self.processes.retain(|key, _| judged.iter().all(|end| (end.pid, end.start_time) != *key));
    }
}

impl Entry {
    fn ended(&self) -> Option<Ended> {
        match &self.process {
            Followed::Alive(process) => process.try_ended(),
            Followed::Ended(ended) => Some(*ended),
        }
    }
}

/// The end of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcessEnd {
    /// The process.
    pub(super) pid: u32,
    /// Its start time in clock ticks since boot: another process may get the same pid later.
    pub(super) start_time: u64,
    /// How it ended.
    pub(super) ended: Ended,
    /// The connections that it had when it was last looked at.
    pub(super) connections: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(looks: &[(Instant, u64)]) -> DrainLedger {
        DrainLedger { sums: looks.to_vec(), ..DrainLedger::default() }
    }

    /// A reload runs in the loop, and the judgement waits for it.
    #[test]
    fn look_shortly_before_the_end_counts_however_late_the_end_is_judged() {
        let end = Instant::now().checked_sub(Duration::from_secs(30)).unwrap();
        let before = |seconds| end.checked_sub(Duration::from_secs(seconds)).unwrap();
        let after = end + Duration::from_secs(1);
        assert_eq!(ledger(&[(before(9), 7), (before(1), 20)]).count_just_before(end), Some(20));
        assert_eq!(ledger(&[(before(1), 20), (after, 0)]).count_just_before(end), Some(20), "of what outlived it");
        assert_eq!(ledger(&[(before(9), 7)]).count_just_before(end), None);
    }

    #[tokio::test]
    async fn process_with_the_pid_of_a_judged_one_is_kept() {
        let own = std::process::id();
        let start_time = crate::process::start_time(own).unwrap();
        let process = Handle::adopt(own, start_time).unwrap();
        let mut ledger = DrainLedger::default();
        ledger.note(Found { at: Instant::now(), processes: vec![(process, 5)], sample: HashSet::new() });
        let judged = |start_time| ProcessEnd { pid: own, start_time, ended: Ended::Unknown, connections: 5 };
        ledger.forget(&[judged(start_time - 1)]);
        assert_eq!(ledger.ends().1, [own]);
        ledger.forget(&[judged(start_time)]);
        assert!(ledger.ends().1.is_empty());
    }
}
