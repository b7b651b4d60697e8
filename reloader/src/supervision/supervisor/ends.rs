//! Handles the end of retired generations: judges it, and records what it cut.

use std::time::Instant;

use super::Supervisor;
use super::housekeeping::forward_last_words;
use crate::process::{Ended, ProcessScope, run_blocking};
use crate::receipt::{GenerationId, Kind, ReasonCode, Receipt, Recorder};
use crate::supervision::connections::closed_from_here;
use crate::supervision::drain_looks::{Look, look_now};
use crate::supervision::end_judgement::{CutShort, EndFacts, HardStop, judge};
use crate::supervision::records::GenerationRecord;
use crate::supervision::{Generation, Notice};

impl Supervisor {
    /// Removes draining generations that have ended, and records what their ends cut.
    pub(crate) async fn reap_draining(&mut self) {
        // A path that an ended generation has removed refuses every client until it is back.
        self.mend_paths().await;
        let mut receipts = Vec::new();
        for mut generation in self.generations.take_ended() {
            let lines = forward_last_words(self.name(), &mut generation);
            let closed = self.heartbeat().during(closed_at_last(&generation)).await;
            // A script may have ended while its server lives on, and a master while its worker drains. What dies now is judged below, or as an orphan.
            if generation.scope == ProcessScope::SameProgram || !generation.closed_listeners {
                self.follow_orphans(&generation);
            }
            let cut_short = self.judge_end(&generation, closed).filter(|_| !generation.end_is_recorded);
            match &cut_short {
                None => self.note_drained(&generation),
                Some(cut_short) => receipts.push(self.end_receipt(&generation, cut_short, lines)),
            }
            generation.clean_up();
        }
        self.drop_path_links_when_over();
        // The record names an ended generation until its receipt is stored: the next daemon tells the end if this one is killed between the two.
        for receipt in receipts {
            self.store_receipt(&receipt).await;
        }
        self.record();
    }

    /// Judges the end of a generation that is followed no longer.
    fn judge_end(&self, generation: &Generation, closed_at_last: Option<usize>) -> Option<CutShort> {
        let is_followed = |pid: u32| self.generations.draining().iter().any(|left| left.process.pid() == pid);
        let facts = end_facts(generation, closed_at_last, is_followed)?;
        generation.ledger.lock().expect("no panic under this lock").forget(&facts.processes);
        judge(&facts)
    }

    fn note_drained(&mut self, generation: &Generation) {
        let how = match generation.process.try_ended() {
            Some(ended @ (Ended::Exited(1..) | Ended::Killed(_))) if !generation.end_is_recorded => {
                format!(": it {ended}")
            }
            _ => String::new(),
        };
        let (number, pid) = (generation.number, generation.process.pid());
        log::info!("{}: generation {number} (process {pid}) has drained and ended{how}", self.name());
        if !generation.end_is_recorded {
            self.clear_warning(Notice::CutShort);
        }
    }

    fn end_receipt(&mut self, generation: &Generation, cut_short: &CutShort, lines: Vec<String>) -> Receipt {
        let sentence = sentence(generation, cut_short);
        if cut_short.is_certain {
            self.warn(Notice::CutShort, &sentence);
        }
        let mut recorder = Recorder::begin(Some(self.name()), Kind::End, Instant::now(), 0, Some(generation.id()));
        recorder.doubt(reason_code(cut_short), sentence);
        let receipt = recorder.receipt();
        receipt.lost.cut = cut_short.cut;
        receipt.server_log = lines;
        recorder.finish(Ok(()))
    }

    /// The receipt of a generation that a record names and that ended while no daemon ran. How it ended is not known. `None` if a receipt of an
    /// earlier daemon says already what its end cut.
    pub(crate) fn unseen_end(&self, record: &GenerationRecord) -> Option<Receipt> {
        unseen_end(self.name(), record)
    }

    /// What was cut when a generation ended that was retired a moment ago. `None` while it lives, and if it had finished. A receipt
    /// of the caller says it, so none of kind `end` is written.
    pub(crate) async fn take_cut_of(&mut self, number: u64) -> Option<(Option<String>, Option<u64>)> {
        let has_ended = |generation: &&Generation| {
            generation.number == number && generation.process.try_ended().is_some() && !generation.end_is_recorded
        };
        let generation = self.generations.draining().iter().find(has_ended)?;
        let closed = self.heartbeat().during(closed_at_last(generation)).await;
        let had = generation.ledger.lock().expect("no panic under this lock").last_sum();
        // What outlives its root is followed or judged later.
        let Some(cut_short) = end_facts(generation, closed, |_| true).as_ref().and_then(judge) else {
            // A server other than HAProxy may exit with status 0 however it ends: what it had at its stop may have been finished or cut.
            let is_known = generation.scope == ProcessScope::SameProgram || had == Some(0);
            return (!is_known).then_some((None, None));
        };
        let sentence = sentence(generation, &cut_short);
        self.note_recorded_end(number);
        if cut_short.is_certain {
            self.warn(Notice::CutShort, &sentence);
        }
        Some((Some(sentence), cut_short.cut))
    }

    /// Notes that a receipt says already what the end of this generation cuts.
    pub(crate) fn note_recorded_end(&mut self, number: u64) {
        self.generations.update_draining(|generation| generation.end_is_recorded |= generation.number == number);
    }

    /// Looks at the connections of the serving generation, if it may cut them when it is asked to end.
    pub(crate) async fn look_before_stop(&mut self) {
        self.generations.update_serving(Generation::note_stop_signal);
        let Some(serving) = self.serving().filter(|_| !self.server().finishes_what_it_accepted()) else { return };
        let look = Look::at(serving);
        self.heartbeat().during(run_blocking(move || look_now(&[look]))).await;
    }

