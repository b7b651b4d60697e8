//! Compares the time of a reload with the time of HAProxy's own reload of the same configuration: `cargo xtask bench cost`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reloader_tests::bench::{Case, Change, Costs};
use reloader_tests::haproxy::{self, HaproxyBinary};
use reloader_tests::versions::{self, cache_dir};

use super::native::{ISOLATED, PACKAGES, build};
use super::run::output_within;
use crate::packages::ensure_apt;

/// The arguments of `cargo xtask bench cost`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Reloads by each, for each number of listeners
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=500))]
    rounds: u32,
    /// The number of listeners that are passed; may be given more than once [default: 1, 100, 1000 and 3000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=3000))]
    listeners: Vec<u16>,
    /// Leave out the reload that holds SYNs
    #[arg(long)]
    no_hold: bool,
    /// The HAProxy to reload: the path of one, or a version that the tests have, such as 3.0 or `newest` [default: the distribution's]
    #[arg(long, value_name = "FILE|VERSION")]
    haproxy: Option<String>,
    /// The cargo profile of reloader
    #[arg(long, value_name = "NAME", default_value = "release")]
    profile: String,
}

/// Measures and prints a table.
///
/// # Errors
/// If a reload failed.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    super::require_root()?;
    ensure_apt(&PACKAGES)?;
    let programs = build(&arguments.profile)?;
    let haproxy = arguments.haproxy.as_deref().map(path_of).transpose()?;
    let _lock = super::lock_machine(&cache_dir())?;
    let reloaded = HaproxyBinary::at(haproxy.clone().unwrap_or_else(haproxy::default_program))?;
    println!("HAProxy {}. {HEADING}", reloaded.version);
    for case in cases(arguments) {
        let costs = measure(&programs, case, haproxy.as_deref());
        let costs = costs.with_context(|| format!("{} listeners, {:?}", case.listeners, case.change))?;
        println!("{}", row(case, &costs));
    }
    Ok(())
}

fn path_of(haproxy: &str) -> Result<PathBuf> {
    if haproxy.contains('/') { Ok(haproxy.into()) } else { versions::by_name(haproxy) }
}

fn cases(arguments: &Arguments) -> Vec<Case> {
    let passed = match arguments.listeners.is_empty() {
        true => vec![1, 100, 1_000, 3_000],
        false => arguments.listeners.clone(),
    };
    let rounds = arguments.rounds;
    let passed = passed.into_iter().map(|listeners| Case { change: Change::Passed, listeners, rounds });
    let held = (!arguments.no_hold).then_some(Case { change: Change::Held, listeners: 1, rounds });
    passed.chain(held).collect()
}

fn measure(programs: &Path, case: Case, haproxy: Option<&Path>) -> Result<Costs> {
    let (program, words) = ISOLATED.split_first().context("a program")?;
    let mut command = Command::new(program);
    let change = match case.change {
        Change::Passed => "passed",
        Change::Held => "held",
    };
    command.args(words).arg("--").arg(programs.join("bench-cost"));
    command.args([change, &case.listeners.to_string(), &case.rounds.to_string()]);
    command.env("RELOADER_BIN", programs.join("reloader")).env("RUST_BACKTRACE", "0");
    if let Some(haproxy) = haproxy {
        command.env(haproxy::VARIABLE, haproxy);
    }
    let output = output_within(command, Duration::from_secs(300 + 10 * u64::from(case.rounds)))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    let costs = text.lines().find_map(|line| serde_json::from_str(line).ok());
    costs.context("bench-cost printed no figures")
}

const HEADING: &str = "Medians in ms; idle: resident MiB of the daemon before and after the reloads\n\
                       change  listeners  haproxy  reloader  ratio   more  master  idle         phases";

fn row(case: Case, costs: &Costs) -> String {
    let (own, ours) = (median(&costs.haproxy_us), median(&costs.reloader_us));
    let ms = |us: u64| us as f64 / 1_000.0;
    let master = match costs.master_us.is_empty() {
        true => "-".to_owned(),
        false => format!("{:.1}", ms(median(&costs.master_us))),
    };
    format!(
        "{:<7} {:>9} {:>8.1} {:>9.1} {:>6.2} {:>6.1} {:>7} {:>5.1} {:>5.1}   {}",
        format!("{:?}", case.change).to_lowercase(),
        case.listeners,
        ms(own),
        ms(ours),
        ours as f64 / own.max(1) as f64,
        ms(ours) - ms(own),
        master,
        costs.idle_kib as f64 / 1_024.0,
        costs.idle_after_kib as f64 / 1_024.0,
        phases(costs)
    )
}

/// The median of each step of the reloads.
fn phases(costs: &Costs) -> String {
    let mut steps: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (name, time) in costs.phases_us.iter().flatten() {
        steps.entry(name).or_default().push(*time);
    }
    let words = steps.iter().map(|(name, times)| format!("{name} {:.1}", median(times) as f64 / 1_000.0));
    words.collect::<Vec<_>>().join(", ")
}

fn median(times: &[u64]) -> u64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_shows_medians_their_ratio_and_difference() {
        let phases = [10, 30, 20].map(|start| vec![("start".to_owned(), start * 1_000)]);
        let costs = Costs {
            reloader_us: vec![90_000, 60_000, 50_000],
            haproxy_us: vec![40_000, 10_000, 30_000],
            phases_us: phases.to_vec(),
            ..Costs::default()
        };
        let row = row(Case { change: Change::Passed, listeners: 7, rounds: 3 }, &costs);
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words, ["passed", "7", "30.0", "60.0", "2.00", "30.0", "-", "0.0", "0.0", "start", "20.0"]);
    }

    #[test]
    fn held_change_is_measured_unless_left_out() {
        let arguments =
            |no_hold| Arguments { rounds: 2, listeners: vec![], no_hold, haproxy: None, profile: "release".into() };
        assert_eq!(
            cases(&arguments(true)).iter().map(|case| case.listeners).collect::<Vec<_>>(),
            [1, 100, 1_000, 3_000]
        );
        assert_eq!(cases(&arguments(false)).last().map(|case| case.change), Some(Change::Held));
    }
}
