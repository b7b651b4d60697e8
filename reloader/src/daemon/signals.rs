//! What the daemon makes of signals.
//!
//! The kernel has no default actions for PID 1 of a container: a signal that it does not catch does nothing, SIGKILL and SIGSTOP from outside
//! excepted. So as PID 1 it answers to each signal by which people and images stop or reload what runs in a container.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::DaemonError;
use super::event_loop::TICK;
use crate::process::{self, children};

/// What a signal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The end.
    Stop,
    /// This, to each service's loop.
    Tell(Told),
}

/// What a signal tells one service's loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Read reloader's own configuration again.
    Read,
    /// Then reload, too.
    Reload,
}

/// What is caught, and what it means. Pure.
fn meanings(is_init: bool) -> Vec<(SignalKind, &'static str, Meaning)> {
    let stops = |kind, name| (kind, name, Meaning::Stop);
    let tells = |kind, name, told| (kind, name, Meaning::Tell(told));
    let mut meanings = vec![stops(SignalKind::terminate(), "SIGTERM"), stops(SignalKind::interrupt(), "SIGINT")];
    if is_init {
        // `STOPSIGNAL` of HAProxy's image and of nginx's: an image that is made from them inherits it.
        meanings.extend([stops(SignalKind::user_defined1(), "SIGUSR1"), stops(SignalKind::quit(), "SIGQUIT")]);
        // What reloads a master of HAProxy, and with it HAProxy's image.
        meanings.push(tells(SignalKind::user_defined2(), "SIGUSR2", Told::Reload));
    }
    meanings.push(tells(SignalKind::hangup(), "SIGHUP", if is_init { Told::Reload } else { Told::Read }));
    meanings
}

/// What has been caught.
pub(super) struct Signals {
    /// Makes it true as a signal does.
    pub(super) stop: watch::Sender<bool>,
    /// Becomes true with the first signal that means the end, so that a start that hangs is given up at once.
    pub(super) stopping: watch::Receiver<bool>,
    /// What each service's loop is told.
    pub(super) told: Vec<mpsc::UnboundedReceiver<Told>>,
}

/// Catches signals from before anything is started: the default of each is death, and as PID 1 to be lost.
pub(super) fn catch(services: usize) -> Result<Signals, DaemonError> {
    let (stop, stopping) = watch::channel(false);
    let (senders, told): (Vec<_>, Vec<_>) = (0..services).map(|_| mpsc::unbounded_channel()).unzip();
    for (kind, name, meaning) in meanings(process::is_init()) {
        let mut caught = signal(kind).map_err(DaemonError::io("catching signals"))?;
        let (stop, senders) = (stop.clone(), senders.clone());
        tokio::spawn(async move {
            while caught.recv().await.is_some() {
                log::info!("{name} was received");
                match meaning {
                    Meaning::Stop => drop(stop.send(true)),
                    Meaning::Tell(told) => senders.iter().for_each(|sender| {
                        // A loop that has ended hears nothing.
                        let _ = sender.send(told);
                    }),
                }
            }
        });
    }
    Ok(Signals { stop, stopping, told })
}

/// As PID 1, waits for the orphans of the container from now on.
pub(super) fn reap_as_init() -> Result<(), DaemonError> {
    if !process::is_init() {
        return Ok(());
    }
    let mut ended = signal(SignalKind::child()).map_err(DaemonError::io("catching SIGCHLD"))?;
    let mut tick = tokio::time::interval(TICK);
    tokio::spawn(async move {
        loop {
            // A child that nobody waits for any more is an orphan only then, and no signal tells of that.
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

    fn meaning(is_init: bool, kind: SignalKind) -> Option<Meaning> {
        meanings(is_init).into_iter().find(|(caught, ..)| *caught == kind).map(|(.., meaning)| meaning)
    }

    #[test]
    fn pid_1_answers_to_what_stops_and_reloads_containers() {
        for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::user_defined1()]
        {
            assert_eq!(meaning(true, kind), Some(Meaning::Stop));
        }
        for kind in [SignalKind::hangup(), SignalKind::user_defined2()] {
            assert_eq!(meaning(true, kind), Some(Meaning::Tell(Told::Reload)));
        }
    }

    #[test]
    fn any_other_daemon_leaves_to_the_kernel_what_it_does_not_document() {
        assert_eq!(meaning(false, SignalKind::terminate()), Some(Meaning::Stop));
        assert_eq!(meaning(false, SignalKind::hangup()), Some(Meaning::Tell(Told::Read)));
        assert_eq!(meaning(false, SignalKind::quit()), None);
        assert_eq!(meaning(false, SignalKind::user_defined1()), None);
    }
}
