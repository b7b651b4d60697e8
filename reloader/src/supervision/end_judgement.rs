//! Judges how a retired generation ended: whether it had finished its connections, or cut them. Pure.

use std::time::Duration;

use super::drain_ledger::ProcessEnd;
use crate::process::Ended;

/// What is known of the end of a generation.
#[derive(Debug, Clone)]
pub(super) struct EndFacts {
    /// The root process.
    pub(super) root: u32,
    /// How the root process ended.
    pub(super) ended: Ended,
    /// The processes that had connections, as far as they have ended.
    pub(super) processes: Vec<ProcessEnd>,
    /// Whether processes with connections have outlived the root and are not followed: nothing will be known of their ends.
    pub(super) leaves_processes: bool,
    /// Whether the generation was looked at after it was asked to end, or just before.
    pub(super) was_looked_at: bool,
    /// The connections at a look shortly before the end. `None` if there was no such look.
    pub(super) had_at_last: Option<u64>,
    /// HAProxy's own hard stop, if it took place.
    pub(super) hard_stop: Option<HardStop>,
    /// The daemon ended the root after its workers had ended.
    pub(super) root_was_idle: bool,
    /// The signal by which it was asked to end, if its root handles it. After an orderly end some servers die of it all the same (128 + its
    /// number as the status, or the signal sent again with its default action).
    pub(super) stop_signal: Option<i32>,
    /// The connections that had lived for more than a moment, and that its side closed in the last moment of its life. `None` if its status tells
    /// for certain whether it had finished, as that of HAProxy does.
    pub(super) closed_at_last: Option<usize>,
}

/// One connection may well be the last one to be finished. Several that had lived for a while and are closed in the last moment are a sign that
/// they were cut.
const SEVERAL: usize = 2;

/// The moment at which HAProxy closes what is left of its connections (`hard-stop-after`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HardStop {
    /// The value of `hard-stop-after`. `None` if only HAProxy's log tells of the hard stop.
    pub(super) after: Option<Duration>,
    /// The connections before it. `None` if they were not counted.
    pub(super) connections: Option<u64>,
}

/// A generation that ended before its connections did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CutShort {
    /// How it ended, to follow "generation N".
    pub(super) how: String,
    /// The connections that were cut. `None` if that is not known.
    pub(super) cut: Option<u64>,
    /// Whether it is certain that it had not finished. Otherwise there is only a sign of it.
    pub(super) is_certain: bool,
}

/// `None` if the generation had finished its connections.
pub(super) fn judge(facts: &EndFacts) -> Option<CutShort> {
    let cut_short = match facts.hard_stop {
        Some(stop) => {
            let after =
                stop.after.map_or_else(String::new, |after| format!(" after {}", humantime::format_duration(after)));
            CutShort {
                how: format!("stopped hard by itself{after} (hard-stop-after of HAProxy)"),
                cut: stop.connections,
                is_certain: true,
            }
        }
        None => match (by_status(facts), by_closing(facts)) {
            // Those that ended in order have closed connections too.
            (Some(failed), Some(_)) => CutShort { cut: None, ..failed },
            (failed, closing) => failed.or(closing).or_else(|| by_ignorance(facts))?,
        },
    };
    (cut_short.cut != Some(0)).then_some(cut_short)
}

