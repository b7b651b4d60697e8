//! From the process's start to the first generation that serves.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::control::{Control, ControlSocket};
use super::event_loop::EventLoop;
use super::footing::Footing;
use super::{DaemonError, adopt, setup};
use crate::config::{Config, Strategy};
use crate::custody::Custody;
use crate::gate::hold::{self, Gates, Records};
use crate::gate::steer::{self, Steer};
use crate::gate::syn_counter::{self, SynCounter};
use crate::haproxy::broker::Broker;
use crate::haproxy::version::VersionCache;
use crate::reload::receipt::{Kind, Outcome, Receipt};
use crate::reload::replaced;
use crate::reload::run::{Ask, run as run_reload};
use crate::supervision::{Journal, KnownGood, Supervisor, notify};
use crate::sys::{Inheritance, raise_descriptor_limit};

/// Runs the daemon until it is told to end.
pub async fn run(config: Config, config_path: Option<PathBuf>, inheritance: Inheritance) -> Result<(), DaemonError> {
    setup::check_privileges()?;
    let group = setup::control_group(&config)?;
    setup::directories(&config, group)?;
    let config = setup::with_plain_runtime_dir(config)?;
    let lock = setup::lock(&config.runtime_dir)?;
    raise_descriptor_limit().map_err(DaemonError::io("raising the limit of descriptors"))?;

    let broker = Broker::listen(&config.runtime_dir).map_err(DaemonError::io("creating the broker's socket"))?;
    let signals = Signals::install()?;
    let mut control_socket = ControlSocket::listen(&config.control_socket, group)?;
    let (events_sender, events) = mpsc::unbounded_channel();
    let stopping = signals.stopping;
    let published = Arc::new(Mutex::default());
    let gates = tokio::task::spawn_blocking(Gates::probe).await.unwrap_or_default();
    let journal = Journal::new(&config.state_dir, group);
    let name = config.control_group.as_str().into();
    let mut supervisor = Supervisor {
        last_receipt: journal.last_reload(),
        known_good: KnownGood::open(&config.state_dir),
        journal,
        config,
        inheritance,
        // The same file as long as this process lives, though a package manager may replace its path.
        program: "/proc/self/exe".into(),
        gates,
        standing: None,
        left_behind: None,
        broker,
        custody: Custody::default(),
        serving: None,
        draining: Vec::new(),
        starting: None,
        counter: None,
        steer: None,
        unsettled: None,
        inherits_steering: false,
        counts: false,
        stopping,
        last_start: None,
        unserved: None,
        ending_ticks: 0,
        start_was_cut: false,
        down: None,
        last_down: None,
        next_number: 1,
        versions: VersionCache::default(),
        warning: None,
        published: Arc::clone(&published),
    };
    clean_up_holds(&mut supervisor);
    prepare_counter(&mut supervisor);
    prepare_steering(&mut supervisor);
    supervisor.prepare_holds();
    let control = Control { group, name, events: events_sender, published };
    control_socket.serve(control.clone());
    let footing = Footing { lock, control_socket, control };
    begin_serving(&mut supervisor).await?;
    replaced::clean_up(&supervisor.present_listeners());
    supervisor.publish();
    notify::ready();
    EventLoop::new(supervisor, config_path, events, signals.hangup, footing).run_until_stopped().await;
    notify::stopping();
    Ok(())
}

/// Removes what dead holds left in the packet path.
pub(super) fn clean_up_holds(supervisor: &mut Supervisor) {
    supervisor.left_behind = None;
    match hold::clean_up(&Records::of(&supervisor.config.runtime_dir)) {
        Ok(done) if done.removed == 0 && done.dead.is_empty() => {}
        Ok(done) => log::warn!(
            "cleaned up after {} holds that had lost holder and guard: {} filters, qdiscs and devices",
            done.dead.len(),
            done.removed
        ),
        Err(error) => {
            let sentence = format!(
                "what a dead hold may have left in the packet path was not removed: {error}; `reloader release` tries again"
            );
            log::error!("{sentence}");
            supervisor.left_behind = Some(sentence);
        }
    }
}

/// Removes the counter of a daemon that was killed, and loads one where it is wanted.
fn prepare_counter(supervisor: &mut Supervisor) {
    match syn_counter::remove_stale() {
        Ok(0) => {}
        Ok(removed) => log::warn!("removed {removed} filters that an earlier daemon left in the packet path"),
        Err(error) => log::debug!("looking for filters of an earlier daemon: {error}"),
    }
    if supervisor.config.reload.count_syns {
        supervisor.counter = SynCounter::load().inspect_err(|error| log::warn!("{error}")).ok();
    }
}

/// Looks for the steering program of a daemon that was killed, and loads it where every reload steers.
fn prepare_steering(supervisor: &mut Supervisor) {
    supervisor.inherits_steering = steer::is_left(&supervisor.config.runtime_dir);
    if supervisor.config.reload.strategy == Strategy::Steer {
        supervisor.steer = Steer::load().inspect_err(|error| log::warn!("{error}")).ok();
    }
}

/// The signals that the daemon answers, caught from before anything is started: the default of each is death.
struct Signals {
    hangup: Signal,
    /// Becomes true with SIGTERM or SIGINT, so that a start that hangs is given up at once.
    stopping: watch::Receiver<bool>,
}

impl Signals {
    fn install() -> Result<Signals, DaemonError> {
        let catch = |kind| signal(kind).map_err(DaemonError::io("catching signals"));
        let hangup = catch(SignalKind::hangup())?;
        let (mut terminate, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
        let (sender, stopping) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            let _ = sender.send(true);
            // Kept open so that waiting for the flag goes on to work.
            std::future::pending::<()>().await;
        });
        Ok(Signals { hangup, stopping })
    }
}

/// Adopts what serves, or starts the first generation; the last-known-good one when the configuration does not start.
async fn begin_serving(supervisor: &mut Supervisor) -> Result<(), DaemonError> {
    if let Some(receipt) = adopt::adopt(supervisor).await? {
        supervisor.store_receipt(&receipt);
        return Ok(());
    }
    supervisor.version()?;
    let mut reasons = Vec::new();
    for use_known_good in [false, true] {
        if use_known_good && supervisor.known_good.config().is_none() {
            break;
        }
        let ask = Ask { kind: Kind::Start, asked: Instant::now(), coalesced: 0, use_known_good };
        let receipt = run_reload(supervisor, ask, &|_| {}).await;
        supervisor.store_receipt(&receipt);
        if receipt.result != Outcome::Failed {
            if use_known_good {
                supervisor.warning = Some(runs_known_good(&reasons.join("\n")));
            }
            return Ok(());
        }
        reasons.push(sentence_of(&receipt));
        if *supervisor.stopping.borrow() {
            break;
        }
    }
    Err(DaemonError::NothingServes(reasons.join("\n")))
}

/// The warning for a configuration that could not be used.
pub(super) fn runs_known_good(why: &str) -> String {
    format!("HAProxy runs the last-known-good configuration, because the one on disk does not start: {why}")
}

/// Why a start failed, with HAProxy's own lines.
pub(super) fn sentence_of(receipt: &Receipt) -> String {
    let reason = receipt.reason.as_deref().unwrap_or("the start failed");
    let lines = receipt.server_log.iter().map(|line| format!("\n  {line}"));
    format!("{reason}{}", lines.collect::<String>())
}
