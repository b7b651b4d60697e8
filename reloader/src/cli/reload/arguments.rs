//! The arguments of `reloader reload`.

use std::time::Duration;

use crate::cli::output;

/// Arguments of `reloader reload`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// Service to reload [default: haproxy, or the only one].
    #[arg(value_name = "NAME")]
    pub(super) service: Option<String>,
    /// Reload every service in the order of `after`, one after the other. A service waits for those that it names, and stays as it is if one of
    /// them was not reloaded.
    #[arg(long, conflicts_with = "service")]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) format: output::Format,
    /// Print the plan, let the server check its configuration, and change nothing.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Text for the receipt, which says who asked for the reload and why.
    #[arg(long, value_name = "TEXT")]
    pub(super) comment: Option<String>,
    /// How long to wait for the outcome. The reload goes on after it. With --all: of each service [default: 30s until the reload has begun, then as long as it takes].
    #[arg(long, value_name = "TIME", value_parser = crate::config::parse_duration)]
    pub(super) timeout: Option<Duration>,
}
