//! `reloader daemon`: runs the daemon in the foreground.

use std::io;

use super::{CliError, Context, Exit};
use crate::daemon::{self, DaemonError};
use crate::sys::{self, Inheritance};

pub(super) fn run(context: &Context, inheritance: io::Result<Inheritance>) -> Result<Exit, CliError> {
    let config = context.config()?;
    let inheritance = inheritance
        .map_err(|error| CliError::new(Exit::Internal, format!("cannot read this process's limits: {error}")))?;
    sys::unblock_signals().map_err(|error| CliError::new(Exit::Internal, format!("cannot set up signals: {error}")))?;
    let runtime = Context::runtime()?;
    let ended = runtime.block_on(daemon::run(config, context.config_path.clone(), inheritance));
    // Do not wait for the runtime's threads: one may still wait for a client that stopped in the middle of a transfer.
    runtime.shutdown_background();
    match ended {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(CliError::new(exit_for(&error), error)),
    }
}

fn exit_for(error: &DaemonError) -> Exit {
    match error {
        DaemonError::Privilege(_) => Exit::Privilege,
        DaemonError::NoSuchGroup(_) | DaemonError::Haproxy(_) | DaemonError::Place { .. } => Exit::BadConfiguration,
        DaemonError::AlreadyRunning { .. } | DaemonError::CannotAdopt(_) => Exit::Failed,
        DaemonError::NothingServes(_) => Exit::NothingServes,
        DaemonError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::Privilege,
        DaemonError::Io { .. } => Exit::Internal,
    }
}
