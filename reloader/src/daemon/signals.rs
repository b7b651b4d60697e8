//! Turns signals into actions.
//!
//! The default action of most signals ends the process, which recipes for HAProxy do not intend. PID 1 of a container has no default actions:
//! there a signal that is not caught does nothing, apart from SIGKILL and SIGSTOP from outside. So the daemon catches each signal by which people and
//! images stop or reload a server.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::DaemonError;
use super::timing::HOUSEKEEPING_INTERVAL;
use crate::process::{self, children};

/// What a signal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignalMeaning {
    /// The daemon ends.
    Stop,
    /// Each service's loop takes this action.
    Tell(SignalAction),
    /// Nothing but a line in the log.
    Nothing,
}

/// What a signal tells one service's loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SignalAction {
    /// Read reloader's own configuration again.
    Read,
    /// Read it again, then reload. The name of the signal is for the receipt.
    Reload(&'static str),
}

/// The signals that are caught, and their meaning. Pure. The table for people is in docs/reference/commands.md.
fn signal_meanings(is_init: bool) -> Vec<(SignalKind, &'static str, SignalMeaning)> {
    let tells = |kind, name, told| (kind, name, SignalMeaning::Tell(told));
    // `STOPSIGNAL` of HAProxy's image and of nginx's, which an image made from them inherits. Elsewhere these signals come from recipes for
    // HAProxy and nginx that end an old process gracefully, and this process is not an old one.
    let from_recipes = if is_init { SignalMeaning::Stop } else { SignalMeaning::Nothing };
    vec![
        (SignalKind::terminate(), "SIGTERM", SignalMeaning::Stop),
        (SignalKind::interrupt(), "SIGINT", SignalMeaning::Stop),
        (SignalKind::user_defined1(), "SIGUSR1", from_recipes),
        (SignalKind::quit(), "SIGQUIT", from_recipes),
        // The signal that reloads a master of HAProxy, and with it HAProxy's unit and image.
        tells(SignalKind::user_defined2(), "SIGUSR2", SignalAction::Reload("SIGUSR2")),
        // A service manager has a reload of its own, which waits for the outcome.
        tells(
            SignalKind::hangup(),
            "SIGHUP",
            if is_init { SignalAction::Reload("SIGHUP") } else { SignalAction::Read },
        ),
    ]
}

/// What has been caught.
pub(super) struct Signals {
    /// Sets `stopping` to true, as a signal does.
    pub(super) stop: watch::Sender<bool>,
    /// Becomes true with the first signal that means the end, so that a start that hangs is given up at once.
    pub(super) stopping: watch::Receiver<bool>,
    /// What each service's loop is told.
    pub(super) actions: Vec<mpsc::UnboundedReceiver<SignalAction>>,
}

/// Catches signals before anything is started.
pub(super) fn catch(services: usize) -> Result<Signals, DaemonError> {
    let (stop, stopping) = watch::channel(false);
    let (senders, actions): (Vec<_>, Vec<_>) = (0..services).map(|_| mpsc::unbounded_channel()).unzip();
    for (kind, name, meaning) in signal_meanings(process::is_init()) {
        let mut caught = signal(kind).map_err(DaemonError::io("catching signals"))?;
        let (stop, senders) = (stop.clone(), senders.clone());
        tokio::spawn(async move {
            while caught.recv().await.is_some() {
                log::info!("{name} was received");
                match meaning {
                    SignalMeaning::Nothing => {
                        log::warn!("{name} does nothing here: SIGTERM or `reloader stop` ends the daemon")
                    }
                    SignalMeaning::Stop => drop(stop.send(true)),
                    SignalMeaning::Tell(told) => senders.iter().for_each(|sender| {
                        // A loop that has ended hears nothing.
                        let _ = sender.send(told);
                    }),
                }
            }
        });
    }
    Ok(Signals { stop, stopping, actions })
}

/// As PID 1, waits for the orphans of the container from now on.
pub(super) fn reap_as_init() -> Result<(), DaemonError> {
    if !process::is_init() {
        return Ok(());
    }
    let mut ended = signal(SignalKind::child()).map_err(DaemonError::io("catching SIGCHLD"))?;
    let mut tick = tokio::time::interval(HOUSEKEEPING_INTERVAL);
    tokio::spawn(async move {
        loop {
            // A child that the daemon stops waiting for becomes an orphan at that moment, and no signal tells of it.
            tokio::select! {
                _ = ended.recv() => {}
                _ = tick.tick() => {}
            }
            let reaped = children::reap_orphans();
            if !reaped.is_empty() {
                log::debug!("orphans have ended: {reaped:?}");
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(is_init: bool, kind: SignalKind) -> Option<SignalMeaning> {
        signal_meanings(is_init).into_iter().find(|(caught, ..)| *caught == kind).map(|(.., meaning)| meaning)
    }

    #[test]
    fn pid_1_obeys_the_signals_that_stop_and_reload_containers() {
        for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::user_defined1()]
        {
            assert_eq!(meaning(true, kind), Some(SignalMeaning::Stop));
        }
        for (kind, name) in [(SignalKind::hangup(), "SIGHUP"), (SignalKind::user_defined2(), "SIGUSR2")] {
            assert_eq!(meaning(true, kind), Some(SignalMeaning::Tell(SignalAction::Reload(name))));
        }
    }

    #[test]
    fn daemon_that_is_not_pid_1_reloads_by_sigusr2_and_ignores_the_signals_of_recipes() {
        assert_eq!(meaning(false, SignalKind::terminate()), Some(SignalMeaning::Stop));
        assert_eq!(meaning(false, SignalKind::hangup()), Some(SignalMeaning::Tell(SignalAction::Read)));
        assert_eq!(
            meaning(false, SignalKind::user_defined2()),
            Some(SignalMeaning::Tell(SignalAction::Reload("SIGUSR2")))
        );
        for kind in [SignalKind::quit(), SignalKind::user_defined1()] {
            assert_eq!(meaning(false, kind), Some(SignalMeaning::Nothing));
        }
    }

    #[test]
    fn reload_outranks_a_read_of_the_configuration() {
        assert!(SignalAction::Reload("SIGUSR2") > SignalAction::Read);
    }
}
