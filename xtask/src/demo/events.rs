//! Plays the events of the demo under load: reloads, changes of the configuration, and kills.

use std::fs;
use std::path::Path;

use anyhow::ensure;
use indicatif::{ProgressBar, ProgressStyle};
use reloader_tests::config::Config;
use reloader_tests::load::{Load, Outcomes, Running, Span, Window};
use reloader_tests::netns;
use reloader_tests::rig::Rig;

const RATE: u32 = 2_000;
const RELOADS: usize = 20;
const KILLS: usize = 3;
/// Connections between two reloads.
const PAUSE: u64 = 400;
/// Connections before a kill: more than a second's, because the daemon answers a crash loop more slowly.
const PAUSE_BEFORE_KILL: u64 = 2_500;

/// The outcome of the load, the times of the events, and the receipts as text.
pub(super) struct Played {
    pub(super) outcomes: Outcomes,
    pub(super) windows: Vec<Window>,
    pub(super) history: String,
}

impl Played {
    /// Judges the demo.
    ///
    /// # Errors
    /// If a connection was refused, or lost other than inside a killed HAProxy.
    pub(super) fn verdict(&self) -> anyhow::Result<()> {
        ensure!(
            self.outcomes.kept_schedule(),
            "the load generator fell behind its schedule: this machine is too busy for figures"
        );
        for (label, summary) in self.outcomes.by_window(&self.windows) {
            ensure!(summary.refused == 0, "{} connections were refused ({label})", summary.refused);
            ensure!(label == KILL || summary.failed() == 0, "{} connections were lost ({label})", summary.failed());
        }
        Ok(())
    }
}

pub(super) const KILL: &str = "kill -9 haproxy";

struct Stage {
    rig: Rig,
    load: Running,
    windows: Vec<Window>,
    progress: ProgressBar,
}

/// Plays all events once.
pub(super) fn play(reloader: &Path) -> anyhow::Result<Played> {
    netns::enter();
    let rig = Rig::with(&config()).reloader(reloader).tables("[reload]\ncount-syns = true\n").start();
    let events = (RELOADS + 3 + KILLS) as u64;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  {msg}")?;
    let progress = ProgressBar::new(events).with_style(style);
    println!(
        "HAProxy under {RATE} new connections/s: {RELOADS} reloads, a bind added and removed, a broken configuration, {KILLS} kills"
    );
    let load = Load::to(["127.0.0.1:8080", "127.0.0.1:8081", "[::1]:8080"]).rate(RATE).start();
    let mut stage = Stage { rig, load, windows: Vec::new(), progress };
    for _ in 0..RELOADS {
        stage.reload("reload", 0)?;
    }
    stage.rig.configure(&config().frontend("added", &["127.0.0.1:8082"]));
    stage.reload("bind added", 0)?;
    stage.rig.configure(&config());
    stage.reload("bind removed", 0)?;
    fs::write(stage.rig.haproxy_cfg(), "this is not a configuration\n")?;
    stage.reload("broken configuration", 1)?;
    stage.rig.configure(&config());
    for _ in 0..KILLS {
        stage.kill();
    }
    stage.progress.finish_and_clear();
    let history = stage.rig.run(&["history", "-n", "100"]).stdout;
    Ok(Played { outcomes: stage.load.stop(), windows: stage.windows, history })
}

fn config() -> Config {
    Config::new().frontend("web", &["127.0.0.1:8080", "127.0.0.1:8081", "[::1]:8080 v6only"])
}

impl Stage {
    fn reload(&mut self, label: &str, expected: i32) -> anyhow::Result<()> {
        self.pause(label, PAUSE);
        let span = Span::begin(label);
        let answer = self.rig.reload();
        self.windows.push(span.end());
        ensure!(
            answer.status == expected,
            "{label}: `reloader reload` ended with {}: {}{}",
            answer.status,
            answer.stdout,
            answer.stderr
        );
        Ok(())
    }

    fn kill(&mut self) {
        self.pause(KILL, PAUSE_BEFORE_KILL);
        let Some(serving) = self.rig.serving() else { return };
        let span = Span::begin(KILL);
        serving.signal(nix::sys::signal::Signal::SIGKILL);
        self.rig.until_replaced(serving);
        self.windows.push(span.end());
    }

    fn pause(&mut self, label: &str, connections: u64) {
        self.progress.set_message(label.to_owned());
        self.load.until_further(connections);
        self.progress.inc(1);
    }
}
