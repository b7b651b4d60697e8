//! How far it has got, on a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::Context;
use crate::prove::Stage;

/// Gone when dropped. Where there is no terminal, nothing is shown.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(context: &Context, reloads: u32) -> Bar {
        let target = match !context.quiet && std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(u64::from(reloads)), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} reloads  {msg}") {
            bar.set_style(style);
        }
        Bar(bar)
    }

    pub(super) fn show(&self, stage: Stage) {
        let now = if stage.is_reloading { ", reloading" } else { "" };
        self.0.set_position(u64::from(stage.reloads));
        self.0.set_message(format!("{} started, {} failed{now}", stage.started, stage.failed));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
