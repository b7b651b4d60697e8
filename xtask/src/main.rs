//! The project's tasks: `cargo xtask --help`.

use clap::{Parser, Subcommand};

mod bench;
mod build_ebpf;
mod demo;
mod dist;
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
    /// Put each way of reloading HAProxy through the same load, and tell what each costs
    Bench(bench::Arguments),
    /// Build the eBPF programs and put the object where the daemon includes it
    BuildEbpf(build_ebpf::Arguments),
    /// Reload and kill a real HAProxy under load, and show what it cost
    Demo(demo::Arguments),
    /// Build the program statically, for machines without a compiler or with an older libc
    Dist(dist::Arguments),
    /// Run all tests; the integration tests need root
    Test(test::Arguments),
    /// Boot a distribution's kernel in a virtual machine and run a program in it
    Vm(vm::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Bench(arguments) => bench::run(&arguments),
        Task::BuildEbpf(arguments) => build_ebpf::run(&arguments),
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Dist(arguments) => dist::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Vm(arguments) => vm::run(&arguments),
    }
}
