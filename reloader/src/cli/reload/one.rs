//! Asks the daemon to reload one service, and shows its answer.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::json;

use super::arguments::Arguments;
use crate::cli::{CliError, Context, Exit, client, output};
use crate::daemon::protocol::{Reply, Request};
use crate::plan::{self, Planned};
use crate::receipt::{Outcome, Receipt};

/// How long to wait until the daemon begins to reload.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// The reload of one service.
pub(super) struct Reload<'a> {
    pub(super) context: &'a Context,
    pub(super) arguments: &'a Arguments,
    /// The service's name, where it is one of all. It then stands in each line.
    pub(super) one_of_all: Option<&'a str>,
}

impl Reload<'_> {
    pub(super) fn run(&self) -> Result<Exit, CliError> {
        let reply = self.ask()?;
        match reply {
            Reply::Receipt { receipt, not_stored, serving } => {
                if let Some(reason) = not_stored {
                    eprintln!("reloader: {}{reason}", self.label());
                }
                self.show(&receipt)?;
                Ok(exit_for(receipt.result, serving))
            }
            Reply::Plan { plan, serving, refused, checked_by, notes } => {
                let check = ConfigurationCheck { refused, by: checked_by.unwrap_or_default(), notes };
                self.show_plan(&plan, serving, &check)
            }
            other => Err(client::unexpected(&other)),
        }
    }

    fn ask(&self) -> Result<Reply, CliError> {
        let Reload { context, arguments, one_of_all } = self;
        let shows_progress = !context.quiet && !arguments.format.json && std::io::stderr().is_terminal();
        let progress = |phase: &str| {
            if shows_progress {
                eprint!("\r\x1b[K{}{phase} ...", self.label());
                let _ = std::io::stderr().flush();
            }
        };
        let request = Request::Reload {
            dry_run: arguments.dry_run,
            service: one_of_all.map(str::to_owned).or_else(|| arguments.service.clone()),
            comment: arguments.comment.clone(),
        };
        let timeout = arguments.timeout.map_or(client::Timeout::UntilBegun(BEGIN_TIMEOUT), client::Timeout::After);
        let reply = client::ask(context, &request, timeout, progress);
        if shows_progress {
            eprint!("\r\x1b[K");
        }
        reply
    }

    /// The beginning of each line about the service.
    pub(super) fn label(&self) -> String {
        self.one_of_all.map_or_else(String::new, |name| format!("{name}: "))
    }

    fn show(&self, receipt: &Receipt) -> Result<(), CliError> {
        if self.arguments.format.json {
            return output::json(receipt);
        }
        let label = self.label();
        if let Some(reason) = &receipt.reason {
            eprintln!("reloader: {label}{reason}");
        }
        for line in &receipt.server_log {
            eprintln!("  {line}");
        }
        for note in &receipt.notes {
            eprintln!("note: {label}{note}");
        }
        if !self.context.quiet {
            output::print(&format!("{label}{}: {}\n", output::outcome(receipt.result), output::receipt_line(receipt)))?;
        }
        Ok(())
    }

    fn show_plan(&self, plan: &[Planned], serving: bool, check: &ConfigurationCheck) -> Result<Exit, CliError> {
        let ConfigurationCheck { refused, notes, .. } = check;
        let label = self.label();
        if self.arguments.format.json {
            let mut printed = json!({ "plan": plan, "serving": serving, "refused": refused, "notes": notes });
            if let Some(name) = self.one_of_all {
                printed["service"] = name.into();
            }
            output::json(&printed)?;
        } else {
            notes.iter().for_each(|note| eprintln!("note: {label}{note}"));
            output::print(&self.plan_text(plan, serving))?;
        }
        if !refused.is_empty() {
            eprintln!("reloader: {label}{} refuses the configuration on disk: the reload would fail", check.by);
            refused.iter().for_each(|line| eprintln!("  {line}"));
            return Ok(if serving { Exit::Failed } else { Exit::NothingServes });
        }
        Ok(if plan::unproven(plan).is_some() { Exit::Unproven } else { Exit::Done })
    }

    fn plan_text(&self, plan: &[Planned], serving: bool) -> String {
        let label = self.label();
        if plan.is_empty() {
            return format!("{label}{}\n", why_no_plan(serving));
        }
        let row = |planned: &Planned| {
            let rung = output::word(&planned.rung);
            let columns = [planned.address.clone(), rung, planned.why.clone().unwrap_or_default()];
            self.one_of_all.iter().map(|name| (*name).to_owned()).chain(columns).collect()
        };
        output::table(&plan.iter().map(row).collect::<Vec<_>>())
    }
}

fn exit_for(outcome: Outcome, serving: bool) -> Exit {
    match outcome {
        Outcome::Proven => Exit::Done,
        Outcome::Unproven => Exit::Unproven,
        Outcome::Failed if serving => Exit::Failed,
        Outcome::Failed => Exit::NothingServes,
    }
}

/// The server's check of its configuration on disk.
struct ConfigurationCheck {
    /// The server's messages; empty where it accepts the configuration.
    refused: Vec<String>,
    /// The name of the server.
    by: String,
    notes: Vec<String>,
}

/// What an empty plan means. Pure.
fn why_no_plan(serving: bool) -> &'static str {
    match serving {
        true => "no plan: HAProxy has not said which version it is (see the daemon's log)",
        false => "no generation serves, and nothing is in custody: there is nothing to carry over",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_plan_says_that_nothing_serves_only_where_that_is_so() {
        assert!(why_no_plan(false).starts_with("no generation serves"));
        assert!(!why_no_plan(true).contains("serves"));
    }
}
