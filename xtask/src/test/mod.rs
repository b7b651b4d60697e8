//! Runs the tests: first the unit tests, which need no privilege, then the integration tests with real servers. The tests that depend on the
//! kernel run in guests with other kernels at the same time.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use reloader_tests::versions::nginx;
use reloader_tests::{booted, haproxy, isolation, quic, versions};

use crate::interrupt;
use crate::packages::ensure_apt;

mod collector;
mod guests;
mod ladder;
mod lanes;
mod libtest;
mod machine_lock;
mod matrix;
mod programs;
mod progress;
mod proofs;
mod report;
mod rows;
mod single;
mod table;
mod tiers;
mod totals;
mod unit;

use guests::Guests;
use lanes::Lanes;
pub(crate) use machine_lock::MachineLock;
use matrix::Matrix;
use programs::{Programs, Test};
use progress::Progress;
pub(crate) use report::Report;
use single::Runner;
pub(crate) use tiers::Tier;
use tiers::Tiers;

/// The packages of the integration tests: the servers, the tools that check from outside, and those that unpack other versions.
const PACKAGES: [&str; 17] = [
    "debootstrap",
    "haproxy",
    "iproute2",
    "iptables",
    "libnginx-mod-stream",
    "lighttpd",
    "nftables",
    "nginx-light",
    "nodejs",
    "openssl",
    "patchelf",
    "python3-gunicorn",
    "python3-pip",
    "redis-tools",
    "strace",
    "systemd-container",
    "util-linux",
];

/// The arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// While working: the unit tests, and a few integration tests of each area
    #[arg(long, conflicts_with_all = ["all", "kernels"])]
    quick: bool,
    /// For a release: every test on every kernel, every loop in full
    #[arg(long)]
    all: bool,
    /// Run only on this machine's kernel
    #[arg(long, conflicts_with = "kernels")]
    host: bool,
    /// Run only in virtual machines with distributions' kernels
    #[arg(long)]
    kernels: bool,
    /// With --kernels: run only this kernel
    #[arg(long, requires = "kernels", value_name = "LINE")]
    kernel: Option<String>,
    /// With --kernels: run only the rows of this name
    #[arg(long, requires = "kernels", value_name = "NAME")]
    row: Option<String>,
    /// Run only the integration tests whose names contain this text, whatever their tier
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    /// With --host and a filter: run the tests that name no version with this HAProxy, such as 3.0
    #[arg(long, requires = "host", requires = "filter", value_name = "VERSION")]
    haproxy: Option<String>,
    /// With --host and a filter: run the tests with the nginx of this suite of Debian, such as sid
    #[arg(long, requires = "host", requires = "filter", value_name = "SUITE")]
    nginx: Option<String>,
}

impl Arguments {
    /// The arguments of a run of a whole tier.
    pub(crate) fn whole(tier: Tier) -> Arguments {
        Arguments {
            quick: tier == Tier::Quick,
            all: tier == Tier::All,
            host: false,
            kernels: false,
            kernel: None,
            row: None,
            filter: None,
            haproxy: None,
            nginx: None,
        }
    }

