//! Writes a receipt while a reload runs.

use std::time::{Instant, SystemTime};

use super::{GenerationId, Kind, Lost, Outcome, Phases, ReasonCode, Receipt, Syns, judge, receipt_id, rfc3339};
use crate::kernel::syncookies::SynCookies;

/// A receipt in the making.
#[derive(Debug)]
pub(crate) struct Recorder {
    asked: Instant,
    phase_began: Instant,
    cookies: Option<SynCookies>,
    receipt: Receipt,
}

/// Why a reload came to nothing.
#[derive(Debug)]
pub(crate) struct Failure {
    /// For programs.
    pub(crate) code: ReasonCode,
    /// A sentence.
    pub(crate) reason: String,
    /// HAProxy's own lines.
    pub(crate) server_log: Vec<String>,
    /// Nothing has served for so long that custody must be given up.
    pub(crate) ends_custody: bool,
}

impl Failure {
    /// A failure of which the server said nothing.
    pub(crate) fn new(code: ReasonCode, reason: impl Into<String>) -> Failure {
        Failure { code, reason: reason.into(), server_log: Vec::new(), ends_custody: false }
    }

    /// A fault of reloader itself.
    pub(crate) fn internal(what: &str) -> Failure {
        Failure::new(ReasonCode::InternalError, format!("internal error: {what}"))
    }

    /// What is given up when the daemon is asked to stop.
    pub(crate) fn daemon_stopping() -> Failure {
        Failure::new(ReasonCode::DaemonStopping, "the daemon was asked to stop")
    }
}

impl Recorder {
    /// Begins the record of something that was asked for at `asked`, of a service where it is about one.
    pub(crate) fn begin(
        service: Option<&str>,
        kind: Kind,
        asked: Instant,
        coalesced: u64,
        old: Option<GenerationId>,
    ) -> Recorder {
        let at = SystemTime::now() - asked.elapsed();
        let receipt = Receipt {
            id: receipt_id(at),
            at: rfc3339(at),
            service: service.map(str::to_owned),
            kind,
            result: Outcome::Failed,
            reason: None,
            reason_code: None,
            coalesced,
            old,
            new: None,
            nothing_serves: false,
            phases_us: Phases::default(),
            listeners: Vec::new(),
            syns: Syns::default(),
            lost: Lost::default(),
            notes: Vec::new(),
            server_log: Vec::new(),
        };
        let mut recorder = Recorder { asked, phase_began: Instant::now(), cookies: SynCookies::read(), receipt };
        if kind == Kind::Restart {
            // What was inside the process that ended went with it, uncounted.
            recorder.receipt.lost.cut = None;
        }
        recorder
    }

    /// The SYN cookies that had been sent when it began.
    pub(crate) fn cookies(&self) -> Option<SynCookies> {
        self.cookies
    }

    /// The receipt so far.
    pub(crate) fn receipt(&mut self) -> &mut Receipt {
        &mut self.receipt
    }

    /// Ends a phase: its time goes where `place` says.
    pub(crate) fn phase(&mut self, place: impl FnOnce(&mut Phases) -> &mut Option<u64>) {
        let now = Instant::now();
        *place(&mut self.receipt.phases_us) = Some((now - self.phase_began).as_micros() as u64);
        self.phase_began = now;
    }

    /// Something else the operator should know.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        log::warn!("{note}");
        self.receipt.notes.push(note);
    }

    /// Something that leaves the whole reload without a proof. An earlier doubt becomes a note.
    pub(crate) fn doubt(&mut self, code: ReasonCode, reason: impl Into<String>) {
        self.receipt.reason_code = Some(code);
        let earlier = self.receipt.reason.replace(reason.into());
        self.receipt.notes.extend(earlier);
    }

    /// The finished receipt.
    pub(crate) fn finish(mut self, outcome: Result<(), Failure>) -> Receipt {
        match outcome {
            Ok(()) => {
                self.receipt.result = Outcome::Proven;
                // What was noted on the way (another server on the port) stands before the listeners' own reason.
                if let (None, Some((code, reason))) = (&self.receipt.reason, judge(&self.receipt.listeners).1) {
                    self.doubt(code, reason);
                }
                if self.receipt.reason.is_some() {
                    self.receipt.result = Outcome::Unproven;
                }
            }
            Err(failure) => {
                self.receipt.result = Outcome::Failed;
                self.receipt.reason = Some(failure.reason);
                self.receipt.reason_code = Some(failure.code);
                self.receipt.server_log = failure.server_log;
            }
        }
        self.receipt.phases_us.total = Some(self.asked.elapsed().as_micros() as u64);
        self.receipt
    }
}
