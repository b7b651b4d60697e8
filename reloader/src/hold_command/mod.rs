//! Holds SYNs around a command that stops one server and starts another: `reloader hold --listen ADDR:PORT -- CMD`.

mod caught_signal;
mod listen;
mod presence;
mod proof;
mod targets;
mod window;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::mpsc::UnboundedReceiver;

use self::proof::Evidence;
use self::window::{BindWindow, HeldCommand, Waited};
use crate::gate::hold::{Backend, Hold, HoldError, HoldRequest};
use crate::kernel::sock_diag::{self, SockDiagError};
use crate::process::{Handle, ProcessError};
use crate::receipt::Recorder;
use crate::receipt::{Kind, Receipt};
use crate::reload::drain::Drain;
use crate::reload::protection::held;
use crate::sys::Inheritance;

pub use caught_signal::CaughtSignal;
pub use listen::{Listen, ListenError, parse as parse_listen};

/// What is asked.
#[derive(Debug)]
pub struct HoldCommand {
    /// What to hold.
    pub listen: Vec<Listen>,
    /// The gate; `None` for the best that can be had.
    pub backend: Option<Backend>,
    /// The longest hold.
    pub max: Duration,
    /// Bytes of room for parked SYNs.
    pub capacity: u32,
    /// Where the hold is put on record.
    pub runtime_dir: PathBuf,
    /// The network namespace, where it was named.
    pub netns_path: Option<PathBuf>,
    /// This program, of which the guard is a command.
    pub program: PathBuf,
    /// What the guard is started with.
    pub inheritance: Inheritance,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The record.
    pub receipt: Receipt,
    /// The command, which may run on.
    pub command: Handle,
    /// A held port had no listener when the hold ended.
    pub nothing_listens: bool,
    /// A signal ended it.
    pub was_interrupted: bool,
}

/// Why the command was not run, or not under a hold.
#[derive(Debug, thiserror::Error)]
pub enum HoldCommandError {
    /// The sockets cannot be listed.
    #[error(transparent)]
    SockDiag(#[from] SockDiagError),
    /// Nothing can be held.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// It ended by itself before the command could be started, for this reason.
    #[error("the hold ended before the command could be run: {0}")]
    Over(String),
    /// A signal came before the command was started. The hold was released.
    #[error("the command was not run: signal {} came first", .0.as_raw())]
    Interrupted(Signal),
    /// The command does not start. The hold was released.
    #[error(transparent)]
    Command(ProcessError),
}

/// Holds, drains, runs the command, waits for new listeners, releases. A signal from `signals` releases at once and is passed
/// on to the command.
///
/// # Errors
/// Where the hold does not come about or the command does not start; nothing is held then.
pub async fn run(
    around: HoldCommand,
    mut command: Command,
    signals: &mut UnboundedReceiver<CaughtSignal>,
    tell: &dyn Fn(&str),
) -> Result<Outcome, HoldCommandError> {
    let max = around.max;
    let mut recorder = Recorder::begin(None, Kind::Hold, Instant::now(), 0, None);
    let sockets = sock_diag::tcp_listeners()?;
    let window = BindWindow::new(&around.listen, sockets);
    recorder.phase(|phases| &mut phases.plan);

    tell("holding");
    let hold = begin(around, &window).await?;
    hold.started().notes.iter().for_each(|note| recorder.note(note));
    let ends = hold.started().at + max;
    recorder.phase(|phases| &mut phases.guard);

    tell("draining");
    let held = window.endpoints().cloned().collect();
    let mut drain = Drain::begin(window.before.listeners(), held, &window.exceptions, recorder.cookies());
    tokio::select! {
        // A signal that has come already counts.
        biased;
        Some(caught) = signals.recv() => return Err(HoldCommandError::Interrupted(caught.signal)),
        () = drain.until_empty(true) => {}
        () = tokio::time::sleep_until(ends.into()) => {}
    }
    if hold.has_ended() || Instant::now() >= ends {
        return Err(HoldCommandError::Over(proof::over(&held::release(hold).await)));
    }
    proof::note_unanswered(&drain, &mut recorder);
    recorder.phase(|phases| &mut phases.drain);

    tell("running the command");
    let command = Handle::spawn(&mut command).map_err(HoldCommandError::Command)?;
    let held_command = HeldCommand { command: &command, hold: &hold, ends };
    let waited = window.wait(held_command, &mut drain, signals).await;
    recorder.phase(|phases| &mut phases.start);

    tell("releasing");
    let backend = hold.started().backend;
    let ended = held::release(hold).await;
    recorder.phase(|phases| &mut phases.release);
    // Lifted, or ended by a signal: the command runs on.
    window.wait_unheld(&command, ends, signals).await;
    // The command runs or has run: what cannot be seen any more is a doubt, and its status counts all the same.
    let now = window.now().unwrap_or_else(|_| window.before.clone());
    let unserved = window.without_listener(&now).filter(|_| !matches!(waited, Waited::Blind(_)));
    let nothing_listens = unserved.is_some();
    let evidence = Evidence { window: &window, now: &now, drain: &drain, waited: &waited, backend, outcome: &ended };
    evidence.record(&mut recorder);
    let failed = proof::failure(&waited, unserved.as_deref(), command.try_ended());
    let receipt = recorder.finish(failed.map_or(Ok(()), Err));
    let was_interrupted = matches!(waited, Waited::Signal(_));
    Ok(Outcome { receipt, command, nothing_listens, was_interrupted })
}

async fn begin(around: HoldCommand, window: &BindWindow) -> Result<Hold, HoldCommandError> {
    let wanted = HoldRequest {
        targets: window.targets.clone(),
        exceptions: window.exceptions.clone(),
        // The command decides when the old server leaves, and does not say.
        old: HashSet::new(),
        backend: around.backend,
        capacity: around.capacity,
        max: around.max,
        netns_path: around.netns_path,
        runtime_dir: around.runtime_dir,
        program: around.program,
        inheritance: around.inheritance,
    };
    Ok(held::begin(wanted).await?)
}
