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
use crate::reload::protection::{held, pending_hold};
use crate::sys::Inheritance;

pub use caught_signal::CaughtSignal;
pub use listen::{Listen, ListenError, parse as parse_listen};

/// The arguments of `reloader hold`.
#[derive(Debug)]
pub struct HoldCommand {
    /// The listeners whose SYNs are held.
    pub listen: Vec<Listen>,
    /// The gate; `None` for the best one that this machine offers.
    pub backend: Option<Backend>,
    /// The longest hold.
    pub max: Duration,
    /// Bytes of room for parked SYNs.
    pub capacity: u32,
    /// The directory in which the hold is recorded.
    pub runtime_dir: PathBuf,
    /// The path of the network namespace, where the command line names one.
    pub netns_path: Option<PathBuf>,
    /// The path of this program. The guard runs as one of its commands.
    pub program: PathBuf,
    /// What the guard is started with.
    pub inheritance: Inheritance,
}

/// The outcome of a command that ran under a hold.
#[derive(Debug)]
pub struct Outcome {
    /// The receipt of the hold.
    pub receipt: Receipt,
    /// The command, which may run on.
    pub command: Handle,
    /// A held port had no listener when the hold ended.
    pub nothing_listens: bool,
    /// A signal ended the hold.
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
    /// The hold ended by itself before the command could be started. The field has the reason.
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
/// Where the hold cannot be set up, or the command does not start. Nothing is held then.
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
    // Where the hold was lifted or a signal ended it, the command still runs.
    window.wait_unheld(&command, ends, signals).await;
    // The command runs or has run. A listener that can no longer be seen is a doubt, but the exit status of the command still counts.
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
        // The command decides when the old server closes its listeners, and does not tell when.
        old: HashSet::new(),
        backend: around.backend,
        capacity: around.capacity,
        max: around.max,
        netns_path: around.netns_path,
        runtime_dir: around.runtime_dir,
        program: around.program,
        inheritance: around.inheritance,
    };
    Ok(pending_hold::begin(wanted).await?)
}