    /// Looks at the connections of the draining generations, beside the loop.
    pub(super) fn look_at_draining(&self) {
        let draining = self.generations.draining().iter();
        self.looks.begin(draining.filter(|generation| generation.process.try_ended().is_none()).map(Look::at));
    }
}

/// An end of which there is only a sign has no proof either.
fn reason_code(cut_short: &CutShort) -> ReasonCode {
    match cut_short.is_certain {
        true => ReasonCode::ConnectionsCut,
        false => ReasonCode::Unobservable,
    }
}

fn unseen_end(service: &str, record: &GenerationRecord) -> Option<Receipt> {
    if record.end_is_recorded {
        return None;
    }
    let old = GenerationId { generation: record.number, pid: record.pid };
    let mut recorder = Recorder::begin(Some(service), Kind::End, Instant::now(), 0, Some(old));
    let what = "ended while no daemon ran: it is not known whether it cut open connections";
    let sentence = format!("generation {} (process {}) {what}", record.number, record.pid);
    recorder.doubt(ReasonCode::Unobservable, sentence);
    recorder.receipt().lost.cut = None;
    Some(recorder.finish(Ok(())))
}

fn sentence(generation: &Generation, cut_short: &CutShort) -> String {
    let cut = match cut_short.cut {
        Some(1) => "1 open connection was cut".to_owned(),
        Some(cut) => format!("{cut} open connections were cut"),
        None => "it is not known how many open connections were cut".to_owned(),
    };
    format!(
        "generation {} (process {}) {} while it drained: {cut}",
        generation.number,
        generation.process.pid(),
        cut_short.how
    )
}

fn end_facts(
    generation: &Generation,
    closed_at_last: Option<usize>,
    is_followed: impl Fn(u32) -> bool,
) -> Option<EndFacts> {
    let ended = generation.process.try_ended()?;
    let ledger = generation.ledger.lock().expect("no panic under this lock");
    let (processes, living) = ledger.ends();
    Some(EndFacts {
        root: generation.process.pid(),
        ended,
        processes,
        leaves_processes: living.into_iter().any(|pid| !is_followed(pid)),
        was_looked_at: ledger.last_look().is_some(),
        had_at_last: ledger.count_just_before(generation.process.ended_at()?),
        hard_stop: hard_stop(generation, |moment| ledger.count_just_before(moment)),
        root_was_idle: generation.idle_since.is_some(),
        stop_signal: generation.handled_stop_signal,
        closed_at_last,
    })
}

/// How many lasting connections a generation closed in its last moment, if those were most. HAProxy exits with status 0 only when it has finished,
/// and spreads the close of idle connections over its last seconds. Of other servers the kernel shows which side closed each connection.
async fn closed_at_last(generation: &Generation) -> Option<usize> {
    if generation.scope == ProcessScope::SameProgram {
        return None;
    }
    let ended = generation.process.ended_at()?;
    let lasting = {
        let ledger = generation.ledger.lock().expect("no panic under this lock");
        // What was seen longer before the end may have ended in order since. The judgement may come late, after a reload.
        ledger.count_just_before(ended)?;
        ledger.lasting().clone()
    };
    let sample = lasting.len();
    let closed = run_blocking(move || closed_from_here(&lasting)).await?;
    (closed * 2 >= sample).then_some(closed)
}

/// HAProxy's own hard stop, if it took place: HAProxy ends once its last connection has ended, so one that lived until that moment had some. It was
/// seen alive just before that moment, or says so itself. The end may be noticed late. So may the retirement by a master: a worker that finishes
/// between the earliest and the latest moment counts as one that stopped hard, because a warning too many is better than a cut that is not told.
fn hard_stop(generation: &Generation, count_before: impl Fn(Instant) -> Option<u64>) -> Option<HardStop> {
    let (retired, ended) = (generation.retired?, generation.process.ended_at()?);
    let times = generation.drain_times;
    let retired = generation.retired_not_before.map_or(retired, |earliest| earliest.min(retired));
    let planned = times.until_hard_stop().and_then(|time| retired.checked_add(time)).filter(|at| *at <= ended);
    match planned.and_then(count_before) {
        Some(connections) => Some(HardStop { after: times.hard_stop_after, connections: Some(connections) }),
        None if generation.says_hard_stop => Some(HardStop { after: None, connections: None }),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::Outcome;

    fn ended_generation(end_is_recorded: bool) -> GenerationRecord {
        serde_json::from_value(serde_json::json!({
            "number": 7, "pid": 9, "start-time": 1, "state": "draining", "socket": "", "config": "", "since": 1,
            "end-is-recorded": end_is_recorded,
        }))
        .unwrap()
    }

    #[test]
    fn unseen_end_is_not_proven() {
        let receipt = unseen_end("haproxy", &ended_generation(false)).unwrap();
        assert_eq!((receipt.result, receipt.reason_code), (Outcome::Unproven, Some(ReasonCode::Unobservable)));
        assert_eq!(receipt.lost.cut, None);
    }

    #[test]
    fn end_that_a_receipt_tells_already_has_no_second_one() {
        assert!(unseen_end("haproxy", &ended_generation(true)).is_none());
    }

    #[test]
    fn end_that_may_have_cut_connections_is_not_called_a_cut() {
        let end = |is_certain| CutShort { how: String::new(), cut: None, is_certain };
        assert_eq!(
            [true, false].map(|is| reason_code(&end(is))),
            [ReasonCode::ConnectionsCut, ReasonCode::Unobservable]
        );
    }
}
