//! Compares the ways of reloading HAProxy: puts each of them under the same load, and measures what it costs.
//!
//! The load is cut into shares, and each round puts every way through one share, so that a drift of the machine affects all ways. A share runs
//! in namespaces of its own, as the program `bench-slice`.

mod cost;
mod document;
mod guest;
mod machine;
mod native;
mod page;
mod panel;
mod plan;
mod plot;
mod readme;
mod run;
mod table;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use reloader_tests::bench::Way;
use reloader_tests::versions::cache_dir;

use document::{Document, Row};
use plan::Load;

/// The arguments of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Connections for each way of reloader; at 4,000/s a million take more than four minutes. Of such a large load, the ways
    /// without reloader get a fifth
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100..), conflicts_with = "from")]
    connections: u64,
    /// Reloads for each way [default: one for each 5,000 connections]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "from")]
    reloads: Option<u64>,
    /// New connections each second
    #[arg(long, value_name = "N", default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "from")]
    rate: u32,
    /// Give the ways without reloader the full number of connections too
    #[arg(long, conflicts_with = "from")]
    all: bool,
    /// Measure only this way; may be given more than once
    #[arg(long, value_name = "WAY")]
    only: Vec<Way>,
    /// Leave out the ways that need a virtual machine
    #[arg(long)]
    no_vm: bool,
    /// The cargo profile of reloader
    #[arg(long, value_name = "NAME", default_value = "release")]
    profile: String,
    /// The directory for bench.json and bench.html [default: target/bench, if anything was measured]
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
    /// Write the figures into README.md and docs/ too, and docs/bench.json, from which they can be written again
    #[arg(long)]
    readme: bool,
    /// Use this bench.json instead of measuring. With --only: measure those ways again under its load, and keep its other rows
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Part {
    /// Compare the time of a reload with the time of HAProxy's own reload, without load
    Cost(cost::Arguments),
}

/// Runs the benchmark and writes its results.
///
/// # Errors
/// If a way could not be measured. The results of the others are written before.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(Part::Cost(arguments)) = &arguments.part {
        return cost::run(arguments);
    }
    let before = arguments.from.as_deref().map(Document::read).transpose()?;
    let measures = before.is_none() || !arguments.only.is_empty();
    let document = match before {
        Some(document) if !measures => document,
        Some(document) => measure_again(arguments, document)?,
        None => measure_all(arguments)?,
    };
    print!("{}", table::text(&document));
    // If nothing was measured, the results of an earlier run are kept.
    let default = measures.then(|| crate::repository().join("target/bench"));
    if let Some(directory) = arguments.out.clone().or(default) {
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        write(&directory.join("bench.json"), &document.json()?)?;
        write(&directory.join("bench.html"), &page::html(&document))?;
    }
    if arguments.readme {
        readme::write(&crate::repository(), &document)?;
    }
    let failed: Vec<&str> = document.rows.iter().filter(|row| row.failed).map(|row| row.way.name()).collect();
    ensure!(failed.is_empty(), "could not be measured: {}", failed.join(", "));
    Ok(())
}

fn measure_all(arguments: &Arguments) -> Result<Document> {
    let load = Load::new(arguments.connections, arguments.reloads, arguments.rate, arguments.all);
    let mut rows = measure(arguments, &load)?;
    for way in Way::ALL.into_iter().filter(|way| !is_chosen(arguments, *way)) {
        rows.push(Row::not_run(way, "--only names other ways"));
    }
    rows.sort_by_key(|row| row.way);
    Ok(Document { machine: machine::describe(&arguments.profile), load, rows })
}

fn measure_again(arguments: &Arguments, before: Document) -> Result<Document> {
    let rows = measure(arguments, &before.load)?;
    Ok(before.with(rows, &machine::describe(&arguments.profile)))
}

fn is_chosen(arguments: &Arguments, way: Way) -> bool {
    arguments.only.is_empty() || arguments.only.contains(&way)
}

/// Measures each requested way, and gives their rows.
fn measure(arguments: &Arguments, load: &Load) -> Result<Vec<Row>> {
    require_root()?;
    let _lock = lock_machine(&cache_dir())?;
    let chosen = Way::ALL.into_iter().filter(|way| is_chosen(arguments, *way));
    let (in_guest, here): (Vec<Way>, Vec<Way>) = chosen.partition(|way| way.needs_guest());
    let mut rows = native::measure(&here, load, &arguments.profile)?;
    for way in in_guest {
        rows.push(match arguments.no_vm {
            true => Row::not_run(way, "needs a virtual machine, and --no-vm was given"),
            false => guest::measure(way, load),
        });
    }
    Ok(rows)
}

fn require_root() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the benchmark needs root, because it makes network namespaces, loads eBPF programs and runs a HAProxy that changes its \
         user. Run `sudo -E env PATH=$PATH cargo xtask bench`"
    );
    Ok(())
}

/// Waits for any other benchmark on this machine, because two at once would disturb each other. The lock is released on drop.
fn lock_machine(cache: &Path) -> Result<File> {
    let path = cache.join("bench.lock");
    let lock = || {
        fs::create_dir_all(cache)?;
        let file = File::create(&path)?;
        if file.try_lock().is_err() {
            eprintln!("waiting for another benchmark on this machine ({})", path.display());
            file.lock()?;
        }
        Ok::<_, std::io::Error>(file)
    };
    lock().with_context(|| path.display().to_string())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())?;
    eprintln!("written: {}", path.display());
    Ok(())
}
