//! Runs the load on its own thread, and the reloads beside it.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::UnboundedReceiver;

use super::findings::{Findings, ProofSettings, TimedReload};
use super::reload_method::{ReceiptsCut, ReloadMethod, ReloadReport, ReloadResult};
use super::sessions::SessionFindings;
use super::tally::Tally;
use super::windows::ReloadWindows;
use crate::kernel::kernel_release;
use crate::load::{EndedSession, Load, LoadError, MAX_START_DELAY, RunningLoad, RunningSessions};

/// Load without a reload, before the first reload and after the last. The first part shows that nothing is lost without a
/// reload. The last part shows what the old process loses as it ends.
const QUIET_PERIOD: Duration = Duration::from_secs(1);
/// How often the state of the load is read, for the progress and for an early end.
const LOAD_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Why a run has no findings.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The load could not be started, or its thread panicked.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A second signal came before the first one had its effect.
    #[error("ended at once by signal {0}; what reloads the service may still run")]
    Abandoned(SignalNumber),
}

/// The number of a signal that ends the run early.
pub type SignalNumber = i32;

/// What a run needs.
pub struct Proof {
    /// What the operator asked for.
    pub settings: ProofSettings,
    /// The address that the load connects to, for the findings.
    pub address: String,
    /// The load, without its rate.
    pub load: Load,
    /// The long sessions, which are open already.
    pub sessions: Option<RunningSessions>,
}

/// The state of a run, for a progress bar.
#[derive(Debug, Clone, Copy)]
pub struct ProofProgress {
    /// Reloads that have ended.
    pub reloads: u32,
    /// Whether a reload is under way.
    pub is_reloading: bool,
    /// Connections that have been started.
    pub started: u64,
    /// Connections that have failed.
    pub failed: u64,
}

/// Puts the service under load, reloads it, and returns the findings. `signals` carries the numbers of signals that end the
/// run: the first one lets a reload finish, the second one does not wait.
///
/// # Errors
/// Returns an error where the load cannot be started, and where a second signal ended the run.
pub async fn run(
    proof: Proof,
    method: &impl ReloadMethod,
    signals: &mut UnboundedReceiver<SignalNumber>,
    show: &dyn Fn(ProofProgress),
) -> Result<Findings, ProveError> {
    let Proof { settings, address, load, sessions } = proof;
    let began_at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let windows = ReloadWindows::default();
    let load = load.rate(settings.rate).start(Tally::new(windows.clone()))?;
    let mut run = Run { load, windows, began: Instant::now(), reloads: Vec::new(), signals, show };
    let early_end = run.reload_all(&settings, method).await?;
    let mut cut_short = run.finish_load(early_end).await?;
    let ended = match sessions {
        Some(sessions) => {
            let (ended, signal) = run.end_sessions(sessions, cut_short).await?;
            cut_short = signal;
            Some(ended)
        }
        None => None,
    };
    let finished = run.load.wait()?;
    let mut sessions = ended.map(|ended| {
        let ends = ended.into_iter().map(|end| (end.at.saturating_duration_since(finished.begin), end.result));
        let has_request = settings.holds_requests();
        SessionFindings { has_request, ends: ends.collect(), receipts: ReceiptsCut::None }
    });
    if let Some(sessions) = &mut sessions {
        (sessions.receipts, cut_short) = ask_receipts(method, run.signals, cut_short).await?;
    }
    let in_load = |(begin, took, report): (Instant, Duration, ReloadReport)| TimedReload {
        begin: begin.saturating_duration_since(finished.begin),
        took,
        report,
    };
    Ok(Findings {
        settings,
        address,
        began_at,
        kernel: kernel_release(),
        duration: finished.wall,
        tally: finished.sink,
        connections: finished.connections,
        closed_between: finished.closed_between,
        sessions,
        reloads: run.reloads.into_iter().map(in_load).collect(),
        cut_short,
        max_start_delay: finished.max_start_delay,
        unfinished: finished.unfinished,
    })
}

struct Run<'a> {
    load: RunningLoad<Tally>,
    windows: ReloadWindows,
    began: Instant,
    /// When each reload began, how long it took, and what it reported.
    reloads: Vec<(Instant, Duration, ReloadReport)>,
    signals: &'a mut UnboundedReceiver<SignalNumber>,
    show: &'a dyn Fn(ProofProgress),
}

/// Why a run ends before its last reload.
enum EarlyEnd {
    Signal(SignalNumber),
    /// The generator is far behind its schedule, or its thread has ended. Further figures would be worthless.
    LoadUseless,
}

