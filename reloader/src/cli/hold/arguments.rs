use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::{exit, output};
use crate::config;
use crate::gate::hold::Backend;

/// The help of `--listen`. In a doc comment, rustdoc would take the brackets for a link.
const LISTEN: &str = "What to hold: ADDR:PORT, [ADDR]:PORT, NAME:PORT, or :PORT for every address. Repeatable";

/// Arguments of `reloader hold`.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HOLD)]
pub(in crate::cli) struct Arguments {
    /// What to hold.
    #[arg(long, required = true, value_name = "ADDR:PORT", help = LISTEN)]
    pub(super) listen: Vec<String>,
    /// Gate that holds the SYNs; auto takes eBPF where it is available.
    #[arg(long, value_name = "GATE", default_value = "auto")]
    backend: Gate,
    /// Longest hold [default: hold.max of the configuration, 5s].
    #[arg(long, value_name = "TIME", value_parser = longest)]
    pub(super) max: Option<Duration>,
    /// Hold in this network namespace; the command runs in the caller's.
    #[arg(long, value_name = "PATH")]
    pub(super) netns: Option<PathBuf>,
    #[command(flatten)]
    pub(super) format: output::Format,
    /// Command that stops one server and starts another. With --json its output goes to standard error.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Gate {
    Auto,
    Ebpf,
    Qdisc,
}

impl Arguments {
    /// The gate; `None` for the best available one.
    pub(super) fn backend(&self) -> Option<Backend> {
        match self.backend {
            Gate::Auto => None,
            Gate::Ebpf => Some(Backend::Ebpf),
            Gate::Qdisc => Some(Backend::Qdisc),
        }
    }
}

fn longest(text: &str) -> Result<Duration, String> {
    match config::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("a hold of 0 would end before it begins".into()),
        parsed => parsed,
    }
}
