//! `reloader check`

use super::{Context, Exit, Failure};
use crate::haproxy::check::check_command;
use crate::haproxy::scan;
use crate::haproxy::version::Version;

pub(super) fn run(context: &Context) -> Result<Exit, Failure> {
    let config = context.config()?;
    let bad = |message: String| Failure::new(Exit::BadConfiguration, message);
    scan::load(&config.haproxy.config).map_err(bad)?;
    Version::of(&config.haproxy.binary).map_err(|error| bad(error.to_string()))?;
    // HAProxy's own lines go where it writes them.
    let status = check_command(&config.haproxy).status().map_err(|error| {
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