/// Judges the end by the status of each process. A status of 0 is an orderly end.
fn by_status(facts: &EndFacts) -> Option<CutShort> {
    let as_asked = |ended: Ended| {
        facts.stop_signal.is_some_and(|signal| [Ended::Killed(signal), Ended::Exited(128 + signal)].contains(&ended))
    };
    let is_orderly = |ended: Ended| ended.is_orderly() || as_asked(ended);
    let root_failed = !is_orderly(facts.ended) && facts.ended != Ended::Unknown && !facts.root_was_idle;
    let failed = |end: &&ProcessEnd| match end.ended {
        // A master exits with the status of a worker that failed.
        Ended::Unknown => root_failed,
        ended => !is_orderly(ended),
    };
    let failed: Vec<&ProcessEnd> = facts.processes.iter().filter(failed).collect();
    if !root_failed && failed.is_empty() {
        return None;
    }
    let worst = failed.iter().max_by_key(|end| end.connections).filter(|end| end.pid != facts.root);
    let how = match worst {
        Some(end) if end.ended != Ended::Unknown => format!("lost its process {}, which {}", end.pid, end.ended),
        _ => facts.ended.to_string(),
    };
    let cut = (facts.was_looked_at && !(root_failed && facts.leaves_processes))
        .then(|| failed.iter().map(|end| end.connections).sum());
    Some(CutShort { how, cut, is_certain: true })
}

/// Some servers exit with status 0 when they are killed, or close what is left after a time (`worker_shutdown_timeout` of nginx).
fn by_closing(facts: &EndFacts) -> Option<CutShort> {
    let closed = facts.closed_at_last.filter(|closed| *closed >= SEVERAL)?;
    let how = format!("{} and closed at least {closed} lasting connections in its last moment", facts.ended);
    Some(CutShort { how, cut: None, is_certain: false })
}

