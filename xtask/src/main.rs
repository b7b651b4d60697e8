//! Runs the project's tasks: see `cargo xtask --help`.
#![expect(clippy::disallowed_methods, reason = "the tasks start programs and wait for them; no daemon's loop is here")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{Parser, Subcommand};

mod bench;
mod build_ebpf;
mod ci;
mod content;
mod demo;
mod dist;
#[cfg(test)]
mod documented_code;
mod interrupt;
mod layers;
mod packages;
mod profile;
mod test;
mod vm;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Put each way of reloading HAProxy under the same load, and compare what each costs
    Bench(bench::Arguments),
    /// Build the eBPF programs into the files that the daemon includes
    BuildEbpf(build_ebpf::Arguments),
    /// Run everything that a change must pass before it lands: lints, documentation, all tests and the demo
    Ci(ci::Arguments),
    /// Reload and kill a real HAProxy under load, and show how many connections were lost
    Demo(demo::Arguments),
    /// Build a static reloader, for machines without a compiler or with an older libc
    Dist(dist::Arguments),
    /// Show which room of the product uses which, and check it against the layers
    Layers(layers::Arguments),
    /// Run the tests; the integration tests need root
    Test(test::Arguments),
    /// Boot a distribution's kernel in a virtual machine and run a program in it
    Vm(vm::Arguments),
}

/// The workspace's root.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap_or_else(|_| "..".into())
}

/// The path of this program, read at its start: cargo may replace the file later.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| std::env::current_exe().expect("the kernel names the program of a process"))
}

fn main() -> ExitCode {
    program();
    let Err(error) = run(Arguments::parse().task) else { return ExitCode::SUCCESS };
    eprintln!("xtask: {error:#}");
    ExitCode::FAILURE
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Ci(arguments) => ci::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::BuildEbpf(arguments) => build_ebpf::run(&arguments),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Dist(arguments) => dist::run(&arguments),
        Task::Layers(arguments) => layers::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Vm(arguments) => vm::run(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use reloader_tests::documents;

    use super::*;

    /// In blocks and between backticks.
    fn command_lines(text: &str) -> impl Iterator<Item = &str> {
        let begins = text.match_indices("cargo xtask ").map(|(at, _)| &text[at..]);
        begins.map(|rest| rest.split(['`', '\n', '#', ')', ';', ',']).next().unwrap_or(rest).trim())
    }

    #[test]
    fn every_task_in_the_documents_is_one() {
        let mut count = 0;
        for page in documents::pages() {
            for line in command_lines(&documents::text(&page)) {
                let words = line.split_whitespace().skip(1);
                if let Err(error) = Arguments::try_parse_from(words) {
                    let is_help = error.kind() == clap::error::ErrorKind::DisplayHelp;
                    assert!(is_help, "{page}: {line}\n{error}");
                }
                count += 1;
            }
        }
        assert!(count > 20, "{count} tasks were found");
    }
}
