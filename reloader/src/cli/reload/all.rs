//! `reloader reload --all`: reloads every service, each after those that its key `after` names.

use std::collections::BTreeMap;

use serde_json::json;

use super::arguments::Arguments;
use super::one::Reload;
use crate::cli::{CliError, Context, Exit, client, output};
use crate::config::Config;
use crate::daemon::protocol::{Reply, Request};

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, CliError> {
    let config = context.config()?;
    let running = running_services(context)?;
    let mut stays = BTreeMap::new();
    let mut worst = Exit::Done;
    for name in order(&config, &running) {
        let reload = Reload { context, arguments, one_of_all: Some(&name) };
        // A dry run changes nothing, so no service depends on the outcome of another one.
        let first = config.after(&name).iter().find(|first| !arguments.dry_run && stays.contains_key(*first));
        let result = match first {
            _ if !running.contains(&name) => Err(not_run(&name)),
            Some(first) => Err(left(first, stays[first])),
            None => reload.run(),
        };
        let exit = match result {
            Ok(exit) => exit,
            Err(error) => {
                reload.report(&error)?;
                error.exit
            }
        };
        if !matches!(exit, Exit::Done | Exit::Unproven) {
            stays.insert(name, exit);
        }
        worst = worse(worst, exit);
    }
    Ok(worst)
}

fn running_services(context: &Context) -> Result<Vec<String>, CliError> {
    match client::ask(context, &Request::Status, client::Timeout::After(client::REPLY_TIMEOUT), |_| {})? {
        Reply::Status(status) => Ok(status.all().filter_map(|service| service.service.clone()).collect()),
        other => Err(client::unexpected(&other)),
    }
}

/// The services of the configuration in their order, then those that only the daemon knows.
fn order(config: &Config, running: &[String]) -> Vec<String> {
    let mut order = config.reload_order();
    let unknown: Vec<String> = running.iter().filter(|name| !order.contains(name)).cloned().collect();
    for name in &unknown {
        eprintln!("note: {name}: the configuration that was read has no such service: it is reloaded last");
    }
    order.extend(unknown);
    order
}

/// A service that comes after one whose reload did not succeed.
fn left(first: &str, why: Exit) -> CliError {
    // Where the outcome is only late, nothing has failed so far.
    let exit = if why == Exit::TryAgain { why } else { Exit::Failed };
    CliError::new(exit, format!("it was not reloaded, because the reload of {first} did not succeed"))
}

fn not_run(name: &str) -> CliError {
    let remedy = "restart the daemon, which leaves all servers up, or name the daemon's configuration with --config";
    CliError::new(Exit::Failed, format!("the daemon was started without {name}, and does not run it; {remedy}"))
}

impl Reload<'_> {
    /// Shows why a service has no receipt.
    fn report(&self, error: &CliError) -> Result<(), CliError> {
        let CliError { exit, message } = error;
        eprintln!("reloader: {}{message}", self.label());
        match self.arguments.format.json {
            true => output::json(&json!({
                "service": self.one_of_all, "result": null, "reason": message, "exit-status": exit.number()
            })),
            false => Ok(()),
        }
    }
}

/// The status that says more about what is wrong.
fn worse(one: Exit, other: Exit) -> Exit {
    if severity(other) > severity(one) { other } else { one }
}

/// How bad a status is. A port that is not served is the worst, because clients are refused.
fn severity(exit: Exit) -> u8 {
    match exit {
        Exit::Done => 0,
        Exit::Unproven => 1,
        Exit::TryAgain => 2,
        Exit::Failed => 3,
        Exit::NothingServes => 5,
        // The service could not be asked.
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_status_is_the_one_that_harms_clients_most() {
        let ascending = [Exit::Done, Exit::Unproven, Exit::TryAgain, Exit::Failed, Exit::NoDaemon, Exit::NothingServes];
        for (place, one) in ascending.into_iter().enumerate() {
            for other in &ascending[place..] {
                assert_eq!((worse(one, *other), worse(*other, one)), (*other, *other));
            }
        }
    }
}
