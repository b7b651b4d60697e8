//! Shows the progress of a run on a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar as IndicatifBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::Context;
use crate::prove::ProofProgress;

/// A bar on standard error, removed when dropped. It is hidden where standard error is not a terminal, and with `--quiet`.
pub(super) struct ProgressBar(IndicatifBar);

impl ProgressBar {
    pub(super) fn new(context: &Context, reloads: u32) -> ProgressBar {
        let target = match !context.quiet && std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = IndicatifBar::with_draw_target(Some(u64::from(reloads)), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} reloads  {msg}") {
            bar.set_style(style);
        }
        ProgressBar(bar)
    }

    pub(super) fn show(&self, progress: ProofProgress) {
        let reloading = if progress.is_reloading { ", reloading" } else { "" };
        self.0.set_position(u64::from(progress.reloads));
        self.0.set_message(format!("{} started, {} failed{reloading}", progress.started, progress.failed));
    }
}

impl Drop for ProgressBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
