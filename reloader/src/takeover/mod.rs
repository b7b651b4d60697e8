//! `reloader takeover`: an existing, running unit of HAProxy is handed to reloader, and handed back.
//!
//! The unit keeps its name, and what else it says. By a drop-in its main process is the daemon from now on, which finds HAProxy running and
//! adopts it. Nobody is signalled: systemd is told to leave alone what runs in the unit while it changes its mind about who is the main
//! process (`KillMode=none`). Handed back, a new HAProxy gets the sockets of the generation that serves (`-x`).

mod carry_out;
mod command_line;
mod error;
mod files;
mod plan;
mod preflight;
mod systemd;
mod unit;

use std::path::Path;

pub use carry_out::{Asker, Report};
pub use error::TakeoverError;
pub use plan::Step;
pub(crate) use systemd::is_booted as systemd_is_booted;

use crate::config::Config;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// `haproxy.service`
    pub unit: &'a str,
    /// Hand it back.
    pub undo: bool,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// The configuration that the command line names.
    pub config_path: Option<&'a Path>,
    /// How the unit is to call this program.
    pub reloader: &'a str,
}

/// Hands a unit over or back. `say` hears of each step before it is taken.
///
/// # Errors
/// Why not, and what is changed all the same.
pub async fn run(
    ask: Ask<'_>,
    config: &Config,
    asker: &dyn Asker,
    say: &dyn Fn(&Step),
) -> Result<Report, TakeoverError> {
    match ask.undo {
        false => carry_out::take(ask, config, asker, say).await,
        true => carry_out::undo(ask, config, asker, say).await,
    }
}
