//! `reloader guard`, which a holder starts. Its standard input is the channel to the holder.

use super::{CliError, Exit};
use crate::gate::hold;

pub(super) fn run() -> Result<Exit, CliError> {
    match hold::run_guard() {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(CliError::new(Exit::Internal, format!("guard of a hold: {error}"))),
    }
}
