//! `reloader daemon`

use std::io;

use super::{Context, Exit, Failure};
use crate::daemon::{self, DaemonError};
use crate::sys::{self, Inheritance};

pub(super) fn run(context: &Context, inheritance: io::Result<Inheritance>) -> Result<Exit, Failure> {
    let config = context.config()?;
    let inheritance = inheritance
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot read this process's own limits: {error}")))?;
    sys::hear_signals().map_err(|error| Failure::new(Exit::Internal, format!("cannot set signals: {error}")))?;
    let runtime = Context::runtime()?;
    let ended = runtime.block_on(daemon::run(config, context.config_path.clone(), inheritance));
    // A transfer that a client has stopped in may still wait in a thread.
    runtime.shutdown_background();
    match ended {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(Failure::new(exit(&error), error)),
    }
}

fn exit(error: &DaemonError) -> Exit {
    match error {
        DaemonError::Privilege(_) => Exit::Privilege,
        DaemonError::NoSuchGroup(_) | DaemonError::Haproxy(_) | DaemonError::Place { .. } => Exit::BadConfiguration,
        DaemonError::AlreadyRunning { .. } | DaemonError::CannotAdopt(_) => Exit::Failed,
        DaemonError::NothingServes(_) => Exit::NobodyServes,
        DaemonError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::Privilege,
        DaemonError::Io { .. } => Exit::Internal,
    }
}
