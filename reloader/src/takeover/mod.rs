//! `reloader takeover`: hands a running systemd unit of HAProxy to reloader, and back.
//!
//! The unit keeps its name and its other settings. A drop-in makes the daemon its main process. The daemon finds HAProxy
//! running and adopts it. No process of HAProxy gets a signal: while the main process changes, `KillMode=none` tells systemd to
//! leave alone what runs in the unit. When the unit is handed back, a new HAProxy gets the sockets of the serving generation
//! (`-x`).

mod commands;
mod daemon_client;
mod error;
mod files;
mod hand_back;
mod preflight;
mod request;
mod step_runner;
mod steps;
mod systemd;
mod table;
mod take_over;
mod unfinished;
mod unit;

pub use daemon_client::DaemonClient;
pub use error::TakeoverError;
pub use request::{TakeoverReport, TakeoverRequest};
pub use steps::Step;
pub(crate) use systemd::{daemon_unit, is_booted as systemd_is_booted};
pub use table::{Fate, Row};

use crate::config::Config;

/// Hands a unit over or back, as the request says. `announce` is called with each step before it is taken.
///
/// # Errors
/// Says why the unit cannot be handed over, or which step failed and in which state the unit is now.
pub async fn run(
    request: TakeoverRequest<'_>,
    config: &Config,
    daemon: &dyn DaemonClient,
    announce: &dyn Fn(&Step),
) -> Result<TakeoverReport, TakeoverError> {
    if request.dry_run || !systemd_is_booted() {
        return carry_out(request, config, daemon, announce).await;
    }
    let _lock = unfinished::TakeoverLock::take()?;
    let earlier = unfinished::put_right(request, config, daemon, announce).await?;
    match carry_out(request, config, daemon, announce).await {
        // What was asked for is what the earlier one had begun.
        Err(TakeoverError::AlreadyTaken(_) | TakeoverError::NotTaken { .. }) if !earlier.is_empty() => {
            Ok(TakeoverReport {
                unit: request.unit.into(),
                done: true,
                settings: Vec::new(),
                steps: earlier,
                may_have_lost: false,
                notes: vec!["an earlier takeover was ended before its end: what it had left is put right".into()],
            })
        }
        report => report,
    }
}

async fn carry_out(
    request: TakeoverRequest<'_>,
    config: &Config,
    daemon: &dyn DaemonClient,
    announce: &dyn Fn(&Step),
) -> Result<TakeoverReport, TakeoverError> {
    match request.undo {
        false => take_over::run(request, config, daemon, announce).await,
        true => hand_back::run(request, config, daemon, announce).await,
    }
}
