//! `reloader check`

use std::process::{Command, Stdio};

use super::{Context, Exit, Failure};
use crate::haproxy::launch::label;
use crate::haproxy::scan;
use crate::haproxy::version::Version;

pub(super) fn run(context: &Context) -> Result<Exit, Failure> {
    let config = context.config()?;
    let bad = |message: String| Failure::new(Exit::BadConfiguration, message);
    let sources =
        scan::read(&config.haproxy.config).map_err(|error| bad(format!("HAProxy's configuration: {error}")))?;
    if sources.is_empty() {
        return Err(bad(format!("HAProxy's configuration: no .cfg file in {}", label(&config.haproxy.config))));
    }
    Version::of(&config.haproxy.binary).map_err(|error| bad(error.to_string()))?;
    if let Some(refusal) = scan::facts(&sources).refusal() {
        return Err(bad(refusal));
    }
    let mut command = Command::new(&config.haproxy.binary);
    command.arg("-c").args(&config.haproxy.args).stdin(Stdio::null());
    for path in &config.haproxy.config {
        command.arg("-f").arg(path);
    }
    // HAProxy's own lines go where it writes them.
    let status = command.status().map_err(|error| {
        bad(format!("cannot run {}: {error}; set `binary` under [haproxy]", config.haproxy.binary.display()))
    })?;
    if !status.success() {
        return Err(bad("HAProxy refuses its configuration (see above)".into()));
    }
    if !context.quiet {
        eprintln!("reloader's and HAProxy's configuration are valid");
    }
    Ok(Exit::Done)
}
