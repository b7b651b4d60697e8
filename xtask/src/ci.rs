//! Runs everything that a change must pass before it lands, and reports the time of each part.

use std::time::Duration;

use anyhow::Result;
use reloader_tests::cargo::cargo;

use crate::packages::run as run_command;
use crate::test::{self, MachineLock, Report, Tier};
use crate::{build_ebpf, demo, dist, interrupt};

/// What `cargo xtask ci` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// For a release: everything, and nothing believed that was built before
    #[arg(long)]
    all: bool,
    /// What was spent before this program ran, mostly on building it, in seconds
    #[arg(long, value_name = "SECONDS")]
    spent: Option<u64>,
}

/// Runs all of it, the cheap parts first; ends with one report.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    interrupt::catch()?;
    let tier = if arguments.all { Tier::All } else { Tier::Merge };
    let mut report = Report::new(Some(format!("ci-{}", tier.word())));
    if let Some(spent) = arguments.spent {
        report.add_phase("build of xtask", Duration::from_secs(spent));
    }
    check_without_tests(tier, &mut report)?;
    test::run_into(&test::Arguments::whole(tier), &mut report)?;
    // The README's first command. It looks at the eBPF objects of the whole machine.
    report.time("demo", || {
        let _machine = MachineLock::alone()?;
        demo::run(&demo::Arguments::default())
    })?;
    report.finish()
}

/// Style, documentation, and what is committed or published as built.
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
        // The guests run one that is built faster, and is seen to be static in every run.
        report.time("static binary", || dist::run(&dist::Arguments::default()))?;
    }
    Ok(())
}
