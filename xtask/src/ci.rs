//! Runs everything that a change must pass before it lands, and reports the time of each part.

use std::time::Duration;

use anyhow::Result;
use reloader_tests::cargo::cargo;

use crate::packages::run as run_command;
use crate::test::{self, MachineLock, Report, Tier};
use crate::{build_ebpf, demo, dist, interrupt};

/// The arguments of `cargo xtask ci`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// For a release: run every test, and build the committed and published objects again
    #[arg(long)]
    all: bool,
    /// Seconds spent before this program ran, mostly on building it
    #[arg(long, value_name = "SECONDS")]
    spent: Option<u64>,
}

/// Runs all parts, the cheap ones first, and ends with one report.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    interrupt::catch()?;
    let tier = if arguments.all { Tier::All } else { Tier::Merge };
    let mut report = Report::new(Some(format!("ci-{}", tier.word())));
    if let Some(spent) = arguments.spent {
        report.add_phase("build of xtask", Duration::from_secs(spent));
    }
    check_without_tests(tier, &mut report)?;
    test::run_into(&test::Arguments::whole(tier), &mut report)?;
    // The README's first command. It compares the eBPF objects of the whole machine, so it needs the machine to itself.
    report.time("demo", || {
        let _machine = MachineLock::alone()?;
        demo::run(&demo::Arguments::default())
    })?;
    report.finish()
}

/// Checks style, documentation, and the committed and published objects.
fn check_without_tests(tier: Tier, report: &mut Report) -> Result<()> {
    let _machine = MachineLock::shared()?;
    report.time("lint", || {
        run_command(cargo().args(["fmt", "--all", "--check"]))?;
        run_command(cargo().args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    })?;
    report.time("docs", || {
        let mut doc = cargo();
        doc.args(["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"]);
        run_command(doc.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    report.time("eBPF objects", || build_ebpf::check(tier == Tier::All))?;
    if tier == Tier::All {
        // The guests run another static binary, which is built faster. Every run checks that it is static.
        report.time("static binary", || dist::run(&dist::Arguments::default()))?;
    }
    Ok(())
}
