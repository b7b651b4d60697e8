//! Measures ways on this machine's own kernel.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use reloader_tests::bench::{Figures, Share, Way};

use super::document::Row;
use super::plan::{Load, Task};
use super::run::output_within;
use crate::packages::{ensure_apt, run};
use crate::profile;

pub(super) const PACKAGES: [&str; 7] =
    ["haproxy", "iproute2", "iptables", "libnginx-mod-stream", "nftables", "nginx-light", "util-linux"];

/// The command that isolates a share. In a process namespace of its own it can count all processor time, and leaves no process behind.
pub(super) const ISOLATED: [&str; 6] = ["unshare", "--fork", "--pid", "--mount", "--mount-proc", "--kill-child"];

/// Measures these ways. Returns one row for each way, in the same order.
pub(super) fn measure(ways: &[Way], load: &Load, profile: &str) -> Result<Vec<Row>> {
    if ways.is_empty() {
        return Ok(Vec::new());
    }
    ensure_apt(&PACKAGES)?;
    let programs = build(profile)?;
    let tasks = load.tasks(ways);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed}, {eta} to go  {msg}")?;
    let progress = ProgressBar::new(tasks.len() as u64).with_style(style);
    let (mut sums, mut failures) = (BTreeMap::<Way, Figures>::new(), BTreeMap::<Way, String>::new());
    for Task { way, share, round } in tasks {
        progress.set_message(way.title());
        // A way that failed in one share is not measured further.
        if let Entry::Vacant(failure) = failures.entry(way) {
            match run_slice(&programs, way, share) {
                Ok(figures) => sums.entry(way).or_default().add(&figures),
                Err(error) => drop(failure.insert(format!("in round {}: {error:#}", round + 1))),
            }
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    let row = |way: &Way| match failures.get(way) {
        Some(reason) => Row::failed(*way, reason),
        None => Row::measured(*way, sums.get(way).cloned().unwrap_or_default()),
    };
    Ok(ways.iter().map(row).collect())
}

/// Builds the programs and gives their directory.
pub(super) fn build(profile: &str) -> Result<PathBuf> {
    run(profile::build_programs(profile).arg("--quiet"))?;
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("a program that cargo built has a target directory")?;
    Ok(target.join(profile::directory(profile)))
}

/// Puts a way through one share of the load.
fn run_slice(programs: &Path, way: Way, share: Share) -> Result<Figures> {
    let (program, words) = ISOLATED.split_first().context("a program")?;
    let mut command = Command::new(program);
    command.args(words).arg("--").arg(programs.join("bench-slice")).args(slice_words(way, share));
    // The report shows the message of a failure, which needs no backtrace.
    command.env("RELOADER_BIN", programs.join("reloader")).env("RUST_BACKTRACE", "0");
    let output = output_within(command, limit(share))?;
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    figures(&String::from_utf8_lossy(&output.stdout)).context("bench-slice printed no figures")
}

/// The limit of a share, many times what it takes: twice the time of its load, more than a minute for each reload, because a hold may last
/// as long, and five minutes for the rest.
fn limit(share: Share) -> Duration {
    let load = share.connections / u64::from(share.rate.max(1));
    Duration::from_secs(300 + 2 * load + 70 * share.reloads)
}

/// The arguments of `bench-slice`.
pub(super) fn slice_words(way: Way, share: Share) -> [String; 4] {
    let Share { connections, rate, reloads } = share;
    [way.to_string(), connections.to_string(), rate.to_string(), reloads.to_string()]
}

/// The figures in a line of the output of `bench-slice`; none if the line is something else.
pub(super) fn figures(line: &str) -> Option<Figures> {
    serde_json::from_str(line).ok()
}
