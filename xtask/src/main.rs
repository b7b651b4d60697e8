//! The project's tasks: `cargo xtask --help`.

use clap::{Parser, Subcommand};

mod build_ebpf;
mod packages;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the eBPF programs and put the object where the daemon includes it
    BuildEbpf(build_ebpf::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::BuildEbpf(arguments) => build_ebpf::run(&arguments),
    }
}