/// Before Linux 6.15 the status of a process is lost that is not the daemon's child. One that had several connections a moment ago may have
/// finished them or cut them, and so may one that was not looked at: many connections make the looks rare. An idle master was seen without them.
fn by_ignorance(facts: &EndFacts) -> Option<CutShort> {
    if facts.ended != Ended::Unknown {
        return None;
    }
    let how = match facts.had_at_last {
        Some(had) if had >= SEVERAL as u64 => {
            format!("ended with {had} connections at the last look, and the kernel does not tell how")
        }
        None if !facts.root_was_idle => {
            "ended, its connections were not counted shortly before, and the kernel does not tell how".to_owned()
        }
        _ => return None,
    };
    Some(CutShort { how, cut: None, is_certain: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(ended: Ended, processes: &[(u32, Ended, u64)]) -> EndFacts {
        let processes = processes.iter().map(|(pid, ended, connections)| ProcessEnd {
            pid: *pid,
            start_time: 0,
            ended: *ended,
            connections: *connections,
        });
        EndFacts {
            root: 1,
            ended,
            processes: processes.collect(),
            leaves_processes: false,
            was_looked_at: true,
            had_at_last: None,
            hard_stop: None,
            root_was_idle: false,
            stop_signal: None,
            closed_at_last: None,
        }
    }

    fn cut(facts: &EndFacts) -> Option<Option<u64>> {
        judge(facts).map(|cut_short| cut_short.cut)
    }

    const DONE: Ended = Ended::Exited(0);
    const KILLED: Ended = Ended::Killed(9);

    #[test]
    fn status_0_is_an_orderly_end() {
        assert_eq!(cut(&facts(DONE, &[(1, DONE, 5)])), None);
        assert_eq!(cut(&facts(DONE, &[(2, DONE, 5), (3, Ended::Unknown, 5)])), None);
    }

    #[test]
    fn end_whose_status_is_lost_is_not_known_to_be_orderly() {
        let end = |had, ended| EndFacts { had_at_last: Some(had), ..facts(ended, &[(1, ended, had)]) };
        assert_eq!(cut(&end(20, Ended::Unknown)), Some(None));
        assert!(!judge(&end(20, Ended::Unknown)).unwrap().is_certain);
        assert_eq!(cut(&end(1, Ended::Unknown)), None, "the last one is finished last");
        assert_eq!(cut(&end(20, DONE)), None);
    }

    #[test]
    fn end_whose_status_is_lost_and_that_no_recent_look_preceded_is_not_known_to_be_orderly() {
        let end = EndFacts { had_at_last: None, ..facts(Ended::Unknown, &[(1, Ended::Unknown, 100_000)]) };
        assert_eq!(judge(&end).map(|cut_short| (cut_short.cut, cut_short.is_certain)), Some((None, false)));
        let idle = EndFacts { root_was_idle: true, ..end };
        assert_eq!(cut(&idle), None, "it was seen without workers");
    }

    #[test]
    fn killed_process_cuts_its_connections() {
        assert_eq!(cut(&facts(KILLED, &[(1, KILLED, 5)])), Some(Some(5)));
        assert_eq!(cut(&facts(Ended::Exited(1), &[(1, Ended::Exited(1), 5)])), Some(Some(5)));
        assert_eq!(cut(&facts(KILLED, &[(1, KILLED, 0)])), None, "it had none");
    }

    #[test]
    fn killed_worker_is_found_although_its_master_exits_with_0() {
        let end = facts(DONE, &[(2, KILLED, 20), (3, DONE, 7)]);
        assert_eq!(
            judge(&end).unwrap(),
            CutShort {
                how: "lost its process 2, which was killed by signal 9".into(),
                cut: Some(20),
                is_certain: true
            }
        );
        // A kernel that does not keep the status: the master tells that a worker has failed.
        assert_eq!(cut(&facts(Ended::Exited(137), &[(2, Ended::Unknown, 20)])), Some(Some(20)));
    }

    #[test]
    fn processes_that_outlive_a_killed_root_may_be_cut_later() {
        let end = |ended| EndFacts { leaves_processes: true, ..facts(ended, &[]) };
        assert_eq!((cut(&end(KILLED)), cut(&end(DONE))), (Some(None), None));
    }

    #[test]
    fn end_before_the_first_look_is_not_known() {
        let end = EndFacts { was_looked_at: false, ..facts(KILLED, &[]) };
        assert_eq!(cut(&end), Some(None));
    }

    #[test]
    fn hard_stop_cuts_what_was_open_before_it() {
        let stop = |connections| HardStop { after: Some(Duration::from_secs(3)), connections };
        let end = |connections| EndFacts { hard_stop: Some(stop(connections)), ..facts(DONE, &[(1, DONE, 0)]) };
        assert_eq!(cut(&end(Some(1))), Some(Some(1)));
        assert_eq!(cut(&end(None)), Some(None));
        assert_eq!(cut(&end(Some(0))), None);
        assert!(judge(&end(None)).unwrap().how.contains("after 3s"));
    }

    #[test]
    fn server_that_dies_of_its_own_stop_signal_after_an_orderly_end_has_finished() {
        for ended in [Ended::Killed(15), Ended::Exited(143)] {
            let end = |stop_signal| EndFacts { stop_signal, ..facts(ended, &[(1, ended, 5)]) };
            assert_eq!(
                (cut(&end(Some(15))), cut(&end(None)), cut(&end(Some(3)))),
                (None, Some(Some(5)), Some(Some(5)))
            );
        }
    }

    #[test]
    fn several_connections_that_are_closed_at_the_end_may_have_been_cut() {
        let end = |closed| EndFacts { closed_at_last: Some(closed), ..facts(DONE, &[(1, DONE, 5)]) };
        assert_eq!((cut(&end(1)), cut(&end(2))), (None, Some(None)));
        let mixed = EndFacts { closed_at_last: Some(9), ..facts(DONE, &[(2, KILLED, 1), (3, DONE, 8)]) };
        assert_eq!(cut(&mixed), Some(None), "one worker was killed, another exited");
    }

    #[test]
    fn idle_master_that_the_daemon_ends_has_cut_nothing() {
        let end = EndFacts { root_was_idle: true, ..facts(Ended::Exited(143), &[(2, Ended::Unknown, 5)]) };
        assert_eq!(cut(&end), None);
        let end = EndFacts { root_was_idle: true, ..facts(Ended::Exited(143), &[(2, KILLED, 5)]) };
        assert_eq!(cut(&end), Some(Some(5)));
    }
}
