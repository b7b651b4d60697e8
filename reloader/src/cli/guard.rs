//! `reloader guard`: not for people. Its standard input is the channel to the holder.

use super::{Exit, Failure};
use crate::gate::hold;

pub(super) fn run() -> Result<Exit, Failure> {
    match hold::run_guard() {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(Failure::new(Exit::Internal, format!("the guard of a hold: {error}"))),
    }
}
