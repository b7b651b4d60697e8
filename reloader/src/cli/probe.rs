//! `reloader probe`

use super::{Context, Exit, Failure, output};

pub(super) fn run(_context: &Context, _format: output::Format) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Internal, "probe"))
}
