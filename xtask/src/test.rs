//! Everything that is tested: what needs no privilege first, then the integration tests against real HAProxy, then those
//! that depend on the kernel on others than this machine's.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use reloader_tests::{booted, isolation, quic, versions};

use crate::interrupt;
use crate::packages::ensure_apt;

mod ladder;
mod lanes;
mod libtest;
mod machine_lock;
mod matrix;
mod programs;
mod proofs;
mod report;
mod rows;
mod single;
mod table;
mod tiers;
mod totals;
mod unit;

pub(crate) use machine_lock::MachineLock;
use matrix::Matrix;
use programs::{Programs, Test};
pub(crate) use report::Report;
use single::Runner;
pub(crate) use tiers::Tier;
use tiers::Tiers;

/// What the integration tests call: the server, the tools that check from outside, and what unpacks other versions.
const PACKAGES: [&str; 12] = [
    "debootstrap",
    "haproxy",
    "iproute2",
    "iptables",
    "lighttpd",
    "nftables",
    "nginx-light",
    "openssl",
    "patchelf",
    "python3-pip",
    "systemd-container",
    "util-linux",
];

/// What `cargo xtask test` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// While working: the unit tests, and some integration tests of each area
    #[arg(long, conflicts_with_all = ["all", "kernels"])]
    quick: bool,
    /// For a release: every test on every kernel, every loop in full
    #[arg(long)]
    all: bool,
    /// Only on this machine's kernel
    #[arg(long, conflicts_with = "kernels")]
    host: bool,
    /// Only in virtual machines, on distributions' kernels
    #[arg(long)]
    kernels: bool,
    /// With --kernels: only on this one
    #[arg(long, requires = "kernels", value_name = "LINE")]
    kernel: Option<String>,
    /// With --kernels: only the rows of this name
    #[arg(long, requires = "kernels", value_name = "NAME")]
    row: Option<String>,
    /// Only integration tests with this in their names, whatever their tier
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
}

impl Arguments {
    /// Of a run before a change lands, or of one of everything.
    pub(crate) fn whole(tier: Tier) -> Arguments {
        Arguments {
            quick: tier == Tier::Quick,
            all: tier == Tier::All,
            host: false,
            kernels: false,
            kernel: None,
            row: None,
            filter: None,
        }
    }

    fn tier(&self) -> Tier {
        match (self.quick, self.all) {
            (true, _) => Tier::Quick,
            (_, true) => Tier::All,
            _ => Tier::Merge,
        }
    }
}

/// Runs what is asked for, and reports.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    interrupt::catch()?;
    // Only a whole run can be compared with another one.
    let is_whole = arguments.filter.is_none() && !arguments.host && !arguments.kernels;
    let mut report = Report::new(is_whole.then(|| format!("test-{}", arguments.tier().word())));
    run_into(arguments, &mut report)?;
    report.finish()
}

/// Runs what is asked for. What fails on this machine's kernel does not keep the others from telling what they have to tell.
///
/// # Errors
/// Where the tiers cannot be read, and when the run is interrupted; everything else is in the report.
pub(crate) fn run_into(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let tiers = Tiers::read()?;
    if !rustix::process::geteuid().is_root() && !arguments.kernels {
        return without_root(report);
    }
    isolation::sweep();
    if !arguments.kernels {
        let result = on_host(arguments, &tiers, report);
        report.add_result("on this machine", result)?;
    }
    if !arguments.host && !arguments.quick {
        let matrix = Matrix {
            tier: arguments.tier(),
            tiers: &tiers,
            kernel: arguments.kernel.as_deref(),
            name: arguments.row.as_deref(),
            filter: arguments.filter.as_deref(),
        };
        let result = matrix.run(report);
        report.add_result("in guests", result)?;
    }
    Ok(())
}

fn without_root(report: &mut Report) -> Result<()> {
    unit::run(&Programs::build_unit()?, None, report)?;
    report.add_failure(
        "the integration tests were not run: each has namespaces of its own, loads eBPF programs and supervises a HAProxy that \
         changes its user, which takes root. Run `sudo -E env PATH=$PATH cargo xtask test`"
            .into(),
    );
    Ok(())
}

fn on_host(arguments: &Arguments, tiers: &Tiers, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    let programs = {
        let _machine = MachineLock::shared()?;
        Programs::build()?
    };
    interrupt::check()?;
    report.add_phase("build", began.elapsed());
    let all = programs.tests()?;
    tiers.check(&names(&all), &matrix::titles().into_iter().collect())?;
    let tests: Vec<Test> = all.into_iter().filter(|test| is_chosen(arguments, tiers, &test.name)).collect();
    ensure!(!tests.is_empty(), "no integration test has `{}` in its name", arguments.filter.as_deref().unwrap_or(""));
    if arguments.filter.is_none() {
        let _machine = MachineLock::shared()?;
        unit::run(&programs.unit, Some(&programs.program("isolated")), report)?;
    }
    let began = Instant::now();
    ensure_apt(&PACKAGES)?;
    fetch(report);
    report.add_phase("downloads", began.elapsed());
    interrupt::check()?;
    let runner = Runner { programs: &programs, tier: arguments.tier(), logs: logs(&programs)? };
    lanes::run(&runner, tests, tiers, report)
}

fn names(tests: &[Test]) -> BTreeSet<String> {
    tests.iter().map(|test| test.name.clone()).collect()
}

fn is_chosen(arguments: &Arguments, tiers: &Tiers, test: &str) -> bool {
    match &arguments.filter {
        Some(filter) => test.contains(filter.as_str()),
        None => tiers.includes(arguments.tier(), test),
    }
}

/// What the tests need beside packages. What cannot be had fails the tests that need it, and no others.
fn fetch(report: &mut Report) {
    let cache = versions::cache_dir();
    let results = [
        versions::fetch_all(&cache).and_then(versions::Fetched::complete).map(drop),
        quic::fetch(&cache).map(drop),
        booted::fetch(&cache).map(drop),
        booted::fetch_sysvinit(&cache).map(drop),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        eprintln!("{error:#}");
        report.add_skipped("a download".into(), format!("{error:#}"));
    }
}

/// Where the output of each test is kept until the next run.
fn logs(programs: &Programs) -> Result<PathBuf> {
    let logs = programs.folder.with_file_name("test-logs");
    std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
    Ok(logs)
}