    fn matrix<'a>(&'a self, tiers: &'a Tiers) -> Matrix<'a> {
        Matrix {
            tier: self.tier(),
            tiers,
            kernel: self.kernel.as_deref(),
            name: self.row.as_deref(),
            filter: self.filter.as_deref(),
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

/// Runs the requested tests, and prints the report.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    interrupt::catch()?;
    // Only runs of a whole tier can be compared.
    let is_whole = arguments.filter.is_none() && !arguments.host && !arguments.kernels;
    let mut report = Report::new(is_whole.then(|| format!("test-{}", arguments.tier().word())));
    run_into(arguments, &mut report)?;
    report.finish()
}

/// Runs the requested tests. A failure on this machine's kernel does not prevent the tests in guests.
///
/// # Errors
/// If the tiers cannot be read, or the run is interrupted. All other failures are in the report.
pub(crate) fn run_into(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let tiers = Tiers::read()?;
    if !rustix::process::geteuid().is_root() && !arguments.kernels {
        return run_without_root(report);
    }
    isolation::sweep();
    isolation::IdleGroup::sweep();
    let (host, guests) = {
        // Builds and downloads use all processors.
        let _machine = MachineLock::shared()?;
        prepare(arguments, &tiers, report)?
    };
    run_prepared(arguments.tier(), host, guests.as_ref(), &tiers, report)
}

/// What runs on this machine.
struct HostTests {
    programs: Programs,
    tests: Vec<Test>,
    /// Other servers than the distribution's: variables that name them, and their paths.
    servers: Vec<(&'static str, PathBuf)>,
}

fn prepare<'a>(
    arguments: &'a Arguments,
    tiers: &'a Tiers,
    report: &mut Report,
) -> Result<(Option<HostTests>, Option<Guests<'a>>)> {
    let mut host = None;
    if !arguments.kernels {
        let prepared = prepare_host(arguments, tiers, report);
        host = report.add_result("on this machine", prepared)?;
    }
    let mut guests = None;
    let matrix = arguments.matrix(tiers);
    let runs_on_host_only = match &host {
        Some(HostTests { programs, .. }) if arguments.filter.is_some() => !matrix.has_any_of(&programs.tests()?)?,
        _ => false,
    };
    if !arguments.host && !arguments.quick && !runs_on_host_only {
        let prepared = matrix.prepare(report);
        guests = report.add_result("in guests", prepared)?.flatten();
    }
    if arguments.kernels && guests.is_none() {
        report.add_failure("no test was run".into());
    }
    Ok((host, guests))
}

/// Runs the lanes and the guests. Guests that get only idle processor time run beside the lanes, others after them.
fn run_prepared(
    tier: Tier,
    host: Option<HostTests>,
    guests: Option<&Guests<'_>>,
    tiers: &Tiers,
    report: &mut Report,
) -> Result<()> {
    let count = host.as_ref().map_or(0, |host| host.tests.len()) + guests.map_or(0, Guests::count);
    let progress = Progress::new(count);
    let (idle, after) = match guests {
        Some(guests) if guests.are_idle() => (Some(guests), None),
        guests => (None, guests),
    };
    let findings = std::thread::scope(|scope| -> Result<_> {
        let idle = idle.map(|guests| scope.spawn(|| guests.run(&progress)));
        if let Some(HostTests { programs, tests, servers }) = host {
            let runner = Runner { programs: &programs, tier, servers, logs: logs(&programs)? };
            let result = Lanes { runner, tiers, progress: &progress }.run(tests, report);
            report.add_result("on this machine", result)?;
        }
        let began = Instant::now();
        let findings = match idle {
            Some(guests) => Some(guests.join().expect("no guest's thread panics")),
            None => after.map(|guests| guests.run(&progress)),
        };
        if guests.is_some() {
            report.add_phase("tests in guests, after the others", began.elapsed());
        }
        findings.transpose()
    });
    drop(progress);
    if let Some(findings) = report.add_result("in guests", findings)?.flatten() {
        matrix::report_findings(findings, tiers, report);
    }
    Ok(())
}

/// Runs the unit tests alone. The report says that the integration tests were not run.
fn run_without_root(report: &mut Report) -> Result<()> {
    unit::run(&Programs::build_unit()?, None, report)?;
    report.add_failure(
        "the integration tests were not run. They need root, because they make namespaces, load eBPF programs and supervise a HAProxy \
         that changes its user. Run `sudo -E env PATH=$PATH cargo xtask test`"
            .into(),
    );
    Ok(())
}

/// Builds everything, runs the unit tests, and fetches what the integration tests need. Gives the integration tests to run.
fn prepare_host(arguments: &Arguments, tiers: &Tiers, report: &mut Report) -> Result<HostTests> {
    let began = Instant::now();
    let programs = Programs::build()?;
    interrupt::check()?;
    report.add_phase("build", began.elapsed());
    let all = programs.tests()?;
    tiers.check(&names(&all), &matrix::titles().into_iter().collect())?;
    let tests: Vec<Test> = all.into_iter().filter(|test| is_chosen(arguments, tiers, &test.name)).collect();
    ensure!(
        !tests.is_empty(),
        "no integration test contains `{}` in its name",
        arguments.filter.as_deref().unwrap_or("")
    );
    if arguments.filter.is_none() {
        unit::run(&programs.unit, Some(&programs.program("isolated")), report)?;
    }
    let began = Instant::now();
    ensure_apt(&PACKAGES)?;
    fetch(report);
    report.add_phase("downloads", began.elapsed());
    let haproxy = arguments.haproxy.as_deref().map(versions::by_name).transpose()?;
    let nginx = arguments.nginx.as_deref().map(nginx::of_suite).transpose()?;
    let haproxy = haproxy.map(|path| (haproxy::VARIABLE, path));
    let servers = haproxy.into_iter().chain(nginx.map(|path| (nginx::VARIABLE, path))).collect();
    Ok(HostTests { programs, tests, servers })
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

/// Downloads what the tests need besides packages. A failed download fails only the tests that need it.
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

/// The directory in which the output of each test is kept until the next run.
fn logs(programs: &Programs) -> Result<PathBuf> {
    let logs = programs.folder.with_file_name("test-logs");
    std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
    Ok(logs)
}
