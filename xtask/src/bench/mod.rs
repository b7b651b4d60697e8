//! The same load against each way of reloading HAProxy in turn, and what each of them costs.
//!
//! The load is cut into shares, and each round puts every way through one of them, so that a machine that drifts does so
//! for all. A share runs in namespaces of its own, as the program `bench-slice`.

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

/// What `cargo xtask bench` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Connections for each way of reloader's; at 4,000/s a million take more than four minutes. The others have a fifth of a
    /// load as large as that
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100..), conflicts_with = "from")]
    connections: u64,
    /// Reloads for each way; one for 5,000 connections unless told
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "from")]
    reloads: Option<u64>,
    /// New connections each second
    #[arg(long, value_name = "N", default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "from")]
    rate: u32,
    /// As many connections for the ways without reloader
    #[arg(long, conflicts_with = "from")]
    all: bool,
    /// Only this way; may be given more than once
    #[arg(long, value_name = "WAY")]
    only: Vec<Way>,
    /// Leave out what needs a virtual machine
    #[arg(long)]
    no_vm: bool,
    /// What cargo builds reloader with
    #[arg(long, value_name = "NAME", default_value = "release")]
    profile: String,
    /// Where bench.json and bench.html are written; target/bench unless told, if anything was measured
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
    /// Write the README's table and plot too, and docs/bench.json, from which they can be written again
    #[arg(long)]
    readme: bool,
    /// Measure nothing: take this bench.json. With --only: measure those ways again under its load, and keep its other rows
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

/// Runs it. An error where a way could not be put through its load, after everything else was written.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let before = arguments.from.as_deref().map(Document::read).transpose()?;
    let measures = before.is_none() || !arguments.only.is_empty();
    let document = match before {
        Some(document) if !measures => document,
        Some(document) => again(arguments, document)?,
        None => anew(arguments)?,
    };
    print!("{}", table::text(&document));
    // What an earlier run wrote stays where nothing was measured.
    let usual = measures.then(|| crate::repository().join("target/bench"));
    if let Some(directory) = arguments.out.clone().or(usual) {
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

fn anew(arguments: &Arguments) -> Result<Document> {
    let load = Load::new(arguments.connections, arguments.reloads, arguments.rate, arguments.all);
    let mut rows = measure(arguments, &load)?;
    for way in Way::ALL.into_iter().filter(|way| !is_chosen(arguments, *way)) {
        rows.push(Row::not_run(way, "--only was given for others"));
    }
    rows.sort_by_key(|row| row.way);
    Ok(Document { machine: machine::facts(&arguments.profile), load, rows })
}

fn again(arguments: &Arguments, before: Document) -> Result<Document> {
    let rows = measure(arguments, &before.load)?;
    Ok(before.with(rows, &machine::facts(&arguments.profile)))
}

fn is_chosen(arguments: &Arguments, way: Way) -> bool {
    arguments.only.is_empty() || arguments.only.contains(&way)
}

/// A row for each way that is asked for.
fn measure(arguments: &Arguments, load: &Load) -> Result<Vec<Row>> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the benchmark makes network namespaces, loads eBPF programs and runs a HAProxy that changes its user, which takes \
         root. Run `sudo -E env PATH=$PATH cargo xtask bench`"
    );
    let _alone = alone(&cache_dir())?;
    let chosen = Way::ALL.into_iter().filter(|way| is_chosen(arguments, *way));
    let (in_guest, here): (Vec<Way>, Vec<Way>) = chosen.partition(|way| way.needs_guest());
    let mut rows = native::measure(&here, load, &arguments.profile)?;
    for way in in_guest {
        rows.push(match arguments.no_vm {
            true => Row::not_run(way, "it needs a virtual machine, and --no-vm was given"),
            false => guest::measure(way, load),
        });
    }
    Ok(rows)
}

/// Waits for any other benchmark on this machine: two at once would measure each other. Until what it gives is dropped.
fn alone(cache: &Path) -> Result<File> {
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
