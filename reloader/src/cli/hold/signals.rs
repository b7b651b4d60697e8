//! Catches the signals that end a command at a terminal or under a service manager.

use std::fs::File;
use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::hold_command::CaughtSignal;

/// The signals that arrive from now on.
pub(super) fn catch() -> io::Result<UnboundedReceiver<CaughtSignal>> {
    let (sender, receiver) = unbounded_channel();
    let all = [
        (SignalKind::interrupt(), Signal::INT),
        (SignalKind::terminate(), Signal::TERM),
        (SignalKind::hangup(), Signal::HUP),
        (SignalKind::quit(), Signal::QUIT),
    ];
    let is_in_foreground = is_in_foreground();
    for (kind, number) in all {
        let reached_command = is_in_foreground && matches!(number, Signal::INT | Signal::QUIT);
        let caught = CaughtSignal { signal: number, reached_command };
        tokio::spawn(forward(signal(kind)?, caught, sender.clone()));
    }
    Ok(receiver)
}

async fn forward(mut signals: unix::Signal, caught: CaughtSignal, sender: UnboundedSender<CaughtSignal>) {
    while signals.recv().await.is_some() {
        if sender.send(caught).is_err() {
            return;
        }
    }
}

/// Whether this process is in the foreground of a terminal. A terminal sends SIGINT and SIGQUIT to all processes of its foreground
/// group, the command among them.
fn is_in_foreground() -> bool {
    let group = File::open("/dev/tty").ok().and_then(|terminal| rustix::termios::tcgetpgrp(terminal).ok());
    group.is_some_and(|group| group.as_raw_nonzero().get() == nix::unistd::getpgrp().as_raw())
}
