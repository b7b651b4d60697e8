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

/// Why a reload failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The reason as a code, for programs.
    pub(crate) code: ReasonCode,
    /// The reason as a sentence, for people.
    pub(crate) reason: String,
    /// The lines that the server printed.
    pub(crate) server_log: Vec<String>,
    /// Whether custody must be given up, because nothing has served for too long.
    pub(crate) ends_custody: bool,
}

impl Failure {
    /// A failure without lines of the server.
    pub(crate) fn new(code: ReasonCode, reason: impl Into<String>) -> Failure {
        Failure { code, reason: reason.into(), server_log: Vec::new(), ends_custody: false }
    }

    /// A fault of reloader itself.
    pub(crate) fn internal(what: &str) -> Failure {
        Failure::new(ReasonCode::InternalError, format!("internal error: {what}"))
    }

    /// The failure of a reload that is given up because the daemon was asked to stop.
    pub(crate) fn daemon_stopping() -> Failure {
        Failure::new(ReasonCode::DaemonStopping, "the daemon was asked to stop")
    }
}

impl Recorder {
    /// Begins the record of something that was requested at `asked`. `service` is `None` if it is about no service.
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
            asked_by: None,
            coalesced,
            configuration: None,
            unchanged: None,
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
            // The connections inside the process that ended were lost with it, and were not counted.
            recorder.receipt.lost.cut = None;
        }
        recorder
    }

    /// The SYN cookies that had been sent when the record began.
    pub(crate) fn cookies(&self) -> Option<SynCookies> {
        self.cookies
    }

    /// The receipt so far.
    pub(crate) fn receipt(&mut self) -> &mut Receipt {
        &mut self.receipt
    }

    /// Ends a phase, and writes its time to the field that `place` selects.
    pub(crate) fn phase(&mut self, place: impl FnOnce(&mut Phases) -> &mut Option<u64>) {
        let now = Instant::now();
        *place(&mut self.receipt.phases_us) = Some((now - self.phase_began).as_micros() as u64);
        self.phase_began = now;
    }

    /// Records something else that the operator should know.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        log::warn!("{note}");
        self.receipt.notes.push(note);
    }

    /// Records why the whole reload has no proof. An earlier doubt becomes a note.
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
                // A doubt that was recorded earlier (such as another server on the port) is kept instead of the
                // listeners' reason.
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
