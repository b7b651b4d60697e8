//! Runs one way of reloading under one share of the load.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::cpu;
use super::figures::Figures;
use super::server::{Server, WEB};
use super::way::Way;
use crate::guest;
use crate::load::{Load, Span, Window};
use crate::netns;

const WARM_UP: u32 = 200;

/// A part of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The number of connections.
    pub connections: u64,
    /// New connections per second.
    pub rate: u32,
    /// The number of reloads, spread evenly over the connections.
    pub reloads: u64,
}

/// Runs one way under this share. The calling process must be PID 1 of a process namespace, with the /proc of that
/// namespace.
///
/// # Errors
/// If a reload failed, or if the share could not be completed.
pub fn run(way: Way, share: Share) -> Result<Figures> {
    ensure!(std::process::id() == 1, "not PID 1: run it by `unshare --fork --pid --mount-proc`");
    netns::enter();
    // A guest first measures the rate that it sustains. That costs processor time too, so it is done before the server
    // starts.
    let share = Share { rate: guest::rate(share.rate), ..share };
    let mut server = Server::start(way);
    // A started process may not have run yet.
    warm_up();
    let before = cpu::used();
    let mut figures = under_load(&mut server, share).with_context(|| way.title())?;
    drop(server);
    let used = cpu::used_by_all()?.saturating_sub(before);
    figures.cpu_us = u64::try_from(used.as_micros())?;
    Ok(figures)
}

/// Waits until connections are served.
fn warm_up() {
    Load::to([WEB]).rate(WARM_UP).connections(u64::from(WARM_UP) / 10).run().assert_lossless();
}

fn under_load(server: &mut Server, share: Share) -> Result<Figures> {
    let began = Instant::now();
    let load = Load::to([WEB]).rate(share.rate).connections(share.connections).start();
    let (mut reloads, mut proven): (Vec<Window>, u64) = (Vec::new(), 0);
    for round in 1..=share.reloads {
        load.until_started(round * share.connections / (share.reloads + 1));
        ensure!(
            load.started() < share.connections,
            "reload {round} would begin after the load has ended: ask for fewer reloads"
        );
        let span = Span::begin("reload");
        proven += u64::from(server.reload()?);
        reloads.push(span.end());
    }
    let outcomes = load.wait();
    Ok(Figures { proven, ..Figures::from_outcomes(&outcomes, &reloads, began) })
}