impl Run<'_> {
    async fn reload_all(
        &mut self,
        settings: &ProofSettings,
        method: &impl ReloadMethod,
    ) -> Result<Option<EarlyEnd>, ProveError> {
        let mut due = self.began + QUIET_PERIOD;
        for _ in 0..settings.reloads {
            // A reload that takes longer than the interval is followed by the next one at once. It is not followed by a burst
            // of all that have become due.
            if let Some(early_end) = self.wait_until(due).await {
                return Ok(Some(early_end));
            }
            due = Instant::now() + settings.interval;
            let early_end = self.reload(method).await?;
            if early_end.is_some() {
                return Ok(early_end);
            }
            if self.reloads.last().is_some_and(|(_, _, report)| report.result == ReloadResult::Failed) {
                break;
            }
        }
        Ok(self.wait_until(Instant::now() + QUIET_PERIOD).await)
    }

    async fn reload(&mut self, method: &impl ReloadMethod) -> Result<Option<EarlyEnd>, ProveError> {
        let began = self.windows.begin();
        let mut early_end = None;
        let reload = method.reload();
        tokio::pin!(reload);
        let report = loop {
            self.show_progress(true);
            tokio::select! {
                report = &mut reload => break report,
                Some(signal) = self.signals.recv() => match early_end {
                    // The first signal does not interrupt a reload.
                    None => early_end = Some(EarlyEnd::Signal(signal)),
                    Some(_) => return Err(ProveError::Abandoned(signal)),
                },
                () = tokio::time::sleep(LOAD_POLL_INTERVAL) => {}
            }
        };
        self.windows.end();
        self.reloads.push((began, began.elapsed(), report));
        Ok(early_end)
    }

    /// Waits for the connections that are open, which may take their whole timeout. Returns the signal that cut the run short.
    async fn finish_load(&mut self, early_end: Option<EarlyEnd>) -> Result<Option<SignalNumber>, ProveError> {
        let mut cut_short = match early_end {
            Some(EarlyEnd::Signal(signal)) => Some(signal),
            Some(EarlyEnd::LoadUseless) | None => None,
        };
        match early_end {
            Some(EarlyEnd::LoadUseless) => self.load.abandon(),
            Some(EarlyEnd::Signal(_)) | None => self.load.stop_starting(),
        }
        while !self.load.is_over() {
            self.show_progress(false);
            tokio::select! {
                Some(signal) = self.signals.recv() => match cut_short {
                    // The outcomes recorded so far are kept.
                    None => {
                        cut_short = Some(signal);
                        self.load.abandon();
                    }
                    Some(_) => return Err(ProveError::Abandoned(signal)),
                },
                () = tokio::time::sleep(LOAD_POLL_INTERVAL) => {}
            }
        }
        Ok(cut_short)
    }

    /// Ends the long sessions as their clients do, and waits for the service. Returns the signal that cut the run short too.
    async fn end_sessions(
        &mut self,
        sessions: RunningSessions,
        mut cut_short: Option<SignalNumber>,
    ) -> Result<(Vec<EndedSession>, Option<SignalNumber>), ProveError> {
        sessions.end();
        while !sessions.are_over() {
            self.show_progress(false);
            tokio::select! {
                Some(signal) = self.signals.recv() => match cut_short {
                    None => cut_short = Some(signal),
                    Some(_) => return Err(ProveError::Abandoned(signal)),
                },
                () = tokio::time::sleep(LOAD_POLL_INTERVAL) => {}
            }
        }
        Ok((sessions.wait()?, cut_short))
    }

    async fn wait_until(&mut self, end: Instant) -> Option<EarlyEnd> {
        loop {
            self.show_progress(false);
            if self.load.max_start_delay() > MAX_START_DELAY || self.load.is_over() {
                return Some(EarlyEnd::LoadUseless);
            }
            let now = Instant::now();
            if now >= end {
                return None;
            }
            tokio::select! {
                Some(signal) = self.signals.recv() => return Some(EarlyEnd::Signal(signal)),
                () = tokio::time::sleep(LOAD_POLL_INTERVAL.min(end - now)) => {}
            }
        }
    }

    fn show_progress(&self, is_reloading: bool) {
        (self.show)(ProofProgress {
            reloads: self.reloads.len() as u32,
            is_reloading,
            started: self.load.started(),
            failed: self.load.failed(),
        });
    }
}

/// Waits for what the receipts say was cut. The first signal ends the wait, and then it is not known. Returns the signal that cut the
/// run short too.
async fn ask_receipts(
    method: &impl ReloadMethod,
    signals: &mut UnboundedReceiver<SignalNumber>,
    cut_short: Option<SignalNumber>,
) -> Result<(ReceiptsCut, Option<SignalNumber>), ProveError> {
    tokio::select! {
        receipts = method.receipts_cut() => Ok((receipts, cut_short)),
        Some(signal) = signals.recv() => match cut_short {
            None => Ok((ReceiptsCut::Unknown, Some(signal))),
            Some(_) => Err(ProveError::Abandoned(signal)),
        },
    }
}

#[cfg(test)]
mod tests;
